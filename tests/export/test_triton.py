# SPDX-License-Identifier: Apache-2.0
"""Triton repositories: the config against the published schema and the model file, and how a repository changes."""

import json
import re
import shlex
import shutil
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
from deeplab_export import command, engine, export_onnx
from deeplab_export.graph import Signature
from deeplab_export.onnx_export import promised_manifest
from deeplab_export.options import build_parser
from deeplab_export.precision import choose_precision
from deeplab_export.triton import BACKENDS, ModelFolder, TritonOptions, config_text, label_text, shared_files
from deeplab_export.triton.server import ServerRunner
from deeplab_export.triton.text import Symbol, map_entries, to_text
from PIL import Image

from deeplab_infer import Segmenter
from deeplab_infer.configs import load_config
from deeplab_infer.engine_manifest import Profile, read_engine_manifest
from deeplab_infer.errors import BackendError, ExportError
from deeplab_infer.manifest import read_onnx_manifest
from deeplab_infer.runtime import tensorrt_flavour

from ..networks import STREETS, random_images
from .tiny import SIZE, TinyNetwork

pytest.importorskip("tritonclient.grpc", reason="needs tritonclient and grpcio")
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from . import fake_triton

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs/serving.md").read_text().partition("\n## Triton\n")[2]
SMALL = ["--height", "64", "--width", "96"]  # fixed: tracing open sizes takes five times as long


def parse(text):
    config = text_format.Parse(text, model_config_pb2.ModelConfig())
    fake_triton.check_config(config)
    return config


def manifest_of(precision="fp32", rest="fp32", overrides=(), **sizes):
    signature = Signature("uint8", "labels", **sizes)
    return promised_manifest(load_config(STREETS, overrides), signature, choose_precision(precision, rest))


def config_of(manifest, *profiles, **options):
    profiles = profiles or (Profile(manifest.batch, (32, 64, 128), (48, 96, 128)),)
    return parse(config_text("streets", manifest, TritonOptions(**options), profiles))


@pytest.fixture(scope="module", autouse=True)
def network():
    """A tiny network in the place of the config's, traced once for each signature."""
    found, traced = TinyNetwork(), {}
    found.checkpoint_source = "tests"  # so that its labels are judged
    trace = command._Job._trace

    def trace_once(job, model):
        key = command._signature(job._arguments, job._format)
        if key not in traced:
            traced[key] = trace(job, model)
        return traced[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "_load_model", lambda arguments: found)
        patch.setattr(command._Job, "_trace", trace_once)
        yield found


def export(folder, *arguments):
    sizes = [] if "--height" in arguments else SMALL
    return command.main(
        ["--config", STREETS, "--format", "triton", "-q", "--name", "streets", *sizes, *arguments, "-o", str(folder)]
    )


# -- text


def test_the_text_is_what_protobuf_reads():
    text = 'a "quoted" \\ name\n\tmit Straße und 道路'
    fields = {
        "name": text,
        "max_batch_size": 3,
        "input": [{"name": "a", "dims": [-1, 5], "data_type": Symbol("TYPE_INT32")}, {"name": "b"}],
        "dynamic_batching": {},
        "response_cache": {"enable": True},
        "parameters": map_entries({"one": {"string_value": text}, "two": {"string_value": ""}}),
        "version_policy": {"specific": {"versions": [1, 3]}},
    }
    expected = model_config_pb2.ModelConfig(name=text, max_batch_size=3)
    expected.input.add(name="a", dims=[-1, 5], data_type="TYPE_INT32")
    expected.input.add(name="b")
    expected.dynamic_batching.SetInParent()
    expected.response_cache.enable = True
    expected.parameters["one"].string_value = text
    expected.parameters["two"].string_value = ""
    expected.version_policy.specific.versions.extend([1, 3])
    assert text_format.Parse(to_text(fields), model_config_pb2.ModelConfig()) == expected
    assert to_text(fields).isascii()


def test_the_schema_is_strict():
    with pytest.raises(text_format.ParseError, match="no field named"):
        text_format.Parse(to_text({"maximum_batch_size": 3}), model_config_pb2.ModelConfig())


# -- config


