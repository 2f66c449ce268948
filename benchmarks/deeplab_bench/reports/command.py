# SPDX-License-Identifier: Apache-2.0
"""``deeplab-bench report``: one report from any number of result files, as Markdown, a web page, CSV or JSON."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from deeplab_infer.commands.cli import make_console
from deeplab_infer.errors import DeepLabError
from deeplab_infer.files import atomic_write, require_writable_dir

from .csv_lines import render_csv, render_json
from .reading import Source, find_files, read_source

_TITLE = "Benchmark results"
_STEM = "report"
Render = Callable[[list[Source], str, Path], str]


def add_parser(commands: Any) -> None:
    """The subcommand's options."""
    parser = commands.add_parser("report", help="result files as one report: Markdown, a web page, CSV or JSON")
    parser.add_argument("files", nargs="+", metavar="FILE", help="result file, or folder with result files below it")
    parser.add_argument("-o", "--output", metavar="PATH",
                        help="file, or folder for report.md, report.html, ... (default: print)")  # fmt: skip
    parser.add_argument("--format", choices=(*_FORMATS, "all"),
                        help="default: what the output's suffix says, else md; 'all' needs a folder")  # fmt: skip
    parser.add_argument("--title", default=_TITLE, help=f"of the report (default: {_TITLE})")


def run(arguments: argparse.Namespace) -> int:
    """Read, render, write."""
    targets = _targets(arguments.output, arguments.format)
    taken = {path.resolve() for path in targets.values() if path}
    files = [path for path in find_files(arguments.files) if path.resolve() not in taken]
    if not files:
        raise DeepLabError("the only file given is the report itself; give the result files that --json wrote")
    sources = sorted((read_source(path) for path in files), key=lambda source: source.record.started)
    texts = {}
    for name, path in targets.items():
        texts[name] = _FORMATS[name](sources, arguments.title, path.parent if path else Path())
    console = make_console(stderr=True, quiet=arguments.quiet)
    for name, path in targets.items():
        if path is None:
            print(texts[name], end="")
            continue
        with atomic_write(path, "w") as stream:
            stream.write(texts[name])
        console.print(f"wrote {path}", markup=False, highlight=False, soft_wrap=True)
    return 0


def _targets(output: str | None, chosen: str | None) -> dict[str, Path | None]:
    """Formats to make and where each goes; None: to stdout."""
    if output is None:
        if chosen == "all":
            raise DeepLabError("--format all writes several files; add -o FOLDER")
        return {chosen or "md": None}
    path = Path(output)
    suffix = path.suffix.removeprefix(".").lower()
    is_folder = path.is_dir() or output.endswith("/") or (chosen == "all" and not path.is_file())
    if is_folder:
        folder = require_writable_dir(path)
        names = list(_FORMATS) if chosen == "all" else [chosen or "md"]
        return {name: folder / f"{_STEM}.{name}" for name in names}
    if chosen == "all":
        raise DeepLabError(f"{path} is a file, and --format all writes several; give a folder to -o")
    if chosen is None and suffix not in _FORMATS:
        raise DeepLabError(f"{path}: the suffix is none of {', '.join(_FORMATS)}; add --format")
    require_writable_dir(path.parent)
    return {chosen or suffix: path}


def _markdown(sources: list[Source], title: str, folder: Path) -> str:
    from .markdown import render_markdown
    from .sections import make_document

    return render_markdown(make_document(sources, title, folder))


def _html(sources: list[Source], title: str, folder: Path) -> str:
    from .sections import make_document

    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise DeepLabError(
            f"the plots of a web page need matplotlib ({error}); run: pip install 'deeplab-infer[bench]'"
        ) from error
    from .html_page import render_html

    return render_html(make_document(sources, title, folder))


_FORMATS: dict[str, Render] = {
    "md": _markdown,
    "html": _html,
    "csv": lambda sources, _title, _folder: render_csv(sources),
    "json": lambda sources, _title, _folder: render_json(sources),
}
