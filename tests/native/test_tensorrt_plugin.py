# SPDX-License-Identifier: Apache-2.0
"""The TensorRT plugin library: its code over CPU memory, and engines that TensorRT-RTX builds with it without a GPU."""

from __future__ import annotations

import ctypes
import fcntl
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import onnx
import pybind11
import pytest
import torch

from deeplab_infer import _C
from deeplab_infer.runtime.tensorrt_flavour import load_flavour

from ..networks import make_network, random_images, reference_logits

ROOT = Path(__file__).resolve().parents[2]
HEADERS = os.environ.get("DEEPLAB_TENSORRT_INCLUDE", "")
NAME = "libdeeplab_tensorrt.so"
PLUGINS = {"DeeplabDepthwise", "DeeplabAsppDepthwise", "DeeplabUpsampleConcatDepthwise", "DeeplabUpsampleArgmax"}
PATH = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")])
SEPARABLE = "deeplabv3plus_r18-d8_4xb2-80k_cityscapes-512x1024"

pytestmark = pytest.mark.slow  # the first run compiles the kernels
needs_rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed (pip install tensorrt-rtx)"
)


def configure(folder, *arguments):
    command = ["cmake", f"-S{ROOT}", f"-B{folder}", f"-DPython_EXECUTABLE={sys.executable}",
               f"-Dpybind11_DIR={pybind11.get_cmake_dir()}", *arguments]  # fmt: skip
    if shutil.which("ninja", path=PATH):
        command.append("-GNinja")
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PATH": PATH})


def needs_tools():
    if not HEADERS:
        pytest.skip("TensorRT's headers: set DEEPLAB_TENSORRT_INCLUDE to the folder with NvInfer.h")
    for tool in ("nvcc", "cmake"):
        if shutil.which(tool, path=PATH) is None:
            pytest.skip(f"{tool} is not installed")


@pytest.fixture(scope="session")
def build(pytestconfig):
    """A build folder, kept between runs: the kernels take minutes the first time."""
    needs_tools()
    folder = pytestconfig.cache.mkdir("tensorrt-plugins")
    major, minor = torch.cuda.get_device_capability() if torch.cuda.is_available() else (9, 0)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one of several test workers builds, the others wait
        configured = configure(
            folder, f"-DDEEPLAB_TENSORRT_INCLUDE={HEADERS}", "-DDEEPLAB_STRICT=ON", "-DDEEPLAB_CUDA=ON",
            f"-DCMAKE_CUDA_ARCHITECTURES={major}{minor}-real", f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={folder}",
        )  # fmt: skip
        assert configured.returncode == 0, configured.stderr
        command = [
            "cmake",
            "--build",
            str(folder),
            "--parallel",
            "--target",
            "deeplab_tensorrt",
            "deeplab_tensorrt_check",
        ]
        built = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PATH": PATH})
        assert built.returncode == 0, built.stdout + built.stderr
    return folder


@pytest.fixture(scope="session")
def library(request):
    """The library that was installed, or one built for the tests."""
    installed = Path(_C.__file__).parent / NAME
    return installed if installed.exists() else request.getfixturevalue("build") / NAME


