# SPDX-License-Identifier: Apache-2.0
"""Measurements as a table and as Markdown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.table import Table

SCHEMA_VERSION = 1
_STEPS = (("forward", "forward"), ("post", "forward + post"), ("end_to_end", "end to end"))


def headers() -> list[str]:
    """Column titles of a run."""
    return [
        "model",
        "backend",
        "precision",
        "input",
        "ratio",
        *(title for _, title in _STEPS),
        "p90",
        "p99",
        "fps",
        "host MiB",
        "device MiB",
    ]


def rows(results: list[dict[str, Any]]) -> list[list[str]]:
    """One row a measurement. ``ratio`` is the speed of the slowest-to-quote step over the first row's."""
    reference = next((_quoted(r)["median_ms"] for r in results if "error" not in r), None)
    return [_row(result, reference) for result in results]


def table(results: list[dict[str, Any]], title: str) -> Table:
    """A rich table."""
    made = Table(title=title, title_justify="left")
    for name in headers():
        left = name in ("model", "backend", "precision", "input")
        made.add_column(name, justify="left" if left else "right", overflow="fold")
    for row in rows(results):
        made.add_row(*row)
    return made


def markdown(results: list[dict[str, Any]]) -> str:
    """The same as a Markdown table."""
    return markdown_table(headers(), rows(results))


def markdown_table(titles: list[str], cells: list[list[str]]) -> str:
    """Any table as Markdown."""
    lines = [titles, ["---"] * len(titles), *cells]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def notes(results: list[dict[str, Any]]) -> list[str]:
    """What a reader must know beside the figures."""
    said = ["times: medians in ms; fps: images a second of the last step measured; ratio: against the first row"]
    for result in results:
        restless = [title for key, title in _STEPS if key in result and result[key]["unsteady"]]
        if restless:
            spread = max(result[key]["spread"] for key, _ in _STEPS if key in result)
            said.append(
                f"{_name(result)} on {result.get('backend')}: the machine was unsteady ({', '.join(restless)}; "
                f"median deviation up to {spread:.0%}), small differences mean nothing"
            )
    return said


def _row(result: dict[str, Any], reference: float | None) -> list[str]:
    job = result["job"]
    size = f"{job['batch']} x {job['height']} x {job['width']}"
    if "error" in result:
        return [_name(result), job["backend"], "-", size, f"failed: {result['error']}", *["-"] * (len(headers()) - 5)]
    quoted = _quoted(result)
    times = [f"{result[key]['median_ms']:.1f}" if key in result else "-" for key, _ in _STEPS]
    return [
        _name(result),
        f"{result['backend']} {result['device']}",
        result["precision"],
        size,
        f"{reference / quoted['median_ms']:.2f}x" if reference else "-",
        *times,
        f"{quoted['p90_ms']:.1f}",
        f"{quoted['p99_ms']:.1f}",
        f"{job['batch'] * 1000 / quoted['median_ms']:.1f}",
        f"{result['host_peak_mib']:.0f}",
        "-" if result["device_peak_mib"] is None else f"{result['device_peak_mib']:.0f}",
    ]


def _quoted(result: dict[str, Any]) -> dict[str, Any]:
    """The most complete step that was measured."""
    return next(result[key] for key, _ in reversed(_STEPS) if key in result)


def _name(result: dict[str, Any]) -> str:
    model = result["job"]["model"]
    return Path(model).name if "/" in model else model.removeprefix("random:")
