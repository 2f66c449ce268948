# SPDX-License-Identifier: Apache-2.0
"""Which backend a CPU gets, and what each precision needs."""

import importlib.util
import logging

import numpy as np
import pytest
import torch
from deeplab_export import export_onnx

from deeplab_infer import Segmenter
from deeplab_infer.errors import BackendError
from deeplab_infer.runtime import opening, openvino_runner
from deeplab_infer.runtime.cpu_choice import ONNX_ORDER, Wanted, choose_for_network, choose_for_onnx
from deeplab_infer.runtime.openvino_sizes import SizedModels
from deeplab_infer.runtime.processors import compute_threads

from ..networks import make_network, random_images, reference_logits

ALL = ("onnxruntime", "openvino", "torch")


@pytest.mark.parametrize(
    ("wanted", "installed", "backend", "why"),
    [
        (Wanted(), ALL, "openvino", "fastest"),
        (Wanted("bf16"), ALL, "openvino", "fastest"),
        (Wanted("fastest"), ALL, "openvino", "fastest"),
        (Wanted(), ("onnxruntime", "torch"), "torch", "OpenVINO is not installed"),
        (Wanted(compiled=True), ALL, "torch", "torch.compile"),
        (Wanted(fused=False), ALL, "torch", "plain torch"),
        (Wanted("fp16"), ALL, "torch", "only torch"),
        (Wanted("tf32"), ALL, "torch", "only torch"),
    ],
)
def test_networks(wanted, installed, backend, why):
    choice = choose_for_network(wanted, installed)
    assert choice.backend == backend
    assert why in choice.why


@pytest.mark.parametrize("held", ["fp32", "tf32", "fp16", "bf16", "int8", "fp8"])
def test_files(held):
    first, second = ONNX_ORDER
    assert choose_for_onnx(held, None, ALL).backend == first
    assert choose_for_onnx(held, None, (second, "torch")).backend == second
    assert choose_for_onnx(held, None, ("torch",)) is None
    assert choose_for_onnx(held, "bf16", ALL).backend == ("openvino" if held == "fp32" else first)
    assert choose_for_onnx(held, "bf16", ("onnxruntime",)).backend == "onnxruntime"


def test_the_choice_is_made_where_the_packages_are(network, model_file, monkeypatch, caplog):
    with caplog.at_level(logging.INFO, logger="deeplab_infer"), Segmenter(network, threads=1) as segmenter:
        assert segmenter.describe()["backend"] == "openvino"
        assert segmenter.describe()["threads"] == 1
    assert any("openvino on cpu (the fastest backend" in message for message in caplog.messages)
    for options in ({"fused": False}, {"precision": "fp16"}, {"backend": "torch"}):
        assert opening.open_runner(network, **options).name == "torch"
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "openvino" else find(name))
    assert opening.open_runner(network).name == "torch"
    assert opening.open_runner(network, precision="fastest").manifest.precision == "fp32"
    assert opening.open_runner(model_file).name == "onnxruntime"
    with pytest.raises(BackendError, match=r"pip install 'deeplab-infer\[openvino\]'"):
        opening.open_runner(network, backend="openvino")


def test_a_gpu_keeps_networks_in_torch(network, monkeypatch):
    opened = []
    monkeypatch.setattr(opening, "_torch_has_gpu", lambda: True)
    monkeypatch.setattr(opening, "_open_torch", lambda *given: opened.append(given) or opening._open_in_openvino(
        network, "cpu", 1, Wanted(), ["openvino"]))  # fmt: skip
    opening.open_runner(network)
    opening.open_runner(network, device="cuda:0")
    assert [given[1] for given in opened] == ["auto", "cuda:0"]


# -- what is computed


@pytest.mark.parametrize("name", ["deeplabv3plus_mobilenetv2_streets", "deeplabv3_r18-d8_4xb2-80k_cityscapes-512x1024"])
def test_a_network_in_openvino_is_the_network(name):
    """The third image of a size runs on a model of its own where taps see only padding there: DeepLabV3's at 33 x 40."""
    network = make_network(name)
    runner = opening.open_runner(network, device="cpu", threads=1)
    assert runner.manifest.rewrites
    for size in ((50, 67), (33, 40)):
        images = random_images(2, *size)
        expected = reference_logits(network, images, torch.float64)
        for _ in range(4):
            found = runner.run(images)
            assert found.dtype == np.float32
            assert np.abs(found - expected).max() <= 1e-5 * np.ptp(expected)
    assert bool(runner.models.sizes) == ("deeplabv3_" in name)
    runner.close()
    with pytest.raises(BackendError, match="closed"):
        runner.run(images)


def test_results_are_arrays_of_their_own(network, model_file):
    images = random_images(2, 40, 56)
    for runner in (opening.open_runner(network, threads=1), opening.open_runner(model_file, backend="openvino")):
        first, second, third = (runner.run(images) for _ in range(3))
        kept = second.copy()
        runner.run(images[::-1])
        assert np.array_equal(second, kept)
        assert np.array_equal(second, third)
        assert np.abs(first - second).max() <= 1e-5 * np.ptp(first)
        images.flags.writeable = False
        assert np.array_equal(runner.run(images), third)
        images.flags.writeable = True


# -- precisions


def able(monkeypatch, answer):
    monkeypatch.setattr(openvino_runner, "computes_in_bf16", lambda core, device: answer)