def test_plugins_live_serialise_refuse_and_compute(build):
    result = subprocess.run([build / "deeplab_tensorrt_check"], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout == "all checks passed\n"


def test_the_library_needs_nothing_of_tensorrt_and_shows_two_functions(library):
    loaded = ctypes.CDLL(str(library))
    assert loaded.getCreators and loaded.setLoggerFinder
    if shutil.which("readelf") is None:
        pytest.skip("readelf is not installed")
    needed = subprocess.run(["readelf", "-d", library], capture_output=True, text=True, check=True).stdout
    assert "NEEDED" in needed
    assert not [line for line in needed.splitlines() if "NEEDED" in line and ("nvinfer" in line or "cuda" in line)]
    symbols = subprocess.run(
        ["readelf", "-W", "--dyn-syms", library], capture_output=True, text=True, check=True
    ).stdout
    rows = [line.split() for line in symbols.splitlines()]
    defined = {row[7] for row in rows if len(row) > 7 and row[4] in ("GLOBAL", "WEAK") and row[6] != "UND"}
    assert defined == {"getCreators", "setLoggerFinder"}


def test_a_folder_without_headers_is_refused(tmp_path):
    needs_tools()
    (tmp_path / "empty").mkdir()
    result = configure(tmp_path / "build", f"-DDEEPLAB_TENSORRT_INCLUDE={tmp_path / 'empty'}", "-DDEEPLAB_CUDA=ON")
    assert result.returncode != 0
    assert "has no NvInfer.h" in result.stderr


# In a process of its own: TensorRT keeps a library once it is loaded, and dies where its own parts do not find each other.
ENGINE = """
import json, sys
import tensorrt_rtx as trt

class Log(trt.ILogger):
    lines = []
    def log(self, severity, text):
        self.lines.append((severity.name, text))

library, model, mode = sys.argv[1:4]
log = Log()
builder = trt.Builder(log)
registry = builder.get_plugin_registry()
if mode != "without":
    assert registry.load_library(library) is not None
network = builder.create_network(0)
parser = trt.OnnxParser(network, log)
parsed = parser.parse(open(model, "rb").read())
layers = [network.get_layer(index) for index in range(network.num_layers)]
plugins = [layer for layer in layers if layer.type == trt.LayerType.PLUGIN_V3]
result = {
    "creators": [creator.name for creator in registry.all_creators],
    "parsed": parsed,
    "plugins": [],
    "bytes": 0,
}
if parsed:
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    profile.set_shape("image", (1, 32, 32, 3), (1, 128, 256, 3), (2, 512, 512, 3))
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    if plan is not None:
        result["bytes"] = plan.nbytes
        result["plugins"] = [
            [[str(layer.get_output(i).dtype), list(layer.get_output(i).shape)] for i in range(layer.num_outputs)]
            for layer in plugins
        ]
        if len(sys.argv) > 4:
            open(sys.argv[4], "wb").write(plan)
result["errors"] = [text for severity, text in log.lines if severity == "ERROR"]
print(json.dumps(result))
"""


@pytest.fixture(scope="session")
def rtx_folder(tmp_path_factory):
    """Where TensorRT-RTX's parser finds the library that it asks for without a version, which its wheel lacks."""
    folder = tmp_path_factory.mktemp("rtx")
    spec = importlib.util.find_spec("tensorrt_rtx_libs")
    if spec is not None:
        (library,) = Path(spec.origin).parent.glob("libtensorrt_rtx.so.*")
        (folder / "libtensorrt_rtx.so").symlink_to(library)
    return folder


@pytest.fixture
def engine(library, rtx_folder, tmp_path):
    def build_engine(model, mode="with", plan=None):
        path = tmp_path / "model.onnx"
        onnx.save(model, path)
        arguments = [str(library), str(path), mode, *([] if plan is None else [str(plan)])]
        search = os.pathsep.join(filter(None, [str(rtx_folder), os.environ.get("LD_LIBRARY_PATH")]))
        environment = {**os.environ, "LD_LIBRARY_PATH": search}
        result = subprocess.run(
            [sys.executable, "-c", ENGINE, *arguments], capture_output=True, text=True, env=environment
        )
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout.splitlines()[-1])

    return build_engine


@pytest.fixture(scope="module")
def network():
    return make_network(SEPARABLE)


@pytest.fixture(scope="module")
def exported(network):
    from deeplab_export.custom_ops import to_onnx_with_custom_ops
    from deeplab_export.graph import DeploymentGraph, Signature

    return to_onnx_with_custom_ops(DeploymentGraph(network, Signature(output="labels")), 18)


def one_node_model(op_type, inputs, outputs, parameters, **attributes):
    """Uint8 images into one fused operator, by way of casts; parameters are float32 arrays."""
    half = onnx.TensorProto.FLOAT16
    helper = onnx.helper
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Cast", ["pixels"], ["half"], to=half),
        helper.make_node("Transpose", ["half"], ["x"], perm=[0, 3, 1, 2]),
        helper.make_node(op_type, inputs, outputs, domain="deeplab", **attributes),
    ]
    graph = helper.make_graph(
        nodes,
        "one",
        [helper.make_tensor_value_info("image", onnx.TensorProto.UINT8, ["n", "h", "w", 3])],
        [helper.make_tensor_value_info(name, half, ["n", 3, "h", "w"]) for name in outputs],
        [onnx.numpy_helper.from_array(value, name) for name, value in parameters.items()],
    )
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("deeplab", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10)


