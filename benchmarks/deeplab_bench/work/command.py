# SPDX-License-Identifier: Apache-2.0
"""``deeplab-bench macs``: multiply-adds and memory traffic of configs, beside what was published."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deeplab_infer.commands.cli import make_console, parse_size
from deeplab_infer.configs import ModelConfig, ReferenceRow, load_config, reference_rows
from deeplab_infer.errors import DeepLabError
from deeplab_infer.files import require_writable_dir
from deeplab_infer.preprocess import network_size
from deeplab_infer.runtime.windows import place_windows

from ..records import make_record, now, write_record
from ..running.text import markdown_table
from .image_sizes import IMAGE_SIZES

if TYPE_CHECKING:
    from deeplab_infer.optimize.work import Stage

    from .counting import PaperCount
    from .paper import Comparison

Size = tuple[int, int]
_SIZE = (512, 1024)
_TOLERANCE = 0.06  # the published table's figures are rounded to 0.1
_NOT_THE_NETWORK = ("name", "checkpoint", "checkpoint_sha256", "crop_size")
_NOTE = (
    "GMAC: 1e9 multiply-adds of an image, all windows; space to batch: atrous convolutions as the papers' code ran "
    "them;\nprofiler: as the papers printed them; MB: read and written at {bytes} bytes a number, eager: every "
    "operation a kernel of its own,\nfused: normalisation, activation and addition in the convolution before them; "
    "labels by plain torch (float32, int64)"
)


def add_parser(commands: Any) -> None:
    """The subcommand's options."""
    parser = commands.add_parser("macs", help="multiply-adds and memory traffic, counted on the real modules")
    parser.add_argument("configs", nargs="*", metavar="CONFIG", help="names or files (default: the published table)")
    parser.add_argument("--size", metavar="HxW", help="of the image (default: the dataset's typical, else 512x1024)")
    parser.add_argument("--element-bytes", type=int, default=2, choices=(1, 2, 4), help="a number's size (default: 2)")
    parser.add_argument("--paper", action="store_true", help="the papers' and the model zoo's figures, checked")
    parser.add_argument("--json", metavar="FILE", help="write everything")
    parser.add_argument("--markdown", action="store_true", help="print Markdown instead of tables")


def run(arguments: argparse.Namespace) -> int:
    """PaperCount, print, write; 1 where a published figure deviates."""
    if arguments.paper and (arguments.configs or arguments.size):
        raise DeepLabError("--paper counts the papers' own networks and sizes; give it alone, or leave it out")
    size = parse_size(arguments.size) if arguments.size else None
    configs = [load_config(name) for name in arguments.configs]
    try:
        from . import counting  # noqa: F401  (says early that torch is missing)
    except ImportError as error:
        raise DeepLabError(
            f"deeplab-bench macs needs torch ({error}); run: pip install 'deeplab-infer[bench]'"
        ) from error
    if arguments.json:
        require_writable_dir(Path(arguments.json).parent)
    started = now()
    results = _paper(arguments) if arguments.paper else _count_all(configs, size, arguments)
    if arguments.json:
        protocol = {"element_bytes": arguments.element_bytes, "method": "forward pass on torch's meta device"}
        write_record(arguments.json, make_record("macs", results, started, protocol=protocol))
    return 1 if any(result["verdict"] == "deviates" for result in results) else 0


def count_config(
    config: ModelConfig, size: Size, element_bytes: int = 2, counts: dict[Any, PaperCount] | None = None
) -> dict[str, Any]:
    """A result of kind ``macs`` of an image: sums over its windows.

    Args:
        config: with its test mode.
        size: (height, width) of the image.
        element_bytes: of activations and weights.
        counts: what was counted before; added to.
    """
    network = network_size(*size, config.test_scale)
    windows = Counter([network])
    if config.test_mode == "slide":
        assert config.window is not None and config.window_stride is not None
        windows = Counter(w.size for w in place_windows(*network, config.window, config.window_stride))
    counts = {} if counts is None else counts
    passes = [(_cached(config, window, element_bytes, counts), times) for window, times in windows.items()]

    def total(value: Callable[[PaperCount], float]) -> float:
        return sum(value(one) * times for one, times in passes) / 1e9

    return {
        "key": f"{config.name}|{size[0]}x{size[1]}",
        "name": config.name,
        "height": size[0],
        "width": size[1],
        "network": list(network),
        "window": list(next(iter(windows))) if config.test_mode == "slide" else None,
        "windows": windows.total(),
        "stages": _stages([(one.stages(), times) for one, times in passes]),
        "dense_gmacs": total(lambda one: one.dense),
        "space_to_batch_gmacs": total(lambda one: one.space_to_batch),
        "profiler_gmacs": total(lambda one: one.profiler_pass) + passes[0][0].profiler_graph / 1e9,
        "mb_eager": total(lambda one: one.bytes_eager) * 1e3,
        "mb_fused": total(lambda one: one.bytes_fused) * 1e3,
        "weights_m": passes[0][0].weights / 1e6,
    }