def test_bfloat16_is_asked_for(network, model_file, monkeypatch, caplog):
    for model in (network, model_file):
        with caplog.at_level(logging.INFO, logger="deeplab_infer"):
            able(monkeypatch, True)
            plain = opening.open_runner(model, backend="openvino", threads=1)
            assert (plain.compute, plain.manifest.precision) == ("f32", "fp32")
            assert any("also computes in bfloat16" in message for message in caplog.messages)
        caplog.clear()
        able(monkeypatch, False)
        with caplog.at_level(logging.INFO, logger="deeplab_infer"):
            fallen = opening.open_runner(model, backend="openvino", precision="fastest", threads=1)
        assert (fallen.compute, fallen.manifest.precision) == ("f32", "fp32")
        assert any("has no bfloat16 arithmetic" in message for message in caplog.messages)
        with pytest.raises(BackendError, match="no bfloat16 arithmetic; use fp32, or 'fastest'"):
            opening.open_runner(model, backend="openvino", precision="bf16")
        caplog.clear()
        with pytest.raises(BackendError, match=r"not in 'int8'; int8 comes from an exported \.xml"):
            opening.open_runner(model, backend="openvino", precision="int8")


def test_bfloat16_where_the_cpu_has_it(network, model_file):
    from deeplab_infer.runtime.openvino_core import shared_core

    if not openvino_runner.computes_in_bf16(shared_core(), "CPU"):
        pytest.skip("this CPU has no bfloat16 arithmetic")
    images = random_images(1, 50, 67)
    expected = reference_logits(network, images)
    for model, precision in ((network, "bf16"), (network, "fastest"), (model_file, "bf16"), (model_file, "fastest")):
        runner = opening.open_runner(model, precision=precision, threads=1)
        assert (runner.name, runner.compute, runner.manifest.precision) == ("openvino", "bf16", "bf16")
        difference = np.abs(runner.run(images) - expected).max() / np.ptp(expected)
        # bfloat16 keeps 8 bits: relative 2^-8 a rounding, which some tens of layers add up.
        assert 1e-5 < difference < 16 * 2.0**-8


def test_files_that_hold_another_precision(network, tmp_path):
    export_onnx(network, tmp_path / "half.onnx", precision="fp16")
    with pytest.raises(BackendError, match="holds a fp16 model; OpenVINO computes float32 files in bf16"):
        opening.open_runner(tmp_path / "half.onnx", backend="openvino", precision="bf16")
    assert opening.open_runner(tmp_path / "half.onnx", backend="openvino", precision="fastest").compute == "f32"
    with pytest.raises(BackendError, match="holds a fp16 model, and ONNX Runtime computes in what the file holds"):
        opening.open_runner(tmp_path / "half.onnx", backend="onnxruntime", precision="bf16")
    runner = opening.open_runner(tmp_path / "half.onnx", backend="onnxruntime", precision="fastest")
    assert runner.manifest.precision == "fp16"


# -- sizes and threads


class FakeModels:
    """Stands for OpenVINO's compiler: remembers what was compiled."""

    def __init__(self, gains=True):
        self.compiled = []
        self.gains = gains

    def __call__(self, shape):
        self.compiled.append(shape)
        return object() if shape is None or self.gains else None


def test_only_sizes_that_come_often_are_compiled_and_the_last_are_kept():
    make = FakeModels()
    models = SizedModels(make, by_size=True, kept=2)
    shapes = [(1, 3, 8, width) for width in (8, 16, 24)]
    picked = [models._pick(shape) for shape in shapes * 2]
    assert len(set(map(id, picked))) == 1
    assert make.compiled == [None]
    own = [models._pick(shape) for shape in shapes[:2]]
    assert make.compiled == [None, *shapes[:2]]
    assert models._pick(shapes[0]) is own[0]
    assert models._pick(shapes[1]) is own[1]
    for _ in range(2):
        models._pick(shapes[2])
    assert models.sizes == shapes[1:]
    for width in range(100, 108):
        assert models._pick((1, 3, 8, width)) is picked[0]
    assert models._pick(shapes[0]) is picked[0]  # forgotten: it starts anew


def test_a_size_that_gains_nothing_stays_on_the_open_model():
    make = FakeModels(gains=False)
    models = SizedModels(make, by_size=True)
    assert len({id(models._pick((1, 2))) for _ in range(9)}) == 1
    assert make.compiled == [None, (1, 2)]
    assert models.sizes == []


def test_models_of_one_size_are_compiled_once():
    make = FakeModels()
    models = SizedModels(make, by_size=False)
    assert models._pick((1, 2)) is models._pick((1, 2))
    assert make.compiled == [None]


def test_threads_follow_cores_and_the_container(tmp_path, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2, 5}, raising=False)
    for index, siblings in ((0, "0-1"), (1, "0-1"), (2, "2-3"), (5, "4-5")):
        folder = tmp_path / f"cpu{index}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{siblings}\n")
    nothing = tmp_path / "nothing"
    assert compute_threads(tmp_path, nothing) == 3
    assert compute_threads(nothing, nothing) == 4  # no topology: each counts
    for text, wanted in (("max 100000", 3), ("200000 100000", 2), ("50000 100000", 1), ("garbage", 3)):
        (tmp_path / "cpu.max").write_text(text)
        assert compute_threads(tmp_path, tmp_path / "cpu.max") == wanted
