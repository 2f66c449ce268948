# SPDX-License-Identifier: Apache-2.0
"""Exit codes and error sentences that all commands share."""

import errno

import pytest

from deeplab_infer import __version__
from deeplab_infer.commands.cli import make_parser, run_command
from deeplab_infer.errors import ConfigError


def run(body, argv=()):
    return run_command("deeplab-x", make_parser("deeplab-x", "x"), body, list(argv))


def failing(error):
    def body(arguments):
        raise error

    return body


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ConfigError("no such config"), 2, "deeplab-x: error: no such config"),
        (OSError(errno.ENOSPC, "No space left on device", "/out/a.onnx"), 2, "/out/a.onnx: the disk is full"),
        (OSError(errno.EROFS, "Read-only file system", "/out"), 2, "the file system is read-only"),
        (PermissionError(errno.EACCES, "Permission denied", "/out"), 2, "permission denied"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "a.png"), 2, "a.png: No such file"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_errors_become_sentences_and_exit_codes(capsys, error, code, message):
    assert run(failing(error)) == code
    captured = capsys.readouterr()
    assert message in captured.err and "Traceback" not in captured.err and captured.out == ""


def test_verbose_shows_the_traceback(capsys, caplog):
    assert run(failing(ConfigError("x")), ["-v"]) == 2
    assert "traceback follows" in caplog.text


def test_programming_errors_are_not_hidden():
    with pytest.raises(ZeroDivisionError):
        run(lambda arguments: 1 // 0)


def test_exit_code_of_the_body_is_returned():
    assert run(lambda arguments: 1) == 1


def test_version_and_usage(capsys):
    with pytest.raises(SystemExit) as stop:
        run(lambda arguments: 0, ["--version"])
    assert stop.value.code == 0 and __version__ in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        run(lambda arguments: 0, ["--nothing"])
    assert stop.value.code == 2
