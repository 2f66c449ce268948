# SPDX-License-Identifier: Apache-2.0
"""``deeplab-bench peers``: other projects' DeepLab beside ours, same weights, same image, outputs compared first."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

from deeplab_infer.commands.cli import make_console, parse_size
from deeplab_infer.errors import DeepLabError

from ..measuring.campaign import Campaign, Task
from ..measuring.options import add_options, resolve_device
from ..measuring.processes import KEEP_MEMORY
from ..measuring.rounds import combine_rounds, spread_of_rounds
from ..records import Record, is_error, quoted
from ..running.text import markdown_table
from .jobs import (
    DEFAULTS,
    INSTALL,
    OURS,
    Job,
    Network,
    PeerBench,
    Result,
    Way,
    by_hand_ways,
    find_network,
    make_jobs,
    own_ways,
    peer_ways,
)
from .measuring import LEAST_AGREEMENT, MOST_DIFFERENCE
from .models import PEERS

# A peer's time is compared with our best of its class.
_CLASSES = {"fp32": "32 bits", "tf32": "tf32", "fp16": "16 bits", "bf16": "16 bits", "int8": "8 bits", "fp8": "8 bits"}
_STEPS = ("forward", "end_to_end")
_START_S = 20.0  # a process with torch and a peer in it, and the comparison of the outputs
_COMPILE_S = 60.0
_UNSTEADY = 0.1  # rounds further apart than this are worth a note
_EPILOG = """\
networks: a config of mmsegmentation, smp:ARCHITECTURE:ENCODER or torchvision:BUILDER, for example
  deeplab-bench peers --python .venv-peers/bin/python
  deeplab-bench peers deeplabv3plus_r50-d8_4xb2-40k_cityscapes-769x769 --size 1025x2049 --device cuda
  deeplab-bench peers smp:DeepLabV3Plus:resnet50 torchvision:deeplabv3_resnet50 --size 512x1024 --ours torch:fp16
"""


def add_parser(commands: Any) -> None:
    """The subcommand's options."""
    parser = commands.add_parser(
        "peers",
        help="mmsegmentation, segmentation_models_pytorch and torchvision beside ours",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="networks (default: R-18 on a CPU, R-50, R-18, R-101)")
    parser.add_argument("--size", metavar="HxW", help="of the image (default: the config's on a GPU, 256x512 on a CPU)")
    parser.add_argument("--python", metavar="PATH", help="interpreter that has the peers (default: this one)")
    parser.add_argument(
        "--peer", action="append", default=[], choices=list(PEERS),
        help="without NAME: the default networks of this peer (repeatable; default: mmsegmentation)",
    )  # fmt: skip
    parser.add_argument(
        "--ours", action="append", default=[], metavar="BACKEND:PRECISION",
        help=f"how ours runs (repeatable; default: all that this machine has); backends: {', '.join(OURS)}",
    )  # fmt: skip
    parser.add_argument(
        "--by-hand", action="store_true",
        help="also the peer's network exported by torch.onnx.export to ONNX Runtime and OpenVINO (CPU)",
    )  # fmt: skip
    parser.add_argument("--end-to-end", action="store_true", help="time that step alone, not the network alone too")
    parser.add_argument(
        "--wait-quiet", type=float, default=0.0, metavar="S",
        help="before each timing wait up to S seconds until other processes leave the processors alone",
    )  # fmt: skip
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out on both sides")
    parser.add_argument("--rounds", type=int, default=3, help="alternating rounds (default: 3)")
    add_options(parser, 2.0, "a step in a round", "of time; what does not fit is left out")


def run(arguments: argparse.Namespace) -> int:
    """Compare, measure, print, write."""
    _check(arguments)
    device = resolve_device(arguments.device)
    networks = _networks(arguments, device)
    campaign = Campaign("peers", arguments.budget, arguments.json)  # finds out about a bad path before minutes of work
    with PeerBench(arguments.python or sys.executable) as bench:
        there = bench.look(sorted({network.peer for network in networks}))
        networks = _importable(networks, there["missing"], campaign)
        jobs = _plan(networks, device, there, arguments, campaign)
        campaign.protocol = _protocol(jobs, there)
        campaign.run([_task(bench, job) for job in jobs], make_console(stderr=True, quiet=arguments.quiet))
    campaign.results = combine_rounds(campaign.results)
    record = campaign.record()
    _print(record, device, arguments)
    if not record.complete:
        return 130
    return 1 if any(is_error(result) for result in record.results) else 0


