# SPDX-License-Identifier: Apache-2.0
"""mmsegmentation's Python configs as plain values: the syntax tree is read, nothing is ever executed."""

from __future__ import annotations

import ast
import operator
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import ConfigError

_MAX_BYTES = 4 << 20
_MAX_DEPTH = 20
_OPERATORS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_BUILDERS: dict[str, Callable[..., Any]] = {"dict": dict, "list": list, "tuple": tuple}
_REFERENCE = re.compile(r"\{\{\s*_base_\.([A-Za-z0-9_.]+)\s*\}\}")
_MAX_RESULT = 1_000_000
_MAX_ITEMS = 1000


def read_python_config(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The top-level values of a config file, with the files in ``_base_`` merged below them.

    Raises:
        ConfigError: unreadable, or something that is not plain data; file and line are named.
    """
    return _read_file(Path(path), 0)


def read_python_text(text: str, where: str = "config") -> dict[str, Any]:
    """The same for a text without ``_base_``, such as a checkpoint carries."""
    return _evaluate_module(text, where, {})


def _read_file(path: Path, depth: int) -> dict[str, Any]:
    if depth > _MAX_DEPTH:
        raise ConfigError(f"{path}: _base_ files go more than {_MAX_DEPTH} deep; do they include each other?")
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ConfigError(f"{path}: larger than {_MAX_BYTES} bytes, this is not a config")
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such config file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as a text file ({error})") from error
    bases = _find_bases(text, str(path))
    inherited: dict[str, Any] = {}
    for base in bases:
        if "::" in base:
            raise ConfigError(
                f"{path}: _base_ {base!r} is in another package; dump the whole config and give that file"
            )
        inherited = merge(inherited, _read_file(path.parent / base, depth + 1))
    values = _evaluate_module(text, str(path), inherited)
    values.pop("_base_", None)
    return merge(inherited, values)


def merge(base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """``change`` over ``base``, dict by dict; a dict with ``_delete_=True`` replaces instead."""
    merged = dict(base)
    for key, value in change.items():
        if isinstance(value, dict):
            value = dict(value)
            replace = value.pop("_delete_", False)
            below = merged.get(key)
            value = merge(below if isinstance(below, dict) and not replace else {}, value)
        merged[key] = value
    return merged


def _find_bases(text: str, where: str) -> list[str]:
    for statement in _parse(text, where).body:
        if isinstance(statement, ast.Assign) and _target(statement) == "_base_":
            value = _value(statement.value, {}, where)
            return [value] if isinstance(value, str) else list(value)
    return []


def _evaluate_module(text: str, where: str, inherited: dict[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for statement in _parse(text, where).body:
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
            continue  # a docstring
        if isinstance(statement, (ast.Import, ast.ImportFrom)):
            continue  # harmless by itself: a name that comes from it is an error where it is used
        if isinstance(statement, ast.Delete):
            for target in statement.targets:
                values.pop(target.id if isinstance(target, ast.Name) else "", None)
            continue
        name = _target(statement) if isinstance(statement, ast.Assign) else None
        if name is None or not isinstance(statement, ast.Assign):
            raise _refusal(statement, where, "only `name = value` lines can be read")
        values[name] = _resolve(_value(statement.value, values, where), inherited, where)
    return values


def _parse(text: str, where: str) -> ast.Module:
    # Unquoted {{ _base_.x }} is not Python; the quoted form is what the values hold after this.
    quoted = re.sub(r"(?<!['\"])\{\{\s*(_base_\.[A-Za-z0-9_.]+)\s*\}\}(?!['\"])", r"'{{ \1 }}'", text)
    try:
        return ast.parse(quoted)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ConfigError(f"{where}: not a Python config ({error})") from error


def _target(statement: ast.Assign) -> str | None:
    target = statement.targets[0]
    return target.id if len(statement.targets) == 1 and isinstance(target, ast.Name) else None


def _value(node: ast.expr, names: dict[str, Any], where: str) -> Any:
    match node:
        case ast.Constant():
            return node.value
        case ast.List():
            return [_value(item, names, where) for item in node.elts]
        case ast.Tuple():
            return tuple(_value(item, names, where) for item in node.elts)
        case ast.Set():
            return {_value(item, names, where) for item in node.elts}
        case ast.Dict():
            return _dict(node, names, where)
        case ast.Name() if node.id in names:
            return names[node.id]
        case ast.UnaryOp(op=ast.USub()):
            return _attempt(node, where, operator.neg, _value(node.operand, names, where))
        case ast.BinOp() if type(node.op) in _OPERATORS:
            return _binary(node, names, where)
        case ast.Subscript():
            return _attempt(
                node, where, operator.getitem, _value(node.value, names, where), _value(node.slice, names, where)
            )
        case ast.JoinedStr():
            return "".join(_format_part(part, names, where) for part in node.values)
        case ast.ListComp(generators=[ast.comprehension(target=ast.Name(id=name), ifs=[])]):
            items = _value(node.generators[0].iter, names, where)
            nested = any(isinstance(inner, ast.ListComp) for inner in ast.walk(node.elt))
            if not isinstance(items, (list, tuple)) or len(items) > _MAX_ITEMS or nested:
                raise _refusal(node, where, "only comprehensions over short lists can be read")
            return [_value(node.elt, {**names, name: item}, where) for item in items]
        case ast.Call(func=ast.Name(id=name)) if name in _BUILDERS:
            return _call(node, name, names, where)
    text = ast.unparse(node)
    raise _refusal(node, where, f"{text[:60]!r} is not plain data")


def _dict(node: ast.Dict, names: dict[str, Any], where: str) -> dict[Any, Any]:
    result: dict[Any, Any] = {}
    for key, item in zip(node.keys, node.values, strict=True):
        value = _value(item, names, where)
        if key is None:
            _attempt(node, where, result.update, value)
        else:
            result[_value(key, names, where)] = value
    return result


def _call(node: ast.Call, name: str, names: dict[str, Any], where: str) -> Any:
    positional = [_value(item, names, where) for item in node.args]
    keywords: dict[str, Any] = {}
    for keyword in node.keywords:
        value = _value(keyword.value, names, where)
        if keyword.arg is None:
            _attempt(node, where, keywords.update, value)
        else:
            keywords[keyword.arg] = value
    return _attempt(node, where, _BUILDERS[name], *positional, **keywords)


def _binary(node: ast.BinOp, names: dict[str, Any], where: str) -> Any:
    left, right = _value(node.left, names, where), _value(node.right, names, where)
    # "a" * 10**9 and [0] * 10**9 would fill the memory.
    if isinstance(node.op, ast.Mult) and any(hasattr(side, "__len__") for side in (left, right)):
        sizes = [len(side) if hasattr(side, "__len__") else side for side in (left, right)]
        if not all(isinstance(size, int) for size in sizes) or sizes[0] * sizes[1] > _MAX_RESULT:
            raise _refusal(node, where, "the repetition is too long")
    return _attempt(node, where, _OPERATORS[type(node.op)], left, right)


def _attempt(node: ast.expr, where: str, function: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
    try:
        return function(*arguments, **keywords)
    except (TypeError, ValueError, KeyError, IndexError, ArithmeticError, AttributeError) as error:
        raise _refusal(node, where, f"cannot be computed ({error})") from error


def _format_part(part: ast.expr, names: dict[str, Any], where: str) -> str:
    if isinstance(part, ast.FormattedValue):
        if part.format_spec is not None or part.conversion != -1:
            raise _refusal(part, where, "format specifications in f-strings cannot be read")
        return str(_value(part.value, names, where))
    return str(_value(part, names, where))


def _resolve(value: Any, inherited: dict[str, Any], where: str) -> Any:
    """Put inherited values where the text says ``{{_base_.name}}``."""
    if isinstance(value, dict):
        return {key: _resolve(item, inherited, where) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_resolve(item, inherited, where) for item in value)
    found = _REFERENCE.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        return value
    current: Any = inherited
    for key in found[1].split("."):
        if not isinstance(current, dict) or key not in current:
            raise ConfigError(f"{where}: {value} refers to something that the _base_ files do not define")
        current = current[key]
    return current


def _refusal(node: ast.stmt | ast.expr, where: str, reason: str) -> ConfigError:
    return ConfigError(
        f"{where}, line {node.lineno}: {reason}; configs are read as data and never executed. "
        "Dump the resolved config with mmsegmentation's print_config tool and give that file"
    )
