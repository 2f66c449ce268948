# SPDX-License-Identifier: Apache-2.0
"""Measurements as a table and as Markdown."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..records import STEPS, Record, Result, fps, is_error, label, quoted

if TYPE_CHECKING:
    from rich.table import Table


def _memory(key: str) -> Callable[[Result], str]:
    def cell(result: Result) -> str:
        value = result.get("memory", {}).get(key)
        return "-" if value is None else f"{value:.0f}"

    return cell


def _step(key: str) -> Callable[[Result], str]:
    return lambda result: f"{result['steps'][key]['median_ms']:.1f}" if key in result["steps"] else "-"


def _energy(result: Result) -> str:
    joules = result.get("energy_j_per_image")
    return "-" if joules is None else f"{joules:.2f}"


def _agreement(result: Result) -> str:
    share = result.get("agreement")
    return "-" if share is None else f"{share:.3%}"


# title, what a result's cell says; the first three and the ratio are in every table
_COLUMNS: tuple[tuple[str, Callable[[Result], str]], ...] = (
    *((title, _step(key)) for key, title in STEPS.items()),
    ("p90", lambda result: f"{quoted(result)['p90_ms']:.1f}"),
    ("p99", lambda result: f"{quoted(result)['p99_ms']:.1f}"),
    ("images/s", lambda result: f"{fps(result):.1f}"),
    ("agreement", _agreement),
    ("J/image", _energy),
    ("host MiB", _memory("host_peak_mib")),
    ("device MiB", _memory("device_peak_mib")),
    ("weights MiB", _memory("weights_mib")),
    ("activations MiB", _memory("activations_mib")),
)
_FIRST = ("model", "runs on", "input", "ratio")


def headers(results: list[Result]) -> list[str]:
    """Column titles: those that any of the results fills."""
    return [*_FIRST, *(title for title, _ in _columns(results))]


def rows(results: list[Result]) -> list[list[str]]:
    """One row a measurement. ``ratio`` is its images a second over the first row's."""
    first = next((fps(result) for result in results if not is_error(result)), None)
    columns = _columns(results)
    return [_row(result, first, columns) for result in results]


def table(results: list[Result], title: str) -> Table:
    """A rich table."""
    from rich.table import Table

    made = Table(title=title, title_justify="left")
    for name in headers(results):
        made.add_column(name, justify="left" if name in _FIRST[:3] else "right", overflow="fold")
    for row in rows(results):
        made.add_row(*row)
    return made


def markdown(results: list[Result]) -> str:
    """The same as a Markdown table."""
    return markdown_table(headers(results), rows(results))


def markdown_table(titles: list[str], cells: list[list[str]]) -> str:
    """Any table as Markdown."""
    lines = [titles, ["---"] * len(titles), *cells]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def notes(record: Record) -> list[str]:
    """What a reader must know beside the figures."""
    said = [
        "times: medians of a batch in ms; images/s: of the last step measured; ratio: of images/s, to the first row"
    ]
    for result in record.results:
        if is_error(result):
            continue
        restless = [STEPS[step] for step, timing in result["steps"].items() if timing["unsteady"]]
        if restless:
            spread = max(timing["spread"] for timing in result["steps"].values())
            said.append(
                f"{label(result)}: the machine was unsteady ({', '.join(restless)}; median deviation up to "
                f"{spread:.0%}), small differences mean nothing"
            )
        said += [f"{label(result)}: {note}" for note in result.get("notes", [])]
    return said + [f"left out: {one['name']}: {one['reason']}" for one in record.left_out]


def _columns(results: list[Result]) -> list[tuple[str, Callable[[Result], str]]]:
    done = [result for result in results if not is_error(result)]
    kept = [(title, cell) for title, cell in _COLUMNS if any(cell(result) != "-" for result in done)]
    return kept or list(_COLUMNS[:1])


def _row(result: Result, first: float | None, columns: list[tuple[str, Callable[[Result], str]]]) -> list[str]:
    size = f"{result['batch']} x {result['height']} x {result['width']}"
    where = f"{result['path']} {result.get('device', '')}".strip()
    if is_error(result):
        return [result["name"], where, size, "failed", result["error"], *["-"] * (len(columns) - 1)]
    windows = f", {result['windows']} windows" if result.get("windows", 1) > 1 else ""
    ratio = f"{fps(result) / first:.2f}x" if first else "-"
    return [result["name"], where, size + windows, ratio, *(cell(result) for _, cell in columns)]