def test_a_config_of_open_sizes():
    config = config_of(manifest_of(), instances=2, queue_delay=500)
    (image,), (labels,) = config.input, config.output
    assert (image.name, fake_triton.type_name(image.data_type), list(image.dims)) == (
        "image",
        "TYPE_UINT8",
        [-1, -1, 3],
    )
    assert (labels.name, fake_triton.type_name(labels.data_type), list(labels.dims)) == (
        "labels",
        "TYPE_UINT8",
        [-1, -1],
    )
    assert labels.label_filename == "labels.txt"
    assert (config.name, config.backend, config.max_batch_size) == ("streets", "onnxruntime", 8)
    (group,) = config.instance_group
    assert (group.count, group.kind) == (2, model_config_pb2.ModelInstanceGroup.KIND_AUTO)
    assert config.dynamic_batching.max_queue_delay_microseconds == 500
    assert [(one.batch_size, list(one.inputs["image"].dims)) for one in config.model_warmup] == [
        (1, [64, 96, 3]),
        (8, [64, 96, 3]),
    ]
    assert json.loads(config.parameters["classes"].string_value) == list(load_config(STREETS).classes)
    assert json.loads(config.parameters["palette"].string_value)[0] == list(load_config(STREETS).palette[0])


def test_a_fixed_batch_is_part_of_the_shape():
    for count in (1, 2):
        manifest = manifest_of(batch=(count,) * 3, height=(64,) * 3, width=(96,) * 3)
        for backend in BACKENDS:
            config = config_of(manifest, backend=backend)
            assert config.max_batch_size == 0
            assert list(config.input[0].dims) == [count, 64, 96, 3]
            assert list(config.output[0].dims) == [count, 64, 96]
            assert not config.HasField("dynamic_batching")
            (warm_up,) = config.model_warmup
            assert (warm_up.batch_size, list(warm_up.inputs["image"].dims)) == (1, [count, 64, 96, 3])


def test_a_smaller_largest_batch():
    assert config_of(manifest_of(), max_batch=4).max_batch_size == 4
    one = config_of(manifest_of(), max_batch=1)
    assert one.max_batch_size == 1
    assert list(one.input[0].dims) == [-1, -1, 3]
    assert not one.HasField("dynamic_batching")


def test_more_than_256_classes_are_int32():
    config = config_of(manifest_of(overrides=["num_classes=300"]))
    assert fake_triton.type_name(config.output[0].data_type) == "TYPE_INT32"


def test_openvino_s_config():
    config = config_of(manifest_of("bf16"), backend="openvino", instances=3, threads=6)
    assert config.max_batch_size == 0
    assert list(config.input[0].dims) == [-1, -1, -1, 3]
    found = {key: one.string_value for key, one in config.parameters.items() if key.isupper()}
    assert found == {"NUM_STREAMS": "3", "INFERENCE_NUM_THREADS": "6", "HINT_BF16": "YES"}
    assert config.instance_group[0].kind == model_config_pb2.ModelInstanceGroup.KIND_CPU
    lone = config_of(manifest_of(), backend="openvino").parameters
    assert (lone["NUM_STREAMS"].string_value, lone["PERFORMANCE_HINT"].string_value) == ("1", "LATENCY")


def test_tensorrt_s_config():
    profiles = (Profile((1, 1, 1), (64,) * 3, (96,) * 3), Profile((1, 4, 8), (32, 64, 128), (96,) * 3))
    config = config_of(manifest_of(), *profiles, backend="tensorrt", cuda_graphs=True)
    assert config.max_batch_size == 8
    assert list(config.instance_group[0].profile) == ["0", "1"]
    assert config.instance_group[0].kind == model_config_pb2.ModelInstanceGroup.KIND_GPU
    assert list(config.dynamic_batching.preferred_batch_size) == [4]
    assert config.optimization.cuda.graphs
    graphs = [(spec.batch_size, list(spec.input["image"].dim)) for spec in config.optimization.cuda.graph_spec]
    assert graphs == [(1, [64, 96, 3]), (8, [64, 96, 3])]
    fixed = manifest_of(batch=(2,) * 3, height=(64,) * 3, width=(96,) * 3)
    (spec,) = config_of(fixed, backend="tensorrt", cuda_graphs=True).optimization.cuda.graph_spec
    assert (spec.batch_size, list(spec.input["image"].dim)) == (0, [2, 64, 96, 3])