def typical_image(config: ModelConfig) -> Size:
    """(height, width) of an image of a published config's dataset, or 512x1024."""
    return IMAGE_SIZES[config.dataset.name] if _published(config) else _SIZE


def _published(config: ModelConfig) -> ReferenceRow | None:
    return next((row for row in reference_rows() if row.name == config.name), None)


def _cached(config: ModelConfig, size: Size, element_bytes: int, counts: dict[Any, PaperCount]) -> PaperCount:
    from .counting import count

    network = {name: value for name, value in config.to_dict().items() if name not in _NOT_THE_NETWORK}
    key = (json.dumps(network, sort_keys=True), size, element_bytes)
    if key not in counts:
        counts[key] = count(config, *size, element_bytes=element_bytes, post=True)
    return counts[key]


def _stages(passes: list[tuple[list[Stage], int]]) -> list[dict[str, Any]]:
    """Sums over the windows; weights are there once."""
    return [
        {
            "name": same[0][0].name,
            "gmacs": sum(stage.dense * times for stage, times in same) / 1e9,
            "mb_eager": sum(stage.bytes_eager * times for stage, times in same) / 1e6,
            "mb_fused": sum(stage.bytes_fused * times for stage, times in same) / 1e6,
            "weights_m": same[0][0].weights / 1e6,
        }
        for same in zip(*([(stage, times) for stage in stages] for stages, times in passes), strict=True)
    ]


