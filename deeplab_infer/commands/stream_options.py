# SPDX-License-Identifier: Apache-2.0
"""Options of streams, the same in every command that segments videos and cameras."""

from __future__ import annotations

import argparse
from typing import Any

from ..errors import DataError
from ..streaming.live import Reconnect
from ..streaming.pyav import DECODERS


def add_stream_options(parser: argparse.ArgumentParser) -> None:
    """Add the groups of options that `stream_options` reads, and ``--null``, ``--frames``, ``--no-video``."""
    many = parser.add_argument_group("many images, videos and cameras (docs/streams.md)")
    many.add_argument("-0", "--null", action="store_true", help="names on stdin (source -) end with a NUL byte")
    # Because of "-0" argparse would take every negative number for an option.
    parser._has_negative_number_optionals.clear()
    many.add_argument(
        "--batch", type=int, metavar="N", help="images at once at most (default: 1 on a CPU, else what the model takes)"
    )
    many.add_argument(
        "--latency-ms",
        type=float,
        metavar="MS",
        help="how long an image waits for others of a batch (default: 50 for cameras and stdin, else until it is full)",
    )
    video = parser.add_argument_group("videos and cameras")
    video.add_argument("--no-video", action="store_true", help="no NAME_overlay.mp4")
    video.add_argument(
        "--frames", action="store_true", help="what is written of an image also of every frame, in a folder NAME"
    )
    video.add_argument("--every", type=int, default=1, metavar="N", help="only every Nth frame (default: 1)")
    video.add_argument("--max-frames", type=int, metavar="N", help="stop after N frames of each (default: at the end)")
    video.add_argument(
        "--smooth", type=int, default=0, metavar="K", help="vote on each pixel over the last K frames (default: off)"
    )
    video.add_argument(
        "--decoder", choices=DECODERS, default="auto", help="auto: NVDEC where PyAV and the machine have it (default)"
    )
    camera = parser.add_argument_group("cameras: rtsp://, http://, /dev/video0")
    camera.add_argument("--drop", action="store_true", help="drop the oldest waiting frame when a newer one comes")
    default = Reconnect()
    camera.add_argument(
        "--reconnect",
        type=int,
        default=default.attempts,
        metavar="N",
        help=f"attempts in a row to find a lost camera again (default: {default.attempts})",
    )
    camera.add_argument(
        "--reconnect-delay",
        type=float,
        default=default.first_s,
        metavar="S",
        help=f"seconds before the first; then twice as long each (default: {default.first_s})",
    )
    camera.add_argument(
        "--reconnect-cap",
        type=float,
        default=default.cap_s,
        metavar="S",
        help=f"longest of these waits (default: {default.cap_s:g})",
    )
    camera.add_argument(
        "--timeout",
        type=float,
        default=10.0,
        metavar="S",
        help="seconds to wait for an answer or frame (default: 10)",
    )
    camera.add_argument(
        "--input-option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="of FFmpeg's reader, for example rtsp_transport=udp or video_size=1280x720; may be repeated",
    )


def stream_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Those of videos and cameras as `Segmenter.stream` takes them.

    Raises:
        DeepLabError: a value out of range, or an input option without ``=``.
    """
    if arguments.max_frames is not None and arguments.max_frames < 1:
        raise DataError(f"--max-frames must be at least 1, got {arguments.max_frames}")
    return {
        **batch_options(arguments),
        "drop": arguments.drop,
        "smooth": arguments.smooth,
        "every": arguments.every,
        "decoder": arguments.decoder,
        "reconnect": Reconnect(arguments.reconnect, arguments.reconnect_delay, arguments.reconnect_cap),
        "timeout_s": arguments.timeout,
        "input_options": dict(_pair(text) for text in arguments.input_option),
    }


def batch_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Those that images have as well."""
    return {"batch": arguments.batch, "latency_ms": arguments.latency_ms}


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise DataError(f"--input-option needs KEY=VALUE, got {text!r}")
    return key, value