@pytest.mark.parametrize("precision", ["fp32", "tf32", "fp16", "bf16", "int8"])
def test_the_accelerator_tensorrt(precision):
    manifest = manifest_of(precision)
    config = config_of(manifest, accelerator="tensorrt", engine_cache="/engines", threads=2, device="gpu")
    (found,) = config.optimization.execution_accelerators.gpu_execution_accelerator
    mode = "FP32" if precision == "tf32" else precision.upper()
    assert found.name == "tensorrt"
    assert dict(found.parameters) == {
        "precision_mode": mode,
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": "/engines",
        "trt_profile_min_shapes": "image:1x32x48x3",
        "trt_profile_opt_shapes": "image:1x64x96x3",
        "trt_profile_max_shapes": "image:8x128x128x3",
    }
    assert config.parameters["intra_op_thread_count"].string_value == "2"
    fixed = config_of(manifest_of(batch=(1,) * 3, height=(64,) * 3, width=(96,) * 3), accelerator="tensorrt")
    (found,) = fixed.optimization.execution_accelerators.gpu_execution_accelerator
    assert dict(found.parameters) == {"precision_mode": "FP32"}


def test_the_accelerator_openvino():
    config = config_of(manifest_of(), accelerator="openvino", device="cpu")
    (found,) = config.optimization.execution_accelerators.cpu_execution_accelerator
    assert found.name == "openvino"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "pytorch"}, "'pytorch' is not one of onnxruntime, openvino, tensorrt"),
        ({"version": 0}, "version of a Triton model must be at least 1"),
        ({"instances": 0}, "instances of a Triton model must be at least 1"),
        ({"queue_delay": -1}, "at least 0 microseconds"),
        ({"backend": "openvino", "device": "gpu"}, "does not run on a gpu"),
        ({"backend": "tensorrt", "device": "cpu"}, "does not run on a cpu"),
        ({"backend": "openvino", "accelerator": "tensorrt"}, "is for the onnxruntime backend"),
        ({"accelerator": "tensorrt", "device": "cpu"}, "does not run on a cpu"),
        ({"engine_cache": "/engines"}, "add --triton-accelerator tensorrt"),
        ({"backend": "tensorrt", "threads": 2}, "has no number of threads"),
        ({"cuda_graphs": True}, "option of the tensorrt backend"),
        ({"backend": "openvino", "max_batch": 4}, "refuses every batch that is not full"),
    ],
)
def test_options_that_a_backend_does_not_have(options, message):
    with pytest.raises(ExportError, match=message):
        TritonOptions(**options)


@pytest.mark.parametrize(
    ("manifest", "options", "message"),
    [
        ({}, {"max_batch": 9}, "more than the 8 that the model is made for; export it with --batch 1:9:9"),
        ({"batch": (1, 1, 1)}, {"max_batch": 2}, "fixed at 1"),
        ({"batch": (1, 1, 1)}, {"queue_delay": 5}, "nothing to wait for"),
        ({"precision": "fp8"}, {"accelerator": "tensorrt"}, "has no mode for fp8"),
        ({"precision": "int8", "rest": "fp16"}, {"accelerator": "tensorrt"}, "--rest fp32"),
    ],
)
def test_options_that_a_model_does_not_have(manifest, options, message):
    with pytest.raises(ExportError, match=message):
        config_of(manifest_of(**manifest), **options)


# -- the command


@pytest.fixture(scope="module")
def repository(network, tmp_path_factory):
    """One model a backend, as the command writes them."""
    folder = tmp_path_factory.mktemp("repository")
    assert export(folder, "--max-batch", "3", "--name", "batches") == 0
    assert export(folder, "--batch", "1", "--name", "fixed", "--fp16") == 0
    assert export(folder, "--triton-backend", "openvino", "--name", "openvino") == 0
    return folder