def _count_all(configs: list[ModelConfig], size: Size | None, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    chosen = configs or [load_config(row.name) for row in reference_rows() if row.method == "DeepLabV3+"]
    console = make_console(stderr=True, quiet=arguments.quiet)
    counts: dict[Any, PaperCount] = {}
    results = []
    for config in chosen:
        image = size or typical_image(config)
        with console.status(f"counting {config.name}"):
            result = count_config(config, image, arguments.element_bytes, counts)
        results.append({**result, **_against_table(config, image, result["dense_gmacs"])})
    if configs:
        for result in results:
            _print_stages(result, arguments)
    else:
        _print_summary(results, arguments)
    print(_NOTE.format(bytes=arguments.element_bytes))
    return results


def _against_table(config: ModelConfig, image: Size, dense: float) -> dict[str, Any]:
    """The published table's figure, which is for the typical image."""
    row = _published(config)
    if row is None or image != typical_image(config):
        return {"published_gmacs": None, "deviation": None, "verdict": "not published"}
    deviation = dense - row.gmacs
    verdict = "agrees" if abs(deviation) < _TOLERANCE else "deviates"
    return {"published_gmacs": row.gmacs, "deviation": deviation, "verdict": verdict}


def _paper(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    from .paper import AGREES, DEVIATES, MISPRINT, NOT_OURS, compare_papers, paper_rows

    with make_console(stderr=True, quiet=arguments.quiet).status("counting the papers' networks"):
        compared = compare_papers(paper_rows())
    titles = ["source", "network", "input", "printed", "dense", "space to batch", "profiler", "deviation", ""]
    _print_table(titles, [_paper_cells(one) for one in compared], "multiply-adds of the papers, 1e9", arguments, left=3)
    verdicts = Counter(one.verdict for one in compared)
    print(", ".join(f"{verdicts[verdict]} {verdict}" for verdict in (AGREES, MISPRINT, NOT_OURS, DEVIATES)))
    for one in compared:
        if one.note:
            print(f"{one.row.source}, {one.row.describe()}, {one.row.printed:.2f}: {one.verdict}: {one.note}")
    return [_paper_result(one) for one in compared]


def _paper_cells(one: Comparison) -> list[str]:
    figures = [_figure(value) for value in (one.dense, one.space_to_batch, one.profiler)]
    deviation = "-" if one.deviation is None else f"{one.deviation:+.3f}"
    size = f"{one.row.height} x {one.row.width}"
    return [one.row.source, one.row.describe(), size, f"{one.row.printed:.2f}", *figures, deviation, one.verdict]


def _paper_result(one: Comparison) -> dict[str, Any]:
    row = one.row
    return {
        "key": f"{row.source}|{row.describe()}|{row.height}x{row.width}",
        "name": row.describe(),
        "source": row.source,
        "height": row.height,
        "width": row.width,
        "windows": len(row.scales) * (2 if row.flip else 1),
        "stages": [],
        "dense_gmacs": one.dense,
        "space_to_batch_gmacs": one.space_to_batch,
        "profiler_gmacs": one.profiler,
        "published_gmacs": row.printed,
        "deviation": one.deviation,
        "verdict": one.verdict,
        "note": one.note,
    }


def _print_stages(result: dict[str, Any], arguments: argparse.Namespace) -> None:
    dense = result["dense_gmacs"]
    cells = [
        [
            stage["name"],
            f"{stage['gmacs']:.2f}",
            f"{stage['gmacs'] / dense:.1%}",
            f"{stage['mb_eager']:.1f}",
            f"{stage['mb_fused']:.1f}",
            f"{stage['weights_m']:.2f}",
        ]
        for stage in result["stages"]
    ]
    totals = [f"{result[name]:.1f}" for name in ("mb_eager", "mb_fused")]
    cells.append(["total", f"{dense:.2f}", "100.0%", *totals, f"{result['weights_m']:.2f}"])
    titles = ["stage", "GMAC", "share", "MB eager", "MB fused", "weights, M"]
    _print_table(titles, cells, f"{result['name']}, {_input(result)}", arguments, left=1)
    counts = [f"{result[f'{name}_gmacs']:.2f} {name.replace('_', ' ')}" for name in ("space_to_batch", "profiler")]
    published = "" if result["published_gmacs"] is None else f"; published: {result['published_gmacs']:.1f}"
    print(f"GMAC in other counts: {', '.join(counts)}{published}\n")


def _print_summary(results: list[dict[str, Any]], arguments: argparse.Namespace) -> None:
    titles = [
        "config",
        "input",
        "GMAC",
        "published",
        "space to batch",
        "profiler",
        "MB eager",
        "MB fused",
        "weights, M",
    ]
    cells = [
        [
            result["name"],
            _input(result),
            f"{result['dense_gmacs']:.1f}",
            "-" if result["published_gmacs"] is None else f"{result['published_gmacs']:.1f}",
            f"{result['space_to_batch_gmacs']:.1f}",
            f"{result['profiler_gmacs']:.1f}",
            f"{result['mb_eager']:.0f}",
            f"{result['mb_fused']:.0f}",
            f"{result['weights_m']:.2f}",
        ]
        for result in results
    ]
    _print_table(titles, cells, "the published DeepLabV3+ table, counted", arguments, left=2)
    for result in results:
        if result["verdict"] == "deviates":
            print(f"{result['name']}: counted {result['dense_gmacs']:.2f}, published {result['published_gmacs']:.1f}")


def _input(result: dict[str, Any]) -> str:
    height, width = result["window"] or result["network"]
    if result["window"] is None:
        return f"{height} x {width}"
    return f"{result['windows']} windows of {height} x {width}"


def _print_table(
    titles: list[str], cells: list[list[str]], title: str, arguments: argparse.Namespace, left: int
) -> None:
    if arguments.markdown:
        print(f"{title}\n\n{markdown_table(titles, cells)}\n")
        return
    from rich.table import Table

    print(title)  # as a table's own title it would be broken to the table's width
    table = Table()
    for index, name in enumerate(titles):
        table.add_column(name, justify="left" if index < left or not name else "right", overflow="fold")
    for line in cells:
        table.add_row(*line)
    make_console().print(table)


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