def depthwise_model(rates=(4, 8), **changed):
    parameters = {
        "weight": np.ones((len(rates), 3, 3, 3), np.float32),
        "scale": np.ones((len(rates), 3), np.float32),
        "shift": np.zeros((len(rates), 3), np.float32),
    }
    attributes = {"rates": list(rates), "kernel_shape": [3, 3], "group": 3, "min": 0.0, "max": float("inf"), **changed}
    outputs = [f"y{index}" for index in range(len(rates))]
    return one_node_model("DeeplabAsppDepthwise", ["x", *parameters], outputs, parameters, **attributes)


@needs_rtx
def test_float32_engine_of_a_whole_network_with_open_dimensions(engine, exported):
    from deeplab_export.custom_ops import strip_functions

    result = engine(strip_functions(exported))
    assert set(result["creators"]) >= PLUGINS
    assert result["parsed"], result["errors"]
    outputs = result["plugins"]
    assert sorted(len(one) for one in outputs) == [1, 1, 1, 3]
    labels = [one for one in outputs if one[0][0] == "DataType.INT32"]
    assert labels == [[["DataType.INT32", [-1, -1, -1]]]]
    assert {dtype for one in outputs if one not in labels for dtype, _ in one} == {"DataType.FLOAT"}
    assert result["bytes"] > 1_000_000, result["errors"]


@needs_rtx
def test_half_precision_engine(engine):
    result = engine(depthwise_model())
    (outputs,) = result["plugins"]
    assert outputs == [["DataType.HALF", [-1, 3, -1, -1]]] * 2
    assert result["bytes"] > 0, result["errors"]


@needs_rtx
def test_a_file_with_functions_needs_no_plugins(engine, exported):
    """TensorRT's parser prefers a model's function to a plugin of that name."""
    for mode in ("with", "without"):
        result = engine(exported, mode)
        assert result["parsed"], result["errors"]
        assert not result["plugins"]
        assert result["bytes"] > 0


@needs_rtx
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"group": 4}, "DeeplabAsppDepthwise: x: got shape [-1, 3, -1, -1], needs [N, C, H, W] with the C of"),
        ({"kernel_shape": [3, 5]}, "DeeplabAsppDepthwise: kernel_shape: got 3 x 5"),
        ({"kernel_shape": [5, 5]}, "DeeplabAsppDepthwise: weight: got shape [2, 3, 3, 3]"),
        ({"rates": [0, 4]}, "DeeplabAsppDepthwise: rates: got 0"),
        ({"min": 1.0, "max": 0.0}, "DeeplabAsppDepthwise: min: got 1, which is above max, 0"),
    ],
)
def test_a_wrong_attribute_is_an_error_that_names_it(engine, changed, message):
    result = engine(depthwise_model(**changed))
    assert result["bytes"] == 0
    assert [text for text in result["errors"] if text.startswith(message)], result["errors"]


@pytest.mark.gpu
@needs_rtx
def test_an_engine_computes_what_the_network_does(engine, network, tmp_path):
    from deeplab_export.custom_ops import strip_functions, to_onnx_with_custom_ops
    from deeplab_export.graph import DeploymentGraph, Signature

    exported = to_onnx_with_custom_ops(DeploymentGraph(network, Signature()), 18)
    assert engine(strip_functions(exported), plan=tmp_path / "plan")["bytes"] > 0
    trt = load_flavour("tensorrt_rtx").trt
    logger = trt.Logger(trt.Logger.ERROR)
    images = random_images(1, 128, 256)
    with trt.Runtime(logger) as runtime:
        plan = runtime.deserialize_cuda_engine((tmp_path / "plan").read_bytes())
        if plan is None:
            pytest.skip("TensorRT-RTX does not run on this GPU")
        context = plan.create_execution_context()
        expected = reference_logits(network, images)
        x = torch.from_numpy(images).cuda()
        y = torch.empty(expected.shape, device="cuda")
        context.set_input_shape("image", images.shape)
        context.set_tensor_address("image", x.data_ptr())
        context.set_tensor_address("logits", y.data_ptr())
        stream = torch.cuda.current_stream()
        assert context.execute_async_v3(stream.cuda_stream)
        stream.synchronize()
    # TF32 convolutions: factors of 11 bits through a few dozen layers.
    assert np.abs(y.cpu().numpy() - expected).max() < 2e-2 * (expected.max() - expected.min())