@pytest.fixture(scope="module")
def segmenter(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("logits") / "model.onnx"
    export_onnx(network, path, batch=1, height=SIZE[0], width=SIZE[1])
    with Segmenter(path) as found:
        yield found


@pytest.mark.parametrize("name", ["batches", "fixed", "openvino"])
def test_a_server_accepts_the_model_and_answers_like_the_toolkit(repository, segmenter, name):
    served = fake_triton.Served(repository, name)
    assert served.labels == list(load_config(STREETS).classes)
    with Image.open(ROOT / "deeplab_infer/assets/street.png") as street:
        image = np.asarray(street.convert("RGB").resize(SIZE[::-1]))
    labels = served.infer(image[None])
    assert labels.dtype == np.uint8
    expected = segmenter.predict(image).labels
    if name == "fixed":
        assert np.mean(labels[0] == expected) > 0.999  # of 6144 pixels, some six within float16's rounding
    else:
        assert np.array_equal(labels[0], expected)
    if name != "fixed":
        pair = random_images(2, *SIZE)
        assert np.array_equal(served.infer(pair), np.stack([segmenter.predict(one).labels for one in pair]))
    with pytest.raises(ValueError, match="unexpected shape"):
        served.infer(random_images(4 if name == "batches" else 1, SIZE[0], SIZE[1] + (name != "batches")))


def test_the_files_of_a_repository(repository):
    files = {"batches": {"model.onnx"}, "fixed": {"model.onnx"}, "openvino": {"model.xml", "model.bin"}}
    for name, models in files.items():
        assert {path.name for path in (repository / name).iterdir()} == {"config.pbtxt", "labels.txt", "1"}
        assert {path.name for path in (repository / name / "1").iterdir()} == {*models, "manifest.json"}
        manifest = json.loads((repository / name / "1/manifest.json").read_text())
        assert manifest["output_kind"] == "labels"
        assert manifest["config"]["dataset"]["palette"]
        report = json.loads((repository / f"{name}.1.report.json").read_text())
        assert report["passed"]
    assert read_onnx_manifest(repository / "batches/1/model.onnx").batch == (1, 3, 3)
    assert {path.name for path in repository.iterdir()} == {*files, *(f"{name}.1.report.json" for name in files)}


def test_open_sizes(tmp_path):
    sizes = ["--height", "32:64:128", "--width", "32:96:128", "--max-batch", "3"]
    assert export(tmp_path, *sizes) == 0
    served = fake_triton.Served(tmp_path, "streets")
    assert [tuple(shape) for shape in served.batches] == [(1, 64, 96, 3), (3, 64, 96, 3)]
    assert served.infer(random_images(2, 32, 70)).shape == (2, 32, 70)


def test_versions(tmp_path, capsys):
    folder = tmp_path / "streets"
    fast = ["--no-verify"]
    assert export(tmp_path, *fast) == 0
    first = (folder / "1/model.onnx").read_bytes()
    assert export(tmp_path, *fast) == 2
    assert "--triton-version, --name or --output-dir" in capsys.readouterr().err
    assert export(tmp_path, *fast, "--triton-version", "2") == 0
    assert "NOT verified" in capsys.readouterr().err
    assert (folder / "1/model.onnx").read_bytes() == first
    assert fake_triton.Served(tmp_path, "streets").version == 2
    assert export(tmp_path, *fast, "--triton-version", "3", "--instances", "2") == 2
    assert "config.pbtxt says something else" in capsys.readouterr().err
    assert export(tmp_path, *fast, "--triton-version", "3", "--triton-backend", "openvino", "--force") == 2
    assert "has no model.xml" in capsys.readouterr().err
    assert sorted(path.name for path in folder.iterdir()) == ["1", "2", "config.pbtxt", "labels.txt"]
    assert export(tmp_path, *fast, "--triton-version", "2", "--instances", "2", "--force") == 0
    assert fake_triton.read_config(folder / "config.pbtxt").instance_group[0].count == 2
    assert sorted(path.name for path in folder.iterdir()) == ["1", "2", "config.pbtxt", "labels.txt"]


def test_other_labels_are_not_overwritten(tmp_path):
    place = ModelFolder(tmp_path, "streets", 2, "onnxruntime")
    (place.path / "1").mkdir(parents=True)
    (place.path / "1/model.onnx").touch()
    (place.path / "labels.txt").write_text("cat\ndog\n")
    texts = shared_files("", label_text(manifest_of()))
    with pytest.raises(ExportError, match="labels.txt says something else"):
        place.check(texts, force=False)
    place.check(texts, force=True)


def test_what_fails_does_not_get_into_the_repository(tmp_path, capsys, caplog):
    assert export(tmp_path, "--min-agreement", "1.1") == 1
    assert "FAILED" in capsys.readouterr().err
    assert "left as it was" in caplog.text
    assert [path.name for path in tmp_path.iterdir()] == ["streets.1.report.json"]


def test_nothing_half_written_is_left(tmp_path, monkeypatch, capsys):
    def stop(*arguments, **keywords):
        raise KeyboardInterrupt

    monkeypatch.setattr("deeplab_export.onnx_export.write_onnx", stop)
    assert export(tmp_path) == 130
    assert "interrupted" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output", "logits"], "answers with labels"),
        (["--input", "float"], "takes uint8 pixels"),
        (["--name", "a/b"], "cannot be the name of a Triton model"),
        (["--name", "my model"], "cannot be the name of a Triton model"),
        (["--triton-backend", "tensorrt"], "full tensorrt package, not of tensorrt_rtx"),
        (["--triton-backend", "tensorrt", "--flavour", "tensorrt_rtx"], "--triton-accelerator tensorrt"),
        (["--custom-ops"], "--custom-ops is not for Triton"),
        (["--check-server", "--no-verify"], "leave one of them away"),
        (["--check-server"], "there is none on the PATH"),
        (["--triton-backend", "openvino", "--fp8"], "OpenVINO files are"),
        (["--format", "onnx", "--instances", "2"], "--instances is for Triton: add --format triton"),
        (["--format", "onnx", "--triton-backend", "openvino"], "--triton-backend is for Triton"),
        (["--format", "onnx", "--check-server"], "--check-server is for Triton"),
        (
            ["--triton-accelerator", "tensorrt", "--profile", "1,64,96", "--profile", "2,64,96"],
            "has one profile",
        ),
    ],
)
def test_wrong_use(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.setattr(tensorrt_flavour, "installed_flavours", lambda: ["tensorrt_rtx"])
    monkeypatch.setenv("PATH", str(tmp_path))
    assert export(tmp_path / "out", *arguments) == 2
    assert message in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("*")) if (tmp_path / "out").exists() else True


