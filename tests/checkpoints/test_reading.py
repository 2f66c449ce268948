# SPDX-License-Identifier: Apache-2.0
"""Files are read without running them; damaged and foreign ones are named."""

import os
import pickle
import sys
import types
import zipfile

import pytest
import torch

from deeplab_infer.checkpoints import read_checkpoint
from deeplab_infer.errors import CheckpointError

TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "module.b": torch.ones(2, dtype=torch.int64)}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("key", [None, "state_dict", "model"])
def test_both_formats_and_every_place(tmp_path, zipped, key):
    content = TENSORS if key is None else {key: TENSORS, "meta": {"config": "x"}, "epoch": 3}
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    found = read_checkpoint(tmp_path / "a.pth")
    assert list(found.state) == ["a.weight", "b"]
    assert torch.equal(found.state["a.weight"], TENSORS["a.weight"])
    assert found.meta == ({} if key is None else {"config": "x"})
    assert len(found.sha256) == 64


class Bomb:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (self.target,)


@pytest.mark.parametrize("zipped", [True, False])
def test_hostile_pickles_are_refused_unexecuted(tmp_path, zipped):
    marker = tmp_path / "executed"
    torch.save(
        {"state_dict": TENSORS, "x": Bomb(str(marker))}, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped
    )
    with pytest.raises(CheckpointError, match="--trust-checkpoint"):
        read_checkpoint(tmp_path / "a.pth")
    assert not marker.exists()
    assert "a.weight" in read_checkpoint(tmp_path / "a.pth", trust=True).state
    assert marker.exists()


def test_plain_hostile_pickle(tmp_path):
    marker = tmp_path / "executed"
    (tmp_path / "a.pth").write_bytes(pickle.dumps(Bomb(str(marker))))
    with pytest.raises(CheckpointError):
        read_checkpoint(tmp_path / "a.pth")
    assert not marker.exists()


def test_training_logs_of_mmengine_are_passed_over(tmp_path, monkeypatch):
    class HistoryBuffer:
        def __init__(self):
            import numpy

            self._log_history = numpy.arange(3.0)
            self._max_length = 10

    module = types.ModuleType("mmengine.logging.history_buffer")
    HistoryBuffer.__module__ = module.__name__
    HistoryBuffer.__qualname__ = "HistoryBuffer"
    module.HistoryBuffer = HistoryBuffer
    with monkeypatch.context() as patch:
        for name in ("mmengine", "mmengine.logging"):
            patch.setitem(sys.modules, name, types.ModuleType(name))
        patch.setitem(sys.modules, module.__name__, module)
        torch.save({"state_dict": TENSORS, "message_hub": {"loss": HistoryBuffer()}}, tmp_path / "a.pth")
    assert "a.weight" in read_checkpoint(tmp_path / "a.pth").state


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_truncated_files(tmp_path, zipped, share):
    path = tmp_path / "a.pth"
    torch.save({"w": torch.zeros(5000)}, path, _use_new_zipfile_serialization=zipped)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(CheckpointError, match=r"a\.pth: (damaged, )?truncated"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"<!DOCTYPE html><html>404</html>", "web page"),
        (b"hello, this is no checkpoint", "not a torch checkpoint"),
        (bytes(range(256)) * 4, "not a torch checkpoint"),
        ((100).to_bytes(8, "little") + b"{broken json" + b" " * 200, "safetensors"),
    ],
)
def test_foreign_files(tmp_path, content, message):
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(tmp_path / "a.pth")


def test_missing_files_and_folders(tmp_path):
    with pytest.raises(CheckpointError, match="no such checkpoint file"):
        read_checkpoint(tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="is a folder"):
        read_checkpoint(tmp_path)


def test_compressed_archives_could_unfold_to_any_size(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"0" * 100_000)
    with pytest.raises(CheckpointError, match="compressed entries"):
        read_checkpoint(tmp_path / "a.pth")


def test_files_without_tensors(tmp_path):
    torch.save({"state_dict": {"a": 1}}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="no tensors found"):
        read_checkpoint(tmp_path / "a.pth")
    torch.save([1, 2], tmp_path / "b.pth")
    with pytest.raises(CheckpointError, match="holds a list"):
        read_checkpoint(tmp_path / "b.pth")
