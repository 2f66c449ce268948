# SPDX-License-Identifier: Apache-2.0
"""What every command shares: options, exit codes and how errors are said.

Exit codes: 0 done; 1 ran, but a check or some of the files failed; 2 wrong use or an error; 130 Ctrl-C.
Results go to stdout, progress and messages to stderr.
"""

from __future__ import annotations

import argparse
import errno
import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from .. import __version__
from ..errors import DataError, DeepLabError

if TYPE_CHECKING:
    from rich.console import Console

INTERRUPTED = 130
STREETS = ("streets", "synthetic_streets")  # what the generated data set is called
_PIPE_WIDTH = 180
_OS_ADVICE = {
    errno.ENOSPC: "the disk is full; free some space and run again",
    errno.EDQUOT: "the disk quota is used up; free some space and run again",
    errno.EROFS: "the file system is read-only; choose another output folder",
    errno.EACCES: "permission denied; choose a place you may write to",
}


def make_parser(prog: str, description: str, epilog: str | None = None) -> argparse.ArgumentParser:
    """An argument parser with the options that all commands have."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"deeplab-infer {__version__}")
    loudness = parser.add_mutually_exclusive_group()
    loudness.add_argument("-v", "--verbose", action="store_true", help="say more; full traceback on an error")
    loudness.add_argument("-q", "--quiet", action="store_true", help="no progress, only warnings and errors")
    return parser


def run_command(
    prog: str,
    parser: argparse.ArgumentParser,
    body: Callable[[argparse.Namespace], int],
    argv: Sequence[str] | None = None,
) -> int:
    """Parse ``argv`` (default: the process's), run ``body`` and turn its errors into exit codes."""
    arguments = parser.parse_args(argv)
    _configure_logging(arguments)
    try:
        return body(arguments)
    except KeyboardInterrupt:
        _say(prog, "interrupted; files that were not finished have been removed")
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of a pipe went away (`| head`): not our error, but stdout must not be flushed again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except DeepLabError as error:
        return _fail(prog, str(error), arguments)
    except OSError as error:
        return _fail(prog, _explain_os_error(error), arguments)


def parse_size(text: str) -> tuple[int, int]:
    """``"384x768"`` as (height, width).

    Raises:
        DataError: not two positive integers.
    """
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.isdigit() and int(part) > 0 for part in parts):
        raise DataError(f"{text!r} is not a size like 384x768 (height x width)")
    return int(parts[0]), int(parts[1])


def make_console(*, stderr: bool = False, quiet: bool = False) -> Console:
    """A rich console; wide where the output is a file or a pipe, so that tables keep their columns."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, quiet=quiet, width=None if stream.isatty() else _PIPE_WIDTH)


def _configure_logging(arguments: argparse.Namespace) -> None:
    level = logging.DEBUG if arguments.verbose else logging.WARNING if arguments.quiet else logging.INFO
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", stream=sys.stderr)
    for name in ("deeplab_infer", "deeplab_export", "deeplab_bench"):
        logging.getLogger(name).setLevel(level)


def _explain_os_error(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    advice = _OS_ADVICE.get(error.errno or 0)
    return f"{where}{advice or error.strerror or error}"


def _fail(prog: str, message: str, arguments: argparse.Namespace) -> int:
    if arguments.verbose:
        logging.getLogger("deeplab_infer").error("traceback follows", exc_info=True)
    _say(prog, f"error: {message}")
    return 2


def _say(prog: str, message: str) -> None:
    print(f"{prog}: {message}", file=sys.stderr)
