# SPDX-License-Identifier: Apache-2.0
"""Layers as a user has them shown, and profiles of every runtime turned into layers. No time is asserted."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from deeplab_bench import command
from deeplab_bench.layers import command as layers
from deeplab_bench.layers import from_onnxruntime as layers_onnxruntime
from deeplab_bench.layers import from_openvino as layers_openvino
from deeplab_bench.layers import from_tensorrt as layers_tensorrt
from deeplab_bench.layers import from_torch as layers_torch
from deeplab_bench.layers import worker as layer_worker
from deeplab_bench.layers.times import CountedConvolutions, LayerTime, median_of_runs, onnx_paths
from deeplab_bench.measuring import ceilings
from deeplab_bench.records import read_record
from deeplab_export import export_onnx

from deeplab_infer.configs import load_config
from deeplab_infer.engine_manifest import EngineManifest, Profile
from deeplab_infer.errors import BackendError
from deeplab_infer.manifest import read_onnx_manifest
from deeplab_infer.models import build_model
from deeplab_infer.optimize import optimise
from deeplab_infer.optimize.work import count
from deeplab_infer.runtime.tensorrt_engine import Context
from deeplab_infer.runtime.tensorrt_flavour import installed_flavours, load_flavour

from ..runtime.fake_gpu import FakeCuda, FakeEngine

STREETS = "deeplabv3plus_mobilenetv2_streets"
ROOFS = {"device": "cpu", "copy_gb_s": 10.0, "matmul_tflops": {"fp32": 0.1}}


def main(*arguments):
    return command.main(["-q", "layers", *arguments])


@pytest.fixture
def roofs(monkeypatch):
    monkeypatch.setattr(layers, "measure_ceilings", lambda *_: ROOFS)


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("layers") / "model.onnx"
    export_onnx(build_model(STREETS).eval(), path, batch=1, height=48, width=64)
    return path


@pytest.fixture(scope="module")
def counted():
    return CountedConvolutions(load_config(STREETS), 1, 48, 64)


def gmacs(result):
    return sum(layer["gmacs"] or 0 for layer in result["layers"])


@pytest.mark.usefixtures("roofs")
@pytest.mark.parametrize("more", [[], ["--no-fused"]])
def test_layers_of_a_torch_network(tmp_path, capsys, more):
    quick = ["--size", "48x64", "--seconds", "0.05", "--threads", "1", "--top", "3"]
    assert main(STREETS, *quick, *more, "--json", str(tmp_path / "a.json"), "--markdown") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{STREETS}, torch fp32, cpu, 1 x 48 x 64"
    assert lines[2].startswith("| layer | operation | share | of floor | GMAC | MB |")
    assert " others |" in lines[7]
    assert lines[8].startswith("| all layers |  | 100.0% |")
    record = read_record(tmp_path / "a.json")
    assert record.kind == "layers"
    assert record.ceilings == ROOFS
    (result,) = record.results
    network, _ = optimise(build_model(STREETS).eval())
    assert gmacs(result) == pytest.approx(count(network, 48, 64).dense / 1e9)
    assert sum(layer["share"] for layer in result["layers"]) == pytest.approx(1)
    assert all(layer["floor_ms"] > 0 for layer in result["layers"])
    names = {layer["name"]: layer["op"] for layer in result["layers"]}
    assert names["backbone.features.0.0"] == "conv 3x3 stride 2"
    assert any(op.startswith("fused") for op in names.values()) is not bool(more)


@pytest.mark.usefixtures("roofs")
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_layers_of_an_exported_file(tmp_path, capsys, model_file, backend):
    quick = ["--seconds", "0.05", "--threads", "1", "--top", "1000"]
    assert main(str(model_file), "--backend", backend, *quick, "--json", str(tmp_path / "a.json")) == 0
    output = capsys.readouterr().out
    assert f"model.onnx, {backend} fp32, cpu, 1 x 48 x 64" in output
    assert "could not be told apart" not in output
    (result,) = read_record(tmp_path / "a.json").results
    assert gmacs(result) == pytest.approx(count(STREETS, 48, 64).dense / 1e9)
    assert any("aspp.branches.2.depthwise.conv" in layer["name"] for layer in result["layers"])
    assert result["total_ms"] > 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["m.onnx", "--backend", "torch"], "profiled on onnxruntime or openvino, not on torch"),
        (["m.xml", "--backend", "onnxruntime"], "profiled on openvino, not on onnxruntime"),
        ([STREETS, "--backend", "tensorrt"], "profiled on torch, not on tensorrt"),
        (["m.onnx", "--precision", "fp16"], "an exported file has its own precision"),
        ([STREETS, "--batch", "0"], "--batch must be at least 1"),
        ([STREETS, "--top", "0"], "--top must be at least 1"),
        ([STREETS, "--seconds", "0"], "--seconds must be positive"),
        ([STREETS, "--size", "big"], "is not a size"),
        (["missing.onnx"], "missing.onnx"),
        ([STREETS, "--precision", "fp3", "--size", "48x64"], "no precision 'fp3'"),
    ],
)
def test_wrong_use(capsys, arguments, words):
    assert main(*arguments) == 2
    assert words in capsys.readouterr().err


def test_a_missing_runtime(capsys, monkeypatch):
    monkeypatch.setattr(layers, "available_backends", lambda: ["torch"])
    assert main("m.onnx", "--backend", "openvino") == 2
    assert "openvino is not installed; run: pip install 'deeplab-infer[openvino]'" in capsys.readouterr().err


def test_a_failing_process_is_a_failure(capsys, monkeypatch):
    monkeypatch.setattr(layers, "in_own_process", lambda *_: {"error": "the measuring process ended with code -9"})
    assert main(STREETS) == 1
    assert "ended with code -9" in capsys.readouterr().out


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_gpus_whose_layers_cannot_be_timed(backend, model_file):
    job = {"model": str(model_file), "device": "cuda"}
    with pytest.raises(BackendError, match="--device cpu"):
        layer_worker.run_job({**job, "backend": backend})


def test_layers_without_a_known_rate_have_no_floor():
    conv = LayerTime("c", "conv", 2.0, 1000, 1000).to_dict()
    move = LayerTime("m", "concat", 1.0, 0, 10_000_000).to_dict()
    answer = {"layers": [conv, move], "total_ms": [2.5], "precision": "int8", "height": 4, "width": 4, "notes": []}
    job = {"model": "m.onnx", "backend": "openvino", "batch": 1}
    result = layers.make_result(job, {**answer, "device": "cpu"}, ROOFS)
    assert [layer["floor_ms"] for layer in result["layers"]] == [None, 1.0]
    assert [layer["share"] for layer in result["layers"]] == pytest.approx([2 / 3, 1 / 3])
    assert "the rate of int8 products is not measured" in result["notes"][0]
    assert layers._cells(layers._sum(result["layers"]), "all", "")[3] == "-"


def test_the_median_of_runs():
    first = [LayerTime("a", "relu", 1.0, 0, 5), LayerTime("a", "relu", 2.0, 0, 5), LayerTime("b", "conv", 1.0)]
    second = [replace(layer, ms=layer.ms * 3) for layer in first]
    merged = median_of_runs([first, second])
    assert [(layer.name, layer.ms, layer.moved) for layer in merged] == [("a", 6.0, 10), ("b", 2.0, None)]


def test_names_of_parameters(counted):
    assert counted.path("network.aspp.project.conv.weight") == "aspp.project.conv"
    assert counted.path("FusedBack_network.aspp.project.conv.bias_half") == "aspp.project.conv"
    assert counted.path("aspp.project.conv.weight_quantised") == "aspp.project.conv"
    assert counted.path("aspp.project.conv") is None
    assert counted.path("reorder_token_3") is None


def test_a_fused_kernels_call_is_described():
    x, weight = torch.zeros(1, 4, 8, 8), torch.zeros(3, 4, 3, 3)
    layer = layers_torch.describe_call("deeplab::depthwise", "aspp", (x, weight), torch.zeros(3, 1, 4, 8, 8))(2.0)
    assert (layer.op, layer.macs, layer.grouped, layer.ms) == ("fused depthwise", 3 * 4 * 64 * 9, True, 2.0)
    assert layer.moved == 4 * (4 * 64 + 108 + 12 * 64)


def test_events_of_a_gpu(monkeypatch):
    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            calls.append(self)

        def elapsed_time(self, end):
            return float(calls.index(end) - calls.index(self))

    calls = []
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "_sleep", lambda cycles: calls.append("sleep"), raising=False)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: calls.append("wait"))
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, dilation=2), torch.nn.ReLU())
    with torch.no_grad():
        found = layers_torch._timed_on_gpu(network, torch.zeros(1, 3, 8, 8))
    assert (calls[0], calls[-1], len(calls)) == ("sleep", "wait", 6)
    assert [(layer.name, layer.op, layer.ms) for layer in found] == [
        ("0", "conv 3x3 rate 2", 1.0),
        ("1", "activation", 1.0),
    ]
    assert found[0].macs == 4 * 16 * 27


def event(name, op, index, milliseconds, shapes):
    arguments = {
        "op_name": op,
        "node_index": str(index),
        "input_type_shape": shapes[:-1],
        "output_type_shape": shapes[-1:],
    }
    return {"cat": "Node", "name": f"{name}_kernel_time", "dur": milliseconds * 1000, "args": arguments}


def test_a_profile_of_onnx_runtime(counted):
    image, weights, made = {"float": [1, 3, 48, 64]}, {"float16": [32, 3, 3, 3]}, {"float": [1, 32, 24, 32]}
    run = [
        event("cast", "Cast", 0, 1, [{"uint8": [1, 48, 64, 3]}, {"float": [1, 48, 64, 3]}]),
        event("relu_nchwc", "Conv", 1, 4, [image, weights, made]),
        event("other", "FusedConv", 2, 1, [made, made]),
    ]
    session = {"cat": "Session", "name": "model_run", "dur": 9, "args": {}}
    later = [{**one, "dur": one["dur"] / 2} for one in run]
    paths = {"relu": "backbone.features.0.0"}
    found, notes = layers_onnxruntime.read_profile([session, *run, *later, *later], paths, counted)
    assert [(layer.name, layer.op, layer.ms) for layer in found] == [
        ("cast", "Cast", 0.5),
        ("backbone.features.0.0", "Conv", 2.0),
        ("other", "FusedConv", 0.5),
    ]
    assert found[0].moved == 48 * 64 * 3 * 5
    assert found[1].macs == 32 * 24 * 32 * 27
    assert found[1].moved == 48 * 64 * 3 * 4 + 32 * 27 * 2 + 32 * 24 * 32 * 4
    assert (found[2].macs, found[0].macs) == (None, 0)
    assert "could not be told apart" in notes[1]


def test_counters_of_openvino(counted):
    class Graph:
        def paths(self, names):
            known = {"conv2d": "backbone.features.0.0", "conv2d_1": "backbone.features.1.conv.0.0"}
            return {known[name] for name in names if name in known}

        def moved(self, names):
            return 100

    runs = [
        [
            ("image", "Parameter", None),
            ("conv2d/x", "Convolution brgconv", 2.0),
            ("conv2d_1/x", "GroupConvolution undef", None),
            ("reorder", "Reorder jit", 1.0),
            ("lost", "Convolution ref", 1.0),
        ]
    ] * 3
    names = {"conv2d/x": ["conv2d", "relu"], "conv2d_1/x": ["conv2d_1"], "reorder": [""], "image": ["image"]}
    found, notes = layers_openvino.read_counters(runs, names, {"reorder": 7}, Graph(), counted)
    assert [layer.name for layer in found] == [
        "backbone.features.0.0 + backbone.features.1.conv.0.0",
        "reorder",
        "lost",
    ]
    assert found[0].macs == counted.macs(["backbone.features.0.0", "backbone.features.1.conv.0.0"])
    assert [(layer.moved, layer.ms) for layer in found] == [(100, 2.0), (7, 1.0), (100, 1.0)]
    assert (found[1].macs, found[2].macs) == (0, None)
    assert "could not be told apart" in notes[1]


# As TensorRT 10 writes it (joined names) and 11 and RTX (metadata).
INSPECTOR = {
    "Layers": [
        {
            "Name": "conv2d + n4",
            "LayerType": "CaskConvolution",
            "Inputs": [{"Name": "permute", "Dimensions": [1, 3, 48, 64], "Format/Datatype": "Row major linear FP16"}],
            "Outputs": [{"Name": "n4", "Dimensions": [1, 32, 24, 32], "Format/Datatype": "Channel major FP16"}],
            "Weights": {"Type": "Half", "Count": 864},
        },
        {
            "Name": "__myl_Fused_0x12",
            "LayerType": "kgen",
            "Inputs": [{"Name": "n4", "Dimensions": [1, 32, 24, 32], "DataType": "Half"}],
            "Outputs": [{"Name": "y", "Dimensions": [1, 32, 24, 32], "DataType": "Half"}],
            "Metadata": "[ONNX Layer: conv2d_1]\x1e[ONNX Layer: n4_2]",
        },
        {"Name": "lost", "LayerType": "CaskConvolution", "Inputs": [], "Outputs": []},
    ]
}


def test_layers_of_an_engine(counted, model_file):
    paths = onnx_paths(model_file, counted)
    assert len(set(paths.values())) == 66 - counted.missing(set(paths.values()))
    runs = [[("conv2d + n4", 2.0), ("__myl_Fused_0x12", 1.0), ("lost", 1.0), ("reformat", 0.5)]] * 3
    found, notes = layers_tensorrt.read_layers(runs, json.dumps(INSPECTOR), paths, counted)
    assert [layer.name for layer in found] == [
        "backbone.features.0.0", "backbone.features.1.conv.0.0", "lost", "reformat",
    ]  # fmt: skip
    assert [layer.macs for layer in found] == [
        counted.macs(["backbone.features.0.0"]), counted.macs(["backbone.features.1.conv.0.0"]), None, 0,
    ]  # fmt: skip
    assert [layer.grouped for layer in found[:2]] == [False, True]
    assert found[0].moved == 2 * (3 * 48 * 64 + 32 * 24 * 32 + 864)
    assert found[3].moved is None
    assert any("do not say so" in note for note in notes)


def test_an_engine_without_details_or_its_onnx_file(counted):
    text = json.dumps({"Layers": ["conv2d + n4"]})
    found, notes = layers_tensorrt.read_layers([[("conv2d + n4", 2.0)]], text, None, counted)
    assert (found[0].macs, found[0].moved, found[0].name) == (None, None, "conv2d + n4")
    assert any("no MB" in note for note in notes)
    assert any("not beside it" in note for note in notes)


class RawContext:
    """What the profiler needs of an ``IExecutionContext``."""

    profiler = None
    enqueue_emits_profile = True
    reports = True

    def report_to_profiler(self):
        self.profiler.report_layer_time("conv2d + n4", 2.0)
        return self.reports


@pytest.fixture
def session(model_file):
    cuda = FakeCuda()
    profiles = (Profile((1, 1, 1), (48, 48, 48), (64, 64, 64)),)
    manifest = EngineManifest(read_onnx_manifest(model_file), "", "tensorrt", "10.3", profiles)
    engine = FakeEngine(model_file, cuda, profiles)
    made = engine.create_context()
    made._context = RawContext()
    engine.create_context = lambda: made
    engine._flavour = SimpleNamespace(trt=SimpleNamespace(LayerInformationFormat=SimpleNamespace(JSON="json")))
    inspector = SimpleNamespace(get_engine_information=lambda form: json.dumps({**INSPECTOR, "form": form}))
    engine._engine = SimpleNamespace(create_engine_inspector=lambda: inspector)
    return SimpleNamespace(engine=engine, manifest=manifest, cuda=cuda, raw=made._context, inspector=inspector)


def test_a_profiled_engine_session(session):
    batch = np.zeros((1, 48, 64, 3), np.uint8)
    running = layers_tensorrt.Session(session.engine, session.manifest, session.cuda, batch)
    running.run()
    profiler = layers_tensorrt.make_profiler(SimpleNamespace(IProfiler=object))
    runs = running.profiled(0.01, profiler)
    assert len(runs) >= 5
    assert all(run == [("conv2d + n4", 2.0)] for run in runs)
    assert session.raw.enqueue_emits_profile is False
    assert json.loads(running.inspect(session.engine))["form"] == "json"
    assert session.inspector.execution_context is session.raw
    session.raw.reports = False
    with pytest.raises(BackendError, match="reports no layers"):
        running.profiled(0.01, profiler)
    running.close()
    assert session.cuda.is_clean


@pytest.mark.parametrize("name", ["tensorrt", "tensorrt_rtx"])
def test_tensorrts_own_profiler_is_a_base(name):
    if name not in installed_flavours():
        pytest.skip(f"{name} is not installed")
    profiler = layers_tensorrt.make_profiler(load_flavour(name).trt)
    profiler.report_layer_time("conv2d", 1.5)
    assert profiler.times == [("conv2d", 1.5)]


def test_an_engine_for_another_size(session):
    with pytest.raises(BackendError, match="not for 1 x 32 x 64"):
        layers_tensorrt.Session(session.engine, session.manifest, session.cuda, np.zeros((1, 32, 64, 3), np.uint8))


def test_engines_keep_tensorrts_context_where_the_profiler_looks_for_it():
    raw = object()
    assert Context(raw)._context is raw


def test_engines_need_a_gpu_device(tmp_path, monkeypatch, session):
    monkeypatch.setattr(layers_tensorrt, "read_engine_manifest", lambda path: session.manifest)
    with pytest.raises(BackendError, match="run on cuda or cuda:N, not on 'cpu'"):
        layers_tensorrt.profile({"model": str(tmp_path / "m.engine"), "device": "cpu"})


def test_roofs_are_of_the_device_that_ran(monkeypatch, capsys):
    asked = []
    answer = {"layers": [LayerTime("c", "conv", 2.0, 1000, 1000).to_dict()], "total_ms": [2.5], "precision": "fp32"}
    answer |= {"height": 4, "width": 4, "notes": ["a note"], "device": "cuda:1"}
    monkeypatch.setattr(layers, "in_own_process", lambda *_: answer)
    monkeypatch.setattr(layers, "measure_ceilings", lambda device, *_: asked.append(device) or ROOFS)
    assert main(STREETS) == 0
    assert asked == ["cuda"]
    assert "a note" in capsys.readouterr().out
    assert ceilings.operation_floor_ms(0, 0, ROOFS, "fp32") == 0