# -- what


def _check(arguments: argparse.Namespace) -> None:
    if arguments.seconds <= 0 or arguments.rounds < 1:
        raise DeepLabError("--seconds must be positive and --rounds at least 1")
    if arguments.threads is not None and arguments.threads < 1:
        raise DeepLabError(f"--threads must be at least 1, got {arguments.threads}")
    if arguments.by_hand and arguments.device == "cuda":
        raise DeepLabError("--by-hand exports to a CPU's runtimes; use --device cpu")
    if arguments.names and arguments.peer:
        raise DeepLabError("--peer chooses the default networks of a peer; give either networks or --peer")


def _networks(arguments: argparse.Namespace, device: str) -> list[Network]:
    size = parse_size(arguments.size) if arguments.size else None
    peers = arguments.peer or ["mmsegmentation"]
    names = arguments.names or [name for peer in peers for name in DEFAULTS[device][peer]]
    return [find_network(name, device, size) for name in dict.fromkeys(names)]


def _importable(networks: list[Network], missing: dict[str, str], campaign: Campaign) -> list[Network]:
    """Networks whose peer is there; an error where none is."""
    there = [network for network in networks if network.peer not in missing]
    if not there:
        raise DeepLabError(f"{'; '.join(dict.fromkeys(missing.values()))}. {INSTALL}")
    for network in networks:
        if network.peer in missing:
            campaign.leave_out(network.name, missing[network.peer])
    return there


def _plan(
    networks: list[Network], device: str, there: dict[str, Any], arguments: argparse.Namespace, campaign: Campaign
) -> list[Job]:
    compiled = not arguments.no_compile
    ours, left_out = own_ways(arguments.ours, device, compiled=compiled)
    ways: dict[str, list[Way]] = {}
    for network in networks:
        theirs, more = peer_ways(network.peer, device, compiled=compiled, torch_tensorrt=there["torch_tensorrt"])
        hand, without = by_hand_ways(network.peer, network.mode) if arguments.by_hand else ([], [])
        ways[network.name] = [*theirs, *hand, *ours]
        left_out += [one for one in (*more, *without) if one not in left_out]
    for one in left_out:
        campaign.leave_out(**one)
    threads = arguments.threads or len(os.sched_getaffinity(0))
    steps = ["end_to_end"] if arguments.end_to_end else list(_STEPS)
    return make_jobs(
        networks,
        ways,
        arguments.rounds,
        device=device,
        threads=threads,
        seconds=arguments.seconds,
        steps=steps,
        wait_quiet_s=arguments.wait_quiet,
    )


def _task(bench: PeerBench, job: Job) -> Task:
    name = f"{job['name']}: {job['path']}, round {job['round'] + 1}"
    compiles = job.get("compile") is not None or job.get("compiled", False)
    seconds = _START_S + 2.5 * job["seconds"] + (_COMPILE_S if compiles else 0.0)
    return Task(name, seconds, lambda limit: bench.measure_one(job, limit))


# -- output


def _headers(device: str, peer: str) -> list[str]:
    times = ["forward, ms", "end to end, ms"] if device == "cuda" else []
    ratios = ["forward, x our best", "end to end, x our best", f"speed-up over {peer} fp32 eager"]
    return ["path", *times, *ratios, "labels agree", "logits differ", "rounds"]


