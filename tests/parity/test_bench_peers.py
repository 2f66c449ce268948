# SPDX-License-Identifier: Apache-2.0
"""``deeplab-bench peers`` with the peers themselves; no figure is asserted."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from deeplab_bench.peers import models as peer_models
from deeplab_bench.peers import worker as peer_worker

from deeplab_infer import Segmenter, checkpoints
from deeplab_infer.data.synthetic_streets import generate_street

from .conftest import need

pytestmark = pytest.mark.peer

R18 = "deeplabv3plus_r18-d8_4xb2-80k_cityscapes-512x1024"
NETWORKS = [
    ("mmsegmentation", R18, (65, 129)),
    ("mmsegmentation", "deeplabv3_r18-d8_4xb2-80k_cityscapes-769x769", (65, 129)),
    ("smp", "DeepLabV3Plus:resnet18", (64, 128)),
    ("smp", "DeepLabV3:mobilenet_v2", (64, 128)),
    ("torchvision", "deeplabv3_resnet50", (65, 97)),
]


@pytest.fixture
def scene(tmp_path):
    def make(size):
        image, labels = generate_street(1, *size)
        np.save(tmp_path / "image.npy", image)
        np.save(tmp_path / "scene.npy", labels)
        return tmp_path, image

    return make


@pytest.mark.parametrize(("peer", "network", "size"), NETWORKS)
def test_ours_gives_what_the_peer_gave(scene, peer, network, size):
    need(peer_models.PEERS[peer][1])
    folder, image = scene(size)
    job = {"peer": peer, "network": network, "device": "cpu", "threads": 1, "folder": str(folder)}
    prepared = peer_worker.run_job({**job, "what": "prepare"})
    assert prepared["view"] == list(size)
    assert prepared["classes_found"] > 2  # weights that decide between classes
    ours = checkpoints.load(folder / "checkpoint.pth")
    ours = checkpoints.with_config(ours, ours.config.replace(test_scale=None))
    labels, logits = np.load(folder / "labels.npy"), np.load(folder / "logits.npy")
    assert (Segmenter(ours, device="cpu").predict(image).labels == labels).mean() > 0.999
    from deeplab_infer.preprocess import normalise

    with torch.inference_mode():
        found = ours(torch.from_numpy(normalise(image[None], ours.config)))[0].numpy()
    assert np.abs(found - logits).max() < 1e-3 * np.ptp(logits)
    timed = {**job, "what": "measure", "view": list(size), "exact": True, "precision": "fp32", "compile": None}
    answer = peer_worker.run_job({**timed, "seconds": 0.001})
    assert answer["agreement"] == 1.0
    assert answer["steps"]["end_to_end"]["median_ms"] > 0


def test_lower_precision_and_compilation(scene):
    need("mmseg")
    folder, image = scene((33, 65))
    job = {"peer": "mmsegmentation", "network": R18, "device": "cpu", "threads": 1, "folder": str(folder)}
    peer_worker.run_job({**job, "what": "prepare"})
    model = peer_models.build("mmsegmentation", R18, "cpu")
    model.load(folder / "checkpoint.pth")
    pixels = np.ascontiguousarray(image[..., ::-1])
    exact = model.labels(pixels)
    model.use_precision("bf16")
    assert (model.labels(pixels) == exact).mean() > 0.8
    assert model.logits(pixels).dtype == np.float32
    other = peer_models.build("mmsegmentation", R18, "cpu")
    other.load(folder / "checkpoint.pth")
    other.compile(backend="eager")  # the same calls as a compiled network's, without minutes of compiling
    assert (other.labels(pixels) == exact).all()


def test_sliding_windows_stay_the_peers(scene):
    need("mmseg")
    _, image = scene((64, 96))
    model = peer_models.build("mmsegmentation", "deeplabv3plus_r18-d8_4xb2-80k_cityscapes-769x769", "cpu")
    model.model.test_cfg.update(crop_size=(48, 48), stride=(32, 32))
    pixels = np.ascontiguousarray(image[..., ::-1])
    exact = model.labels(pixels)
    model.compile(backend="eager")
    assert (model.labels(pixels) == exact).all()
    assert model.in_view(pixels).shape == (64, 96, 3)  # the config's window is larger


def test_unknown_networks():
    need("mmseg", "segmentation_models_pytorch", "torchvision")
    for peer, network, words in (
        ("mmsegmentation", "nothing", "no config 'nothing'"),
        ("smp", "Unet:resnet18", "DeepLabV3:ENCODER"),
        ("torchvision", "lraspp", "is not one of"),
    ):
        with pytest.raises(ValueError, match=words):
            peer_models.build(peer, network, "cpu")


def test_as_a_user_runs_it(tmp_path):
    """From our own environment, which has torch and the runtimes, into this one."""
    need("mmseg")
    ours = os.environ.get("DEEPLAB_PYTHON") or Path(__file__).parents[2] / ".venv" / "bin" / "python"
    if not Path(ours).exists():
        pytest.skip("no environment of ours beside the peers'; name its interpreter in DEEPLAB_PYTHON")
    options = ["--size", "65x129", "--rounds", "1", "--seconds", "0.01", "--threads", "1", "--no-compile"]
    ways = ["--ours", "reference", "--ours", "torch:fp32", "--ours", "onnxruntime:fp32"]
    done = subprocess.run(
        [str(ours), "-m", "deeplab_bench.command", "-q", "peers", R18, "--device", "cpu", "--markdown", *options, *ways,
         "--python", sys.executable, "--json", str(tmp_path / "p.json")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout
    record = json.loads((tmp_path / "p.json").read_text())
    assert [result["path"] for result in record["results"]] == [
        "mmsegmentation fp32 eager", "mmsegmentation fp32 eager, default allocator", "reference", "torch fp32",
        "onnxruntime fp32",
    ]  # fmt: skip
    assert all(result["agreement"] >= 0.9999 for result in record["results"])
    assert record["protocol"]["peer_versions"]["mmsegmentation"]
