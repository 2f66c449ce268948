# SPDX-License-Identifier: Apache-2.0
"""Checkpoints from the web: resumable, checked, cached."""

from __future__ import annotations

import http.client
import os
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import CheckpointError
from ..files import sha256_file

_BLOCK = 1 << 18
_TIMEOUT = 30.0
_MAX_BYTES = 8 << 30


def cache_dir() -> Path:
    """``$DEEPLAB_CACHE``, else ``deeplab-infer`` in the user's cache folder."""
    chosen = os.environ.get("DEEPLAB_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "deeplab-infer"


def is_url(source: str) -> bool:
    """Whether ``source`` is an http(s) address."""
    return source.startswith(("http://", "https://"))


def download(url: str, sha256: str = "", progress: bool = True) -> Path:
    """Fetch a file into the cache, or find it there.

    An interrupted download leaves ``NAME.part`` and goes on from there the next time.

    Args:
        url: http or https address.
        sha256: first hex digits of the file's SHA-256; checked when the file arrives.
        progress: show a progress bar on stderr.

    Returns:
        The file in the cache.

    Raises:
        CheckpointError: the server cannot be reached or refuses, or the file is not the one expected.
    """
    name = Path(urllib.parse.unquote(urllib.parse.urlsplit(url).path)).name
    if not name:
        raise CheckpointError(f"{url}: the address names no file")
    folder = cache_dir()
    folder.mkdir(parents=True, exist_ok=True)
    target, part = folder / name, folder / f"{name}.part"
    if target.exists():
        if not sha256 or sha256_file(target).startswith(sha256.lower()):
            return target
        target.unlink()  # another file of that name, or a damaged one: fetch it anew
    try:
        _fetch(url, part, progress)
    except urllib.error.HTTPError as error:
        raise CheckpointError(f"{url}: the server answers {error.code} {error.reason}") from error
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", None) or error
        raise CheckpointError(
            f"{url}: download failed ({reason}). Run again to go on where it stopped, or fetch the file by other means "
            "and pass its path as --checkpoint"
        ) from error
    found = sha256_file(part)
    if sha256 and not found.startswith(sha256.lower()):
        part.unlink()
        raise CheckpointError(
            f"{url}: SHA-256 of the file starts with {found[:8]}, expected {sha256}; it was removed, try again"
        )
    part.replace(target)
    return target


def _fetch(url: str, part: Path, progress: bool) -> None:
    have = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": f"deeplab-infer/{__version__}"}
    if have:
        headers["Range"] = f"bytes={have}-"
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # the part is already whole, or no part of this file
            if error.headers.get("Content-Range", "").endswith(f"/{have}"):
                return
            part.unlink()
            _fetch(url, part, progress)
            return
        raise
    with response:
        resumed = response.status == 206
        start = have if resumed else 0
        length = response.headers.get("Content-Length")
        total = start + int(length) if length else None
        if total is not None and total > _MAX_BYTES:
            raise CheckpointError(f"{url}: {total / 2**30:.1f} GiB is larger than any DeepLab checkpoint")
        with open(part, "ab" if resumed else "wb") as stream, _bar(progress, part.stem, start, total) as advance:
            written = start
            while block := response.read(_BLOCK):
                stream.write(block)
                written += len(block)
                advance(len(block))
                if written > _MAX_BYTES:
                    raise CheckpointError(f"{url}: more than 8 GiB arrived; stopped")
    if total is not None and written < total:
        raise ConnectionError(f"the connection ended after {written} of {total} bytes")


@contextmanager
def _bar(show: bool, name: str, start: int, total: int | None) -> Iterator[Any]:
    if not show:
        yield lambda count: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bars:
        task = bars.add_task(name, total=total, completed=start)
        yield lambda count: bars.advance(task, count)
