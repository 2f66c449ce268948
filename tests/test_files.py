# SPDX-License-Identifier: Apache-2.0
"""Files are written whole or not at all."""

import os

import pytest

from deeplab_infer.errors import DeepLabError
from deeplab_infer.files import atomic_path, atomic_write, require_writable_dir, sha256_file


def test_a_file_appears_whole(tmp_path):
    target = tmp_path / "a.bin"
    with atomic_write(target) as stream:
        stream.write(b"abc")
        assert not target.exists()
    assert target.read_bytes() == b"abc"
    assert sha256_file(target) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert os.listdir(tmp_path) == ["a.bin"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError, ValueError])
def test_an_interruption_leaves_the_old_file(tmp_path, error):
    target = tmp_path / "a.txt"
    target.write_text("old")

    def write():
        with atomic_write(target, "w") as stream:
            stream.write("half of the new")
            raise error

    with pytest.raises(error):
        write()
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_the_temporary_path_keeps_the_suffix(tmp_path):
    with atomic_path(tmp_path / "model.onnx") as temporary:
        assert temporary.suffix == ".onnx" and temporary.parent == tmp_path
        temporary.write_bytes(b"x")
    assert (tmp_path / "model.onnx").stat().st_mode & 0o777 == 0o666 & ~current_umask()


def current_umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_folders_are_created_or_refused(tmp_path):
    assert require_writable_dir(tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").write_text("")
    with pytest.raises(DeepLabError, match="is a file"):
        require_writable_dir(tmp_path / "file")
    with pytest.raises(DeepLabError, match="is a file"):
        require_writable_dir(tmp_path / "file" / "below")
    with pytest.raises(DeepLabError, match="cannot write to folder"):
        require_writable_dir("/proc/nothing")
