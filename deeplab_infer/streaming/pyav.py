# SPDX-License-Identifier: Apache-2.0
"""PyAV, imported where it is used: opening videos and cameras, and what its errors mean."""

from __future__ import annotations

import functools
import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import BackendError, DeepLabError, ImageError

DECODERS = ("auto", "cpu", "cuda")
_log = logging.getLogger(__name__)
_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://")
# Errors after which trying again is pointless.
_FINAL = ("HTTPBadRequestError", "HTTPUnauthorizedError", "HTTPForbiddenError", "ProtocolNotFoundError")
_MEANINGS = {
    "FileNotFoundError": "no such file or device",
    "PermissionError": "permission denied",
    "IsADirectoryError": "is a folder, not a video",
    "InvalidDataError": "not a video in a format that can be read, or damaged or truncated at a place it needs",
    "EOFError": "the stream ended",
    "ExitError": "no answer in time (--timeout)",
    "TimeoutError": "no answer in time (--timeout)",
    "ConnectionRefusedError": "the connection was refused; is the camera or server on, and the port right?",
    "ConnectionResetError": "the connection was closed by the other side",
    "HTTPUnauthorizedError": "401 unauthorised; give name and password as scheme://name:password@host",
    "HTTPForbiddenError": "403 forbidden",
    "HTTPNotFoundError": "404 not found",
    "ProtocolNotFoundError": "this PyAV does not speak the protocol",
    "DecoderNotFoundError": "this PyAV has no decoder for the video's codec",
}


@dataclass(frozen=True)
class Opening:
    """How videos and cameras are opened.

    Attributes:
        decoder: ``"cpu"``, ``"cuda"`` (NVDEC), or ``"auto"``: NVDEC where PyAV and the machine have it.
        timeout_s: of opening, and of waiting for data, of addresses and devices; seconds.
        input_options: FFmpeg's options of the demuxer, e.g. ``{"rtsp_transport": "udp"}``.
        max_pixels: frames with more are refused.
    """

    decoder: str = "auto"
    timeout_s: float = 10.0
    input_options: Mapping[str, str] = field(default_factory=dict)
    max_pixels: int = 400_000_000

    def __post_init__(self) -> None:
        if self.decoder not in DECODERS:
            raise DeepLabError(f"decoder {self.decoder!r} is not one of {', '.join(DECODERS)}")
        if self.timeout_s <= 0:
            raise DeepLabError(f"the timeout must be above 0 seconds, got {self.timeout_s}")


def import_av() -> Any:
    """The module ``av``.

    Raises:
        BackendError: it is not installed.
    """
    try:
        import av
        import av.error
    except ImportError as error:
        raise BackendError(
            f"videos and cameras need PyAV ({error}); install it with: pip install 'deeplab-infer[video]'"
        ) from error
    return av


def is_url(source: str) -> bool:
    """Whether a source is an address rather than a name of a file."""
    return _URL.match(source) is not None


def is_device(source: str) -> bool:
    """Whether a source is a V4L2 device."""
    return re.fullmatch(r"/dev/video\d+", source) is not None


def shown(source: str) -> str:
    """A source as it may be printed: without the name and password of an address."""
    return re.sub(r"^([a-zA-Z][a-zA-Z0-9+.-]*://)[^/?#]*@", r"\1***@", source)


def open_input(source: str, opening: Opening) -> Any:
    """A container with a video stream, ``container.streams.video[0]``.

    Args:
        source: a path, an address or a device.
        opening: how.

    Raises:
        ImageError: it cannot be opened, holds no video, or frames are too large.
        BackendError: no PyAV, or the decoder that was asked for is not there.
        av.error.FFmpegError: an address or device did not answer as it should; `explain` says what it means.
    """
    av = import_av()
    name = shown(source)
    is_file = not is_url(source) and not is_device(source)
    if is_file:
        _check_file(source)
    try:
        container = _open_with_decoder(av, source, is_file, opening)
    except av.error.FFmpegError as error:
        if not is_file:
            raise
        raise ImageError(f"{name}: {explain(error)}") from error
    try:
        _check_video(container, name, opening.max_pixels)
    except DeepLabError:
        container.close()
        raise
    return container