def test_an_unknown_backend_is_a_usage_error(capsys):
    with pytest.raises(SystemExit) as stop:
        build_parser().parse_args(["--format", "triton", "--triton-backend", "pytorch"])
    assert stop.value.code == 2
    assert "invalid choice: 'pytorch'" in capsys.readouterr().err


# -- engines


@pytest.fixture
def full_tensorrt(monkeypatch):
    """tensorrt_rtx in the place of the full package, which needs a GPU to build: the same API and another plan."""
    if "tensorrt_rtx" not in tensorrt_flavour.installed_flavours():
        pytest.skip("tensorrt_rtx is not installed")
    rtx = tensorrt_flavour.load_flavour("tensorrt_rtx")
    monkeypatch.setattr(tensorrt_flavour, "installed_flavours", lambda: ["tensorrt", "tensorrt_rtx"])
    asked = []
    monkeypatch.setattr(engine, "load_flavour", lambda name: asked.append(name) or rtx)
    return rtx, asked


def test_an_engine(tmp_path, monkeypatch, full_tensorrt):
    rtx, asked = full_tensorrt
    kept = tmp_path / "kept.onnx"
    build = engine.build_engine

    def build_and_keep(onnx_path, *arguments, **keywords):
        shutil.copy(onnx_path, kept)
        return build(onnx_path, *arguments, **keywords)

    monkeypatch.setattr(engine, "build_engine", build_and_keep)
    folder = tmp_path / "repository"
    options = ["--triton-backend", "tensorrt", "--max-batch", "3", "--queue-delay-us", "100", "--cuda-graphs"]
    assert export(folder, *options, "--fp16") == 0
    assert set(asked) == {"tensorrt"}
    assert {path.name for path in (folder / "streets/1").iterdir()} == {
        "model.plan",
        "model.plan.json",
        "manifest.json",
    }
    config = parse((folder / "streets/config.pbtxt").read_text())
    found = read_engine_manifest(folder / "streets/1/model.plan")
    (profile,) = found.profiles
    assert profile.batch == (1, 3, 3)
    assert config.max_batch_size == 3
    assert config.dynamic_batching.max_queue_delay_microseconds == 100
    for warm_up in config.model_warmup:
        assert profile.accepts(warm_up.batch_size, *warm_up.inputs["image"].dims[:2])
    # An engine cannot be opened without a GPU; the network that it is built from can.
    builder = rtx.trt.Builder(rtx.logger)
    network = builder.create_network(rtx.network_flags())
    assert rtx.trt.OnnxParser(network, rtx.logger).parse(kept.read_bytes())
    image, labels = network.get_input(0), network.get_output(0)
    assert (network.num_inputs, network.num_outputs) == (1, 1)
    described = [
        {tensor.name: (np.dtype(rtx.trt.nptype(tensor.dtype)).name, list(tensor.shape))} for tensor in (image, labels)
    ]
    fake_triton.check_tensors(config, *described)