def _cells(result: Result, results: Sequence[Result], device: str) -> list[str]:
    headers = _headers(device, result["peer"])
    if is_error(result):
        return [result["path"], f"failed: {result['error']}", *["-"] * (len(headers) - 2)]
    cells = [result["path"]]
    if device == "cuda":
        times = [result["steps"].get(step) for step in _STEPS]
        cells += ["-" if time is None else f"{time['median_ms']:.2f}" for time in times]
    for step in _STEPS:
        best = _our_best(result, results, step)
        cells.append("-" if best is None else f"{result['steps'][step]['median_ms'] / best:.2f}")
    eager = next((r for r in results if r["path"] == f"{r['peer']} fp32 eager" and not is_error(r)), None)
    cells.append("-" if eager is None else f"{quoted(eager)['median_ms'] / quoted(result)['median_ms']:.2f}x")
    spread = f"{result['rounds']}, {spread_of_rounds(result):.0%} apart"
    return [*cells, f"{result['agreement']:.3%}", f"{result['logits_difference']:.1e}", spread]


def _our_best(result: Result, results: Sequence[Result], step: str) -> float | None:
    """Our lowest median in the same class of precision."""
    kind = _CLASSES[result["precision"]]
    times = [
        float(other["steps"][step]["median_ms"])
        for other in results
        if other["side"] == "ours"
        and not is_error(other)
        and _CLASSES[other["precision"]] == kind
        and step in other["steps"]
        and step in result["steps"]
    ]
    return min(times, default=None)


def _print(record: Record, device: str, arguments: argparse.Namespace) -> None:
    results = record.results
    for name in dict.fromkeys(result["name"] for result in results):
        mine = [result for result in results if result["name"] == name]
        first = mine[0]
        title = f"{name}, {first['height']} x {first['width']}, {first['mode']}, {device}"
        headers, cells = _headers(device, first["peer"]), [_cells(result, mine, device) for result in mine]
        if arguments.markdown:
            print(f"{title}\n\n{markdown_table(headers, cells)}\n")
        else:
            _show(title, headers, cells)
    print(
        "x our best: how many times as long as our fastest way in that precision (1.00: it is ours); labels agree and\n"
        "logits differ: against the peer in float32, of the image's pixels and of the logits' range"
    )
    for result in results:
        if not is_error(result) and spread_of_rounds(result) > _UNSTEADY:
            apart = spread_of_rounds(result)
            print(f"{result['name']}, {result['path']}: rounds differ by {apart:.0%}, the machine was restless")
    for one in record.left_out:
        print(f"left out: {one['name']}: {one['reason']}")


def _show(title: str, headers: list[str], cells: list[list[str]]) -> None:
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for name in headers:
        table.add_column(name, justify="left" if name == "path" else "right", overflow="fold")
    for line in cells:
        table.add_row(*line)
    make_console().print(table)


def _protocol(jobs: Sequence[Job], there: dict[str, Any]) -> dict[str, Any]:
    """How it was measured, for the record."""
    return {
        "weights": "the peer's network with random weights, batch normalisation and classifier fitted to one generated "
        "street; its checkpoint is what ours loads",
        "image": "one generated street at the network's input size, so that neither side resizes it",
        "forward": "uint8 pixels in host memory to float32 logits at the network's stride in host memory",
        "end_to_end": "uint8 pixels in host memory to labels in host memory, by the peer's own normalisation, resizes "
        "and argmax (mmsegmentation: model.test_step) and by Segmenter.predict",
        "processes": "every way in a process of its own, in alternating rounds; a step's figure is its best round",
        "float32": f"timed only if {LEAST_AGREEMENT:.2%} of the labels agree and logits differ by less than "
        f"{MOST_DIFFERENCE:g} of their range",
        "tf32": "off in float32",
        "cudnn_benchmark": "torch's default (off)",
        "peers_in_low_precision": "network cast to the type, channels last",
        "torchvision": "without the auxiliary head",
        "threads": jobs[0]["threads"],
        "rounds": max(job["round"] for job in jobs) + 1,
        "seconds": jobs[0]["seconds"],
        "environment": KEEP_MEMORY,
        "default_allocator": "that way alone runs without these variables, as the peer's users start it",
        "by_hand": "the peer's network traced at this size, torch.onnx.export (opset 17), float input normalised by "
        "OpenCV in place; resize and argmax in the graph or by OpenCV and numpy, whichever the first round finds "
        "faster; int8: NNCF's defaults, the rest in OpenVINO's default type",
        "peer_python_version": there["python"],
        "peer_versions": there["versions"],
    }