def open_again(source: str, opening: Opening) -> Any:
    """A second container of a source that could be opened before, whatever is in it.

    Raises:
        av.error.FFmpegError: it cannot be opened.
    """
    is_file = not is_url(source) and not is_device(source)
    return _open(import_av(), source, is_file, opening, None)


def explain(error: BaseException) -> str:
    """What an error of FFmpeg means."""
    for kind in type(error).__mro__:
        if kind.__name__ in _MEANINGS:
            return _MEANINGS[kind.__name__]
    return str(getattr(error, "strerror", None) or error)


def is_final(error: BaseException) -> bool:
    """Whether trying again is pointless."""
    return type(error).__name__ in _FINAL


def _check_file(source: str) -> None:
    path = Path(source)
    if not path.exists():
        raise ImageError(f"{source}: no such file")
    if path.is_dir():
        raise ImageError(f"{source}: is a folder, not a video")
    if path.is_file() and path.stat().st_size == 0:
        raise ImageError(f"{source}: the file is empty")


def _open_with_decoder(av: Any, source: str, is_file: bool, opening: Opening) -> Any:
    """With NVDEC where wanted and there; says which decoder it is. A camera is connected to once."""
    name = shown(source)
    why = "" if opening.decoder == "cpu" else _no_nvdec(av)
    if opening.decoder == "cpu" or why:
        if why and opening.decoder == "cuda":
            raise BackendError(f"NVDEC cannot be used here ({why}); take the decoder 'auto' or 'cpu'")
        container = _open(av, source, is_file, opening, None)
        _log.info("%s: decoded on the CPU%s", name, f"; no NVDEC: {why}" if why else "")
        return container
    # PyAV falls back without a word where NVDEC does not know the codec.
    container = _open(av, source, is_file, opening, av.codec.hwaccel.HWAccel("cuda", allow_software_fallback=True))
    context = container.streams.video[0].codec_context if container.streams.video else None
    if context is None or context.is_hwaccel:
        _log.info("%s: decoded by NVDEC", name)
    elif opening.decoder == "cuda":
        container.close()
        raise BackendError(f"{name}: NVDEC does not decode {context.name}; take the decoder 'auto' or 'cpu'")
    else:
        _log.info("%s: decoded on the CPU; NVDEC does not decode %s", name, context.name)
    return container


@functools.cache
def _no_nvdec(av: Any) -> str:
    """Why NVDEC cannot be used at all; empty where it can."""
    if "cuda" not in av.codec.hwaccel.hwdevices_available():
        return "PyAV was built without CUDA"
    try:
        av.codec.hwaccel.HWAccel("cuda").create(av.Codec("h264", "r"))
    except (av.error.FFmpegError, NotImplementedError, RuntimeError) as error:
        return f"no CUDA device ({getattr(error, 'strerror', None) or error})"
    return ""


def _open(av: Any, source: str, is_file: bool, opening: Opening, hwaccel: Any) -> Any:
    options = dict(opening.input_options)
    keywords: dict[str, Any] = {}
    if is_file:
        # "file:" keeps FFmpeg from taking a name with a colon for an address.
        source = "file:" + os.path.abspath(source)
    else:
        keywords["timeout"] = (opening.timeout_s, opening.timeout_s)
    if is_device(source):
        keywords["format"] = "v4l2"
    if source.startswith("rtsp"):
        options.setdefault("rtsp_transport", "tcp")  # over UDP lost packets are frames of rubbish
    return av.open(source, options=options, hwaccel=hwaccel, **keywords)


def _check_video(container: Any, name: str, max_pixels: int) -> None:
    if not container.streams.video:
        kinds = sorted({stream.type for stream in container.streams})
        raise ImageError(f"{name}: holds no video, only {', '.join(kinds) or 'nothing'}")
    context = container.streams.video[0].codec_context
    if context is None:
        raise ImageError(f"{name}: {_MEANINGS['DecoderNotFoundError']}; convert it to H.264, for example with ffmpeg")
    if context.width * context.height > max_pixels:
        raise ImageError(
            f"{name}: frames of {context.width} x {context.height} pixels are more than the limit of {max_pixels}; "
            "raise max_pixels if you trust it"
        )