# -- a server


@pytest.fixture
def on_the_path(tmp_path, monkeypatch):
    """A function that puts a program named tritonserver on the PATH."""

    def put(text):
        program = tmp_path / "bin" / "tritonserver"
        program.parent.mkdir()
        program.write_text(f"#!/bin/sh\n{text}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")

    return put


def test_a_model_that_a_server_answers_for_is_published(tmp_path, on_the_path, capsys):
    on_the_path(f'exec {sys.executable} {Path(fake_triton.__file__)} "$@"')
    assert export(tmp_path / "out", "--check-server") == 0
    assert "PASSED: streets on tritonserver (fp32)" in capsys.readouterr().err
    report = json.loads((tmp_path / "out/streets.1.report.json").read_text())
    assert report["server"]["passed"]
    assert all(case["runtime"].startswith("tritonserver http://127.0.0.1:") for case in report["server"]["cases"])
    assert all(case["agreement"] >= 0.9999 for case in report["server"]["cases"])


def test_a_server_that_refuses_the_model(tmp_path, on_the_path, capsys):
    on_the_path("echo 'failed to load streets: no such backend'; exit 3")
    assert export(tmp_path / "out", "--check-server") == 2
    assert "tritonserver ended with code 3: failed to load streets: no such backend" in capsys.readouterr().err
    assert list((tmp_path / "out").iterdir()) == []


def test_a_request_that_the_server_refuses(repository):
    served = fake_triton.Served(repository, "batches")
    manifest = read_onnx_manifest(repository / "batches/1/model.onnx")
    with HTTPServer(("127.0.0.1", 0), fake_triton.make_handler(served)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        runner = ServerRunner(f"http://127.0.0.1:{server.server_port}", "batches", manifest)
        assert runner.run(random_images(3, *SIZE)).shape == (3, *SIZE)
        with pytest.raises(BackendError, match="refuses the request.*unexpected shape"):
            runner.run(random_images(4, *SIZE))
        server.shutdown()
    with pytest.raises(BackendError, match="does not answer"):
        runner.run(random_images(1, *SIZE))


def test_an_answer_without_labels(repository):
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"outputs": []}')

        def log_message(self, *arguments):
            pass

    manifest = read_onnx_manifest(repository / "batches/1/model.onnx")
    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        runner = ServerRunner(f"http://127.0.0.1:{server.server_port}", "batches", manifest)
        with pytest.raises(BackendError, match=r"answers without labels: {\"outputs\": \[\]}"):
            runner.run(random_images(1, *SIZE))


@pytest.mark.skipif(shutil.which("tritonserver") is None, reason="needs Triton Inference Server")
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_the_real_server(tmp_path, backend):
    assert export(tmp_path, "--triton-backend", backend, "--triton-device", "cpu", "--check-server") == 0


# -- the guide


def test_the_guide(segmenter, tmp_path, monkeypatch, capsys):
    """Its command, and its client against what that wrote."""
    with Image.open(ROOT / "deeplab_infer/assets/street.png") as street:
        street.convert("RGB").resize(SIZE[::-1]).save(tmp_path / "street.png")
    (program,) = re.findall(r"^```python\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
    (lines,) = re.findall(r"^```bash\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
    written, started = lines.splitlines()
    assert started == "tritonserver --model-repository=$PWD/repository"
    monkeypatch.chdir(tmp_path)
    assert command.main([*shlex.split(written)[1:], *SMALL, "-q"]) == 0
    capsys.readouterr()
    server, address = fake_triton.serve_grpc(fake_triton.Served("repository", "streets"))
    try:
        exec(program.replace("127.0.0.1:8001", address), {"__name__": "client"})
    finally:
        server.stop(None)
    expected = segmenter.predict(tmp_path / "street.png")
    assert np.array_equal(np.asarray(Image.open("labels.png")), expected.color_map())
    said = dict(line.split(": ") for line in capsys.readouterr().out.splitlines())
    areas = {name: f"{area:.1%}" for name, area in expected.areas().items() if area}
    assert said == areas


def test_the_guide_s_table_names_every_backend():
    rows = re.findall(r"^\| `(\w+)` \| `([\w.]+)`", GUIDE, re.MULTILINE)
    assert dict(rows) == {name: backend.file for name, backend in BACKENDS.items()}
