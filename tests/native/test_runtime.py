# SPDX-License-Identifier: Apache-2.0
"""The C++ runtime: built, installed and found as its users do, and equal to Python's labels pixel for pixel."""

import ctypes
import dataclasses
import fcntl
import hashlib
import importlib.util
import os
import random
import re
import shutil
import subprocess
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from deeplab_infer import Segmenter
from deeplab_infer.configs import load_config
from deeplab_infer.configs.datasets import generic_dataset
from deeplab_infer.engine_manifest import EngineManifest, Profile, write_engine_manifest
from deeplab_infer.manifest import METADATA_KEY, Manifest
from deeplab_infer.ops.resize_taps import resize_taps

from ..networks import STREETS, random_images

ROOT = Path(__file__).resolve().parents[2]
PATH = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")])
ENVIRONMENT = {**os.environ, "PATH": PATH}
ORT_HEADERS = os.environ.get("DEEPLAB_ONNXRUNTIME_INCLUDE", "")
TRT_HEADERS = os.environ.get("DEEPLAB_TENSORRT_INCLUDE", "")
BACKENDS = ["openvino", *(["onnxruntime"] if ORT_HEADERS else [])]

pytestmark = pytest.mark.slow  # the first run compiles the kernels

OK, INVALID_ARGUMENT, MODEL_FILE, BACKEND, IMAGE = range(5)


# -- building


def folder_of(package):
    spec = importlib.util.find_spec(package)
    return None if spec is None or spec.origin is None else Path(spec.origin).parent


def call(*command):
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True, env=ENVIRONMENT)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def configure(source, folder, *arguments):
    generator = ["-GNinja"] if shutil.which("ninja", path=PATH) else []
    call("cmake", f"-S{source}", f"-B{folder}", *generator, *arguments)


def needs_tools():
    for tool in ("cmake", "c++"):
        if shutil.which(tool, path=PATH) is None:
            pytest.skip(f"{tool} is not installed")


def backend_arguments(folder):
    openvino = folder_of("openvino")
    if openvino is None or not (openvino / "cmake" / "OpenVINOConfig.cmake").is_file():
        pytest.skip("the installed openvino has no headers and CMake files")
    arguments = ["-DDEEPLAB_OPENVINO=ON", f"-DOpenVINO_DIR={openvino / 'cmake'}"]
    if ORT_HEADERS:
        (library,) = (folder_of("onnxruntime") / "capi").glob("libonnxruntime.so.*")
        for name in ("libonnxruntime.so", "libonnxruntime.so.1"):  # the second is its soname, which the wheel lacks
            (folder / name).unlink(missing_ok=True)
            (folder / name).symlink_to(library)
        arguments += [
            f"-DDEEPLAB_ONNXRUNTIME_INCLUDE={ORT_HEADERS}",
            f"-DDEEPLAB_ONNXRUNTIME_LIBRARY={folder / 'libonnxruntime.so'}",
        ]
    return arguments


@dataclasses.dataclass(frozen=True)
class Built:
    prefix: Path
    example: Path  # the example program
    check: Path  # tests/native/runtime_check.cpp

    @property
    def library(self):
        (found,) = self.prefix.glob("lib*/libdeeplab_runtime.so.1")
        return found


@pytest.fixture(scope="session")
def built(pytestconfig):
    """An installed runtime; its build folder is kept between runs."""
    needs_tools()
    folder = pytestconfig.cache.mkdir("cpp-runtime")
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one of several test workers builds, the others wait
        configure(
            ROOT, folder / "build", "-DDEEPLAB_PYTHON=OFF", "-DDEEPLAB_CUDA=OFF", "-DDEEPLAB_RUNTIME=ON",
            "-DDEEPLAB_STRICT=ON", "-DCMAKE_BUILD_TYPE=Release", *backend_arguments(folder),
        )  # fmt: skip
        call("cmake", "--build", folder / "build", "--parallel", "--target", "deeplab_runtime", "deeplab_runtime_check")
        prefix = folder / "prefix"
        call("cmake", "--install", folder / "build", "--prefix", prefix, "--component", "deeplab_runtime")
        configure(ROOT / "examples" / "cpp", folder / "example", f"-DCMAKE_PREFIX_PATH={prefix}",
                  "-DCMAKE_DISABLE_FIND_PACKAGE_OpenCV=ON", "-DCMAKE_CXX_FLAGS=-Wall -Wextra -Wpedantic -Werror")  # fmt: skip
        call("cmake", "--build", folder / "example")
    check = folder / "build" / "csrc" / "runtime" / "deeplab_runtime_check"
    return Built(prefix, folder / "example" / "segment_image", check)


# -- models


def make_config(**changes):
    classes = changes.pop("classes", 5)
    changes = {"test_scale": None, "test_mode": "whole", "dataset": generic_dataset(classes), **changes}
    return load_config(STREETS).replace(num_classes=classes, **changes)


def make_graph(manifest, seed=0):
    """Two convolutions: logits at a quarter of the size, or labels at the size."""
    rng = np.random.default_rng(seed)
    classes, labels = manifest.config.num_classes, manifest.output_kind == "labels"
    stride = [1, 1] if labels else [2, 2]
    constants = {
        "first": rng.normal(size=(8, 3, 3, 3)) / 5,
        "second": rng.normal(size=(classes, 8, 3, 3)) / 8,
        "mean": np.full((1, 3, 1, 1), 128.0),
        "std": np.full((1, 3, 1, 1), 64.0),
    }
    nodes, x = [], "image"
    if manifest.input_kind == "uint8":
        nodes = [
            helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
            helper.make_node("Transpose", ["float"], ["planes"], perm=[0, 3, 1, 2]),
            helper.make_node("Sub", ["planes", "mean"], ["centred"]),
            helper.make_node("Div", ["centred", "std"], ["x"]),
        ]
        x = "x"
    nodes += [
        helper.make_node("Conv", [x, "first"], ["a"], pads=[1, 1, 1, 1], strides=stride),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "second"], ["logits"], pads=[1, 1, 1, 1], strides=stride),
    ]
    output, kind, shape = "logits", TensorProto.FLOAT, ["n", classes, "p", "q"]
    if labels:
        kind = TensorProto.UINT8 if manifest.label_dtype == "uint8" else TensorProto.INT32
        nodes += [
            helper.make_node("ArgMax", ["logits"], ["index"], axis=1, keepdims=0),
            helper.make_node("Cast", ["index"], ["labels"], to=kind),
        ]
        output, shape = "labels", ["n", "h", "w"]
    pixels = manifest.input_kind == "uint8"
    image = helper.make_tensor_value_info(
        "image",
        TensorProto.UINT8 if pixels else TensorProto.FLOAT,
        ["n", "h", "w", 3] if pixels else ["n", 3, "h", "w"],
    )
    used = constants if pixels else {name: constants[name] for name in ("first", "second")}
    weights = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in used.items()]
    return helper.make_graph(nodes, "two", [image], [helper.make_tensor_value_info(output, kind, shape)], weights)


def make_manifest(input_kind="uint8", output_kind="logits", batch=(1, 1, 8), size=None, **changes):
    sides = ((1, 64, 512), (1, 64, 1024)) if size is None else tuple((side,) * 3 for side in size)
    return Manifest(make_config(**changes), input_kind, output_kind, "fp32", 18, batch, *sides)


def save(path, manifest, metadata=None):
    """Write an ONNX file; ``metadata`` replaces the manifest in it."""
    imports = [helper.make_opsetid("", 18)]
    model = helper.make_model(make_graph(manifest), opset_imports=imports, ir_version=9)
    entry = model.metadata_props.add()
    entry.key, entry.value = METADATA_KEY, manifest.to_json() if metadata is None else metadata
    onnx.save(model, path)
    return path


SLIDE = {"test_mode": "slide", "window": (32, 48), "window_stride": (20, 31)}
# name -> (what make_manifest takes, sizes of images)
MODELS = {
    "odd sizes": ({}, [(37, 53), (1, 1), (64, 1), (5, 200)]),
    "align corners": ({"align_corners": True}, [(37, 53), (3, 2)]),
    "resized": ({"test_scale": (96, 64)}, [(40, 50), (150, 201), (64, 96), (30, 5), (128, 192)]),
    "resized, align corners": ({"test_scale": (97, 65), "align_corners": True}, [(40, 50), (150, 201)]),
    "resized in one step": ({"test_scale": (96, 64), "resize_logits_twice": False}, [(40, 50), (150, 201)]),
    "one size": ({"size": (64, 96)}, [(50, 70), (64, 96), (200, 131)]),
    "float, BGR": ({"input_kind": "float", "channel_order": "bgr"}, [(37, 53)]),
    "float, resized": ({"input_kind": "float", "test_scale": (96, 64)}, [(150, 201)]),
    "windows": (SLIDE, [(61, 90), (32, 48), (20, 100), (20, 30)]),
    "windows, align corners": ({**SLIDE, "align_corners": True}, [(61, 90)]),
    "windows, resized": ({**SLIDE, "test_scale": (96, 64)}, [(150, 201)]),
    "windows, fixed batch": ({**SLIDE, "batch": (3, 3, 3), "size": (32, 48)}, [(61, 90), (32, 48)]),
    "windows, float": ({**SLIDE, "input_kind": "float", "batch": (2, 2, 4)}, [(61, 90)]),
    "fixed batch": ({"batch": (2, 2, 2)}, [(37, 53)]),
    "labels": ({"output_kind": "labels", "test_scale": (96, 64)}, [(64, 96), (40, 50), (150, 201)]),
    "300 classes": ({"classes": 300}, [(37, 53)]),
    "300 classes, labels": ({"classes": 300, "output_kind": "labels", "size": (40, 48)}, [(40, 48), (61, 33)]),
    "256 classes": ({"classes": 256}, [(37, 53)]),
}  # fmt: skip


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {
        name: save(folder / f"{index}.onnx", make_manifest(**changes)) for index, (name, (changes, _)) in enumerate(MODELS.items())
    }  # fmt: skip


def picture(height, width, seed=0):
    """Smooth and noisy parts."""
    coarse = random_images(1, 6, 7, seed)[0]
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).reshape(height, width, 3)
    return np.where(np.arange(width)[:, None] % 32 < 24, smooth, random_images(1, height, width, seed)[0])


# -- the C interface


class Options(ctypes.Structure):
    _fields_ = (
        ("struct_size", ctypes.c_size_t), ("backend", ctypes.c_char_p), ("device", ctypes.c_char_p),
        ("mode", ctypes.c_char_p), ("window", ctypes.c_int32 * 2), ("window_stride", ctypes.c_int32 * 2),
        ("window_batch", ctypes.c_int32), ("threads", ctypes.c_int32),
    )  # fmt: skip


class Image(ctypes.Structure):
    _fields_ = (
        ("struct_size", ctypes.c_size_t), ("data", ctypes.c_void_p), ("height", ctypes.c_int64),
        ("width", ctypes.c_int64), ("row_stride", ctypes.c_int64), ("pixel_stride", ctypes.c_int32),
        ("color", ctypes.c_int32),
    )  # fmt: skip


class Labels(ctypes.Structure):
    _fields_ = (
        ("struct_size", ctypes.c_size_t), ("height", ctypes.c_int64), ("width", ctypes.c_int64),
        ("bytes", ctypes.c_int32), ("reserved", ctypes.c_int32), ("labels", ctypes.c_void_p),
        ("scores", ctypes.c_void_p),
    )  # fmt: skip


class Info(ctypes.Structure):
    _fields_ = (
        ("struct_size", ctypes.c_size_t), ("config", ctypes.c_char_p), ("backend", ctypes.c_char_p),
        ("device", ctypes.c_char_p), ("precision", ctypes.c_char_p), ("mode", ctypes.c_char_p),
        ("num_classes", ctypes.c_int32), ("label_bytes", ctypes.c_int32), ("batch", ctypes.c_int64 * 3),
        ("height", ctypes.c_int64 * 3), ("width", ctypes.c_int64 * 3),
    )  # fmt: skip


class RuntimeFailure(Exception):
    def __init__(self, status, text):
        super().__init__(text)
        self.status = status


class Library:
    """deeplab.h through ctypes."""

    def __init__(self, path):
        self.c = ctypes.CDLL(str(path))
        self.c.deeplab_class_name.restype = self.c.deeplab_version.restype = ctypes.c_char_p
        self.c.deeplab_backends.restype = self.c.deeplab_last_error.restype = ctypes.c_char_p
        self.c.deeplab_class_color.restype = ctypes.POINTER(ctypes.c_uint8)

    def check(self, status):
        if status != OK:
            raise RuntimeFailure(status, self.c.deeplab_last_error().decode())

    def open(self, path, **options):
        given = Options(ctypes.sizeof(Options))
        for name, value in {"threads": 1, **options}.items():
            if name in ("window", "window_stride"):
                value = (ctypes.c_int32 * 2)(*value)
            setattr(given, name, value.encode() if isinstance(value, str) else value)
        return Opened(self, self.open_raw(str(path).encode(), ctypes.byref(given)))

    def open_raw(self, path, options):
        handle = ctypes.c_void_p(1)
        try:
            self.check(self.c.deeplab_open(path, options, ctypes.byref(handle)))
        except RuntimeFailure:
            assert handle.value is None
            raise
        return handle

    def labels_of(self, found):
        view = Labels(ctypes.sizeof(Labels))
        self.check(self.c.deeplab_get_labels(found, ctypes.byref(view)))
        kind = {1: ctypes.c_uint8, 4: ctypes.c_int32}[view.bytes]
        shape = (view.height, view.width)

        def array(address, kind):
            count = view.height * view.width
            return np.ctypeslib.as_array((kind * count).from_address(address)).reshape(shape).copy()

        return array(view.labels, kind), None if view.scores is None else array(view.scores, ctypes.c_float)


class Opened:
    def __init__(self, library, handle):
        self.library, self.handle = library, handle

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.library.c.deeplab_close(self.handle)

    def segment(self, pixels, scores=False, **changes):
        """Labels, and scores or None, of an array [H, W, 3 or 4] with any strides."""
        image = Image(ctypes.sizeof(Image), pixels.ctypes.data, *pixels.shape[:2], *pixels.strides[:2], 0)
        for name, value in changes.items():
            setattr(image, name, value)
        found = ctypes.c_void_p(1)
        try:
            self.library.check(
                self.library.c.deeplab_segment(self.handle, ctypes.byref(image), int(scores), ctypes.byref(found))
            )
            return self.library.labels_of(found)
        except RuntimeFailure:
            assert found.value is None
            raise
        finally:
            self.library.c.deeplab_free(found)

    def info(self):
        info = Info(ctypes.sizeof(Info))
        self.library.check(self.library.c.deeplab_get_info(self.handle, ctypes.byref(info)))
        return info


@pytest.fixture(scope="session")
def library(built):
    return Library(built.library)


# -- equal to Python


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", MODELS)
def test_labels_equal_python_s(library, models, name, backend):
    changes, sizes = MODELS[name]
    scores = changes.get("output_kind") != "labels"
    with (
        Segmenter(models[name], backend=backend, threads=1) as segmenter,
        library.open(models[name], backend=backend) as opened,
    ):
        for seed, size in enumerate([*sizes, *sizes]):  # sizes that come again have kernels of their own
            image = picture(*size, seed)
            expected = segmenter.predict(image, scores=scores)
            labels, found_scores = opened.segment(image, scores)
            assert labels.dtype == expected.labels.dtype
            assert np.array_equal(labels, expected.labels), size
            if scores:
                assert np.array_equal(found_scores, expected.scores), size
            assert len(np.unique(labels)) > 1 or image.size < 100


def test_options_equal_python_s(library, models):
    image = picture(61, 90)
    for options in (
        {"mode": "slide", "window": (24, 40), "window_stride": (24, 17)},
        {"mode": "slide", "window": (24, 40), "window_stride": (11, 17), "window_batch": 1},
        {"mode": "slide", "window": (24, 40), "window_stride": (11, 17), "window_batch": 100},
    ):
        with (
            Segmenter(models["odd sizes"], backend="openvino", threads=1, **options) as segmenter,
            library.open(models["odd sizes"], backend="openvino", **options) as opened,
        ):
            assert np.array_equal(opened.segment(image)[0], segmenter.predict(image).labels)
            assert opened.info().mode == b"slide"
    with (
        Segmenter(models["windows"], backend="openvino", threads=1, mode="whole") as segmenter,
        library.open(models["windows"], backend="openvino", mode="whole") as opened,
    ):
        assert np.array_equal(opened.segment(image)[0], segmenter.predict(image).labels)


def read_netpbm(path):
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    return image if image.ndim == 2 else image[:, :, ::-1]


@pytest.mark.parametrize("name", ["odd sizes", "windows", "300 classes"])
def test_the_example_program(built, models, tmp_path, name):
    image = picture(61, 90)
    cv2.imwrite(str(tmp_path / "image.ppm"), image[:, :, ::-1])
    with Segmenter(models[name], backend="openvino", threads=1) as segmenter:
        expected = segmenter.predict(image)
        palette = np.array(segmenter.palette, np.uint8)
    options = ("--backend", "openvino", "--threads", "1")
    said = call(built.example, models[name], tmp_path / "image.ppm", tmp_path / "mask.pgm", *options)
    assert "on openvino (cpu), fp32" in said
    assert np.array_equal(read_netpbm(tmp_path / "mask.pgm"), expected.labels)
    call(built.example, models[name], tmp_path / "image.ppm", tmp_path / "mask.ppm", "--color", *options)
    assert np.array_equal(read_netpbm(tmp_path / "mask.ppm"), palette[expected.labels])


def test_the_example_program_refuses(built, models, tmp_path):
    whole = b"P6\n2 2\n255\n" + bytes(12)
    images = {"good.ppm": whole, "short.ppm": whole[:-1], "other.png": b"\x89PNG", "large.ppm": b"P6\n9999999 9\n255\n"}
    for name, data in images.items():
        (tmp_path / name).write_bytes(data)
    model = str(models["odd sizes"])
    for arguments, text in (
        ([model], "usage: segment_image"),
        ([model, "good.ppm", "mask.pgm", "--size", "3"], "unknown option --size"),
        ([model, "good.ppm", "mask.pgm", "--mode"], "--mode needs a value"),
        ([model, "good.ppm", "mask.png"], "mask.png: a mask is a .pgm file"),
        ([model, "none.ppm", "mask.pgm"], "none.ppm: cannot be read"),
        ([model, "short.ppm", "mask.pgm"], "short.ppm: is truncated"),
        ([model, "other.png", "mask.pgm"], "other.png: not a binary PPM file"),
        ([model, "large.ppm", "mask.pgm"], "large.ppm: sides of more than"),
        (["none.onnx", "good.ppm", "mask.pgm"], "none.onnx: no such file"),
    ):
        result = subprocess.run([built.example, *arguments], capture_output=True, text=True, cwd=tmp_path)
        assert result.returncode == 1, arguments
        assert text in result.stderr


@pytest.fixture(scope="module")
def tiny_files(tmp_path_factory):
    """A network as ONNX and OpenVINO files, the latter also in eight bits."""
    pytest.importorskip("nncf")
    from deeplab_export.openvino_export import export_openvino
    from deeplab_export.precision import PRECISIONS

    from ..export.conftest import trace
    from ..export.tiny import TinyNetwork

    folder, traced = tmp_path_factory.mktemp("tiny"), trace(TinyNetwork())
    traced.write(folder / "fp32.onnx", PRECISIONS["fp32"])
    for name in ("fp32", "int8"):
        export_openvino(traced, folder / f"{name}.xml", PRECISIONS[name])
    return folder


@pytest.mark.parametrize("name", ["fp32.onnx", "fp32.xml", "int8.xml"])
def test_exported_files(library, tiny_files, name):
    path = tiny_files / name
    with Segmenter(path, backend="openvino", threads=1) as segmenter, library.open(path, backend="openvino") as opened:
        assert opened.info().precision.decode() == path.stem
        for size in ((64, 96), (100, 131)):
            image = picture(*size)
            expected = segmenter.predict(image, scores=True)
            labels, scores = opened.segment(image, scores=True)
            assert np.array_equal(labels, expected.labels)
            assert np.array_equal(scores, expected.scores)


def test_the_bundled_network(library, tmp_path):
    """Trained weights on the street that comes with them, at half its size."""
    from deeplab_export import export_onnx

    from deeplab_infer import checkpoints

    export_onnx(checkpoints.load("auto", load_config(STREETS)), tmp_path / "streets.onnx", height=256, width=512)
    image = cv2.imread(str(ROOT / "deeplab_infer" / "assets" / "street.png"))[:, :, ::-1].copy()
    for backend in BACKENDS:
        with (
            Segmenter(tmp_path / "streets.onnx", backend=backend, threads=1) as segmenter,
            library.open(tmp_path / "streets.onnx", backend=backend) as opened,
        ):
            labels = opened.segment(image)[0]
            assert np.array_equal(labels, segmenter.predict(image).labels)
            assert len(np.unique(labels)) > 5


# -- the interface


def test_pixels_in_any_layout(library, models):
    image = picture(37, 53)
    with library.open(models["odd sizes"], backend="openvino") as opened:
        expected = opened.segment(image)[0]
        rgba = np.dstack([image, np.full(image.shape[:2], 7, np.uint8)])
        wide = np.zeros((37, 60, 3), np.uint8)
        wide[:, 4:57] = image
        flipped = np.ascontiguousarray(image[::-1])
        bgr = np.ascontiguousarray(image[:, :, ::-1])
        for pixels, changes in (
            (rgba, {}), (wide[:, 4:57], {}), (flipped[::-1], {}), (bgr, {"color": 1}),
            (np.ascontiguousarray(rgba[:, :, [2, 1, 0, 3]]), {"color": 1}),
            (image, {"row_stride": 0, "pixel_stride": 0}),
        ):  # fmt: skip
            assert np.array_equal(opened.segment(pixels, **changes)[0], expected)


def test_what_a_segmenter_tells(library, models):
    config = make_config()
    with library.open(models["odd sizes"], backend="openvino") as opened:
        info = opened.info()
        assert (info.config.decode(), info.backend, info.device) == (config.name, b"openvino", b"cpu")
        assert (info.precision, info.mode, info.num_classes, info.label_bytes) == (b"fp32", b"whole", 5, 1)
        assert (list(info.batch), list(info.height)) == ([1, 1, 8], [1, 64, 512])
        names = [library.c.deeplab_class_name(opened.handle, index) for index in range(-1, 6)]
        assert names == [None, *(name.encode() for name in config.classes), None]
        colors = [tuple(library.c.deeplab_class_color(opened.handle, index)[:3]) for index in range(5)]
        assert colors == list(config.palette)
        assert not library.c.deeplab_class_color(opened.handle, 5)
    assert library.c.deeplab_api_version() == 1
    assert library.c.deeplab_version().decode() == __import__("deeplab_infer").__version__
    assert set(library.c.deeplab_backends().decode().split(",")) == set(BACKENDS)


def test_texts_are_unicode(library, tmp_path):
    dataset = generic_dataset(2, ("Straße", "道路 \U0001f6e3"))
    path = save(tmp_path / "Modell ä.onnx", make_manifest(classes=2, dataset=dataset))
    with library.open(path, backend="openvino") as opened:
        names = [library.c.deeplab_class_name(opened.handle, index).decode() for index in range(2)]
    assert tuple(names) == dataset.classes


def test_several_threads(library, models):
    images = [picture(61, 90, seed) for seed in range(4)]
    for name in ("odd sizes", "windows"):
        with library.open(models[name], backend="openvino") as opened:
            for image in (images[0], images[0]):  # from here on one model of this size
                opened.segment(image)
            expected = [opened.segment(image)[0] for image in images]
            with ThreadPoolExecutor(4) as pool:
                found = list(pool.map(lambda index: opened.segment(images[index % 4])[0], range(32)))
            assert all(np.array_equal(labels, expected[index % 4]) for index, labels in enumerate(found))


def test_a_segmentation_outlives_its_segmenter(library, models):
    image = picture(20, 30)
    opened = library.open(models["odd sizes"], backend="openvino")
    view = Image(ctypes.sizeof(Image), image.ctypes.data, 20, 30, 0, 0, 0)
    found = ctypes.c_void_p()
    library.check(library.c.deeplab_segment(opened.handle, ctypes.byref(view), 0, ctypes.byref(found)))
    expected = library.labels_of(found)[0]
    library.c.deeplab_close(opened.handle)
    assert np.array_equal(library.labels_of(found)[0], expected)
    library.c.deeplab_free(found)


def test_structs_of_other_versions(library, models):
    path = str(models["odd sizes"]).encode()

    class Later(ctypes.Structure):
        _fields_ = (("known", Options), ("more", ctypes.c_int64))

    short = Options(Options.device.offset, b"openvino", b"not read")
    later = Later(Options(ctypes.sizeof(Later), b"openvino"), 0)
    for options in (None, ctypes.byref(short), ctypes.byref(later)):
        library.c.deeplab_close(library.open_raw(path, options))
    later.more = 1
    with pytest.raises(RuntimeFailure, match="options sets fields that this library does not know"):
        library.open_raw(path, ctypes.byref(later))
    for size in (0, 3, 1 << 40):
        with pytest.raises(RuntimeFailure, match="options->struct_size is"):
            library.open_raw(path, ctypes.byref(Options(size)))

    class LaterInfo(ctypes.Structure):
        _fields_ = (("known", Info), ("more", ctypes.c_int64))

    with library.open(path.decode(), backend="openvino") as opened:
        info = LaterInfo(Info(ctypes.sizeof(LaterInfo)), 5)
        library.check(library.c.deeplab_get_info(opened.handle, ctypes.byref(info)))
        assert (info.known.num_classes, info.more) == (5, 0)
        part = Info(Info.device.offset)
        part.device = b"kept"
        library.check(library.c.deeplab_get_info(opened.handle, ctypes.byref(part)))
        assert (part.backend, part.device) == (b"openvino", b"kept")


def test_null_pointers(library, models):
    c, handle = library.c, ctypes.c_void_p()
    path = str(models["odd sizes"]).encode()
    for status, text in (
        (c.deeplab_open(None, None, ctypes.byref(handle)), b"path is NULL"),
        (c.deeplab_open(path, None, None), b"segmenter is NULL"),
        (c.deeplab_get_info(None, None), b"segmenter is NULL"),
        (c.deeplab_segment(None, None, 0, ctypes.byref(handle)), b"segmenter is NULL"),
        (c.deeplab_get_labels(None, None), b"segmentation is NULL"),
    ):
        assert status == INVALID_ARGUMENT
        assert text  # the message is that of the last call
    assert c.deeplab_last_error() == b"segmentation is NULL"
    assert c.deeplab_class_name(None, 0) is None
    c.deeplab_close(None)
    c.deeplab_free(None)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(c.deeplab_last_error).result() == b""  # a thread's own


# -- what is refused


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": None}, "the image has no data"),
        ({"height": 0}, "the image is empty: 0 x 53"),
        ({"width": -3}, "the image is empty: 37 x -3"),
        ({"height": 1 << 40, "width": 1 << 40}, r"at most 2\^31 pixels"),
        ({"row_stride": 158}, "row_stride 158 is too short: a row of 53 pixels, 3 bytes apart, has 159 bytes"),
        ({"row_stride": -158}, "row_stride -158 is too short"),
        ({"row_stride": -(1 << 63)}, "is beyond any memory"),
        ({"pixel_stride": 2}, "pixel_stride 2 is not 3"),
        ({"pixel_stride": -3}, "pixel_stride -3 is not 3"),
        ({"pixel_stride": 4, "row_stride": 159}, "a row of 53 pixels, 4 bytes apart, has 211 bytes"),
        ({"color": 2}, "color 2 is not DEEPLAB_RGB or DEEPLAB_BGR"),
    ],
)
def test_images_that_are_none(library, models, changes, message):
    image = picture(37, 53)
    with (
        library.open(models["odd sizes"], backend="openvino") as opened,
        pytest.raises(RuntimeFailure, match=message) as error,
    ):
        opened.segment(image, **changes)
    assert error.value.status == IMAGE


def test_sizes_and_scores_that_a_model_does_not_have(library, models):
    with (
        library.open(models["odd sizes"], backend="openvino") as opened,
        pytest.raises(
            RuntimeFailure, match=r"height 600 is outside .*\(1\.\.512\); export again with --height 1:600:600"
        ),
    ):
        opened.segment(picture(600, 10))
    with (
        library.open(models["labels"], backend="openvino") as opened,
        pytest.raises(RuntimeFailure, match="has no scores; export it with --output logits") as error,
    ):
        opened.segment(picture(20, 20), scores=True)
    assert error.value.status == INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("name", "options", "status", "message"),
    [
        ("odd sizes", {"backend": "tflite"}, INVALID_ARGUMENT, "unknown backend 'tflite'; there are auto, onnxruntime"),
        ("odd sizes", {"backend": "tensorrt"}, BACKEND, r"tensorrt does not run \.onnx files"),
        ("odd sizes", {"device": "tpu", "backend": "openvino"}, BACKEND, "OpenVINO has no device 'tpu' on this machine; it has CPU"),
        ("odd sizes", {"mode": "sliding"}, INVALID_ARGUMENT, "mode 'sliding' is not 'whole' or 'slide'"),
        ("odd sizes", {"mode": "slide"}, INVALID_ARGUMENT, "needs window and window_stride of at least 1, got 0 x 0"),
        ("odd sizes", {"window": (3, 0)}, INVALID_ARGUMENT, "window is 3 x 0; needs"),
        ("odd sizes", {"window_batch": -1}, INVALID_ARGUMENT, "window_batch must be at least 1"),
        ("odd sizes", {"threads": -1}, INVALID_ARGUMENT, "threads must be at least 1"),
        ("windows", {"window_stride": (33, 1)}, INVALID_ARGUMENT, "window_stride 33 x 1 is larger than window 32 x 48"),
        ("labels", {"mode": "slide", "window": (9, 9), "window_stride": (9, 9)}, INVALID_ARGUMENT, "windows need logits"),
    ],
)  # fmt: skip
def test_options_that_do_not_fit(library, models, name, options, status, message):
    with pytest.raises(RuntimeFailure, match=message) as error:
        library.open(models[name], **options)
    assert error.value.status == status


def changed(**changes):
    """The JSON of a manifest with some of its text replaced."""
    text = make_manifest().to_json()
    for name, value in changes.items():
        text, count = re.subn(
            rf'"{name}":("[^"]*"|\[[^\]]*\]|[^,}}]*)', lambda _, new=f'"{name}":{value}': new, text, count=1
        )
        assert count == 1, name
    return text


# what the metadata hold -> what the error says
BAD_MANIFESTS = {
    "not a manifest": "JSON needs a value here (byte 0)",
    "": "JSON needs a value here (byte 0)",
    "{}": "it lacks 'schema_version'",
    "[]": "in place of the mapping with 'schema_version'",
    '{"schema_version":1': "JSON needs a comma or the end of a list here",
    '{"schema_version":1} x': "JSON goes on after its end",
    '{"schema_version":01}': "JSON needs a comma",
    '{"a":"\\ud800"}': "half a surrogate pair",
    '{"a":"\\ud800\\u0041"}': "half a surrogate pair",
    '{"a":"\\u0000"}': "a zero character",
    '{"a":"\\x"}': "an unknown escape",
    '{"a":"\\u00g0"}': "four hexadecimal digits",
    '{"a":"\n"}': "a control character",
    '{"a":"': "ends within a string",
    "[" * 100_000: "JSON is nested too deeply",
    '{"a":' * 100_000: "JSON is nested too deeply",
    "[" + "0," * 300_000 + "0]": "JSON holds too many values",
    changed(schema_version=2): "it has version 2, this deeplab runtime reads version 1",
    changed(schema_version='"1"'): "'schema_version' is not a number",
    changed(input_kind='"uint16"'): "'input_kind' is 'uint16', needs 'uint8' or 'float'",
    changed(output_kind="7"): "'output_kind' is not a text",
    changed(height="[1,64]"): "'height' has 2 values, needs 3",
    changed(height="[1,64,1e300]"): "'height' is 1e+300, needs an integer",
    changed(height="[1,64,1e999]"): "'height' is not a number",
    changed(height="[1,64.5,100]"): "'height' is 64.5, needs an integer",
    changed(width="[0,64,512]"): "'width' is 0, needs an integer of 1",
    changed(width="[100,64,512]"): "'width' is not in order",
    changed(num_classes="6"): "'num_classes' is 6, but there are 5 classes",
    changed(num_classes="999999999999999999999"): "'num_classes' is 1e+21",
    changed(mean="[1,2]"): "'mean' has 2 values",
    changed(std="[1,0,1]"): "'std' holds 0, needs more than 0",
    changed(std="[1,1e39,1]"): "'std' is beyond float32",
    changed(std="[1,NaN,1]"): "'std' is not a number",
    changed(test_mode='"tiled"'): "'test_mode' is 'tiled', needs 'whole' or 'slide'",
    changed(window="[0,3]"): "'window' is 0, needs",
    changed(align_corners="1"): "'align_corners' is not true or false",
    changed(classes='[1,2,3,4,5]'): "'classes' is not a text",
}  # fmt: skip


def test_manifests_that_are_none(built, library, tmp_path):
    paths = []
    for index, text in enumerate(BAD_MANIFESTS):
        paths.append(tmp_path / f"{index}.json")
        paths[-1].write_text(text)
    paths.append(tmp_path / "long.json")
    paths[-1].write_text('"' + "a" * (17 << 20) + '"')
    lines = call(built.check, "manifest", *paths).splitlines()
    for text, line in zip([*BAD_MANIFESTS.values(), "JSON is longer than 16 MiB"], lines, strict=True):
        assert line.startswith("error 2 file: the model's manifest cannot be read (")
        assert text in line
    path = save(tmp_path / "bad.onnx", make_manifest(), metadata=changed(schema_version=2))
    with pytest.raises(
        RuntimeFailure, match=r"bad\.onnx: the model's manifest cannot be read \(it has version 2"
    ) as error:
        library.open(path)
    assert error.value.status == MODEL_FILE


def test_manifests_as_python_writes_them(built, tmp_path):
    manifest = dataclasses.replace(
        make_manifest(dataset=generic_dataset(2, ('é\U0001f6e3/\\"\t', "b")), classes=2),
        report={"a": [float("nan"), float("inf"), -float("inf"), -1.5e-7, None, True, {}, []]},
    )
    (tmp_path / "a.json").write_text(manifest.to_json())
    found = subprocess.run([built.check, "manifest", tmp_path / "a.json"], capture_output=True, check=True).stdout
    assert found.decode() == f"ok {manifest.config.name} 2 fp32 {manifest.config.classes[0]}\n"


def test_damaged_bytes_are_errors(built, models, tmp_path):
    """Every outcome but an answer is a signal, which `call` notices."""
    (tmp_path / "a.json").write_text(make_manifest(**SLIDE).to_json())
    shutil.copy(models["odd sizes"], tmp_path / "a.onnx")
    for kind, name, count in (("manifest", "a.json", 5000), ("onnx", "a.onnx", 500)):
        said = call(built.check, "mutate", kind, tmp_path / name, count)
        assert 0 < int(said.split()[0]) < count  # some changes are within a class's name or the weights


def test_files_that_are_none(library, models, tiny_files, tmp_path):
    whole = models["odd sizes"].read_bytes()
    foreign = onnx.load(models["odd sizes"])
    del foreign.metadata_props[:]
    files = {
        "cut.onnx": whole[: len(whole) // 2],
        "empty.onnx": b"",
        "text.onnx": b"This is no model. " * 99,
        "foreign.onnx": foreign.SerializeToString(),
        "alone.xml": (tiny_files / "fp32.xml").read_bytes(),
        "text.xml": b"<net",
        "text.bin": b"",
        "model.pt": whole,
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "folder.onnx").mkdir()
    for name, message in {
        "none.onnx": "none.onnx: no such file",
        "folder.onnx": "folder.onnx: is a folder",
        "cut.onnx": "cut.onnx: truncated or not an ONNX file",
        "empty.onnx": "empty.onnx: truncated or not an ONNX file",
        "text.onnx": "text.onnx: truncated or not an ONNX file",
        "foreign.onnx": "foreign.onnx: an ONNX file without our manifest; export it with deeplab-export",
        "alone.xml": "alone.bin: no such file; an OpenVINO model is a .xml and a .bin side by side",
        "text.xml": "text.xml: OpenVINO cannot load it",
        "model.pt": "model.pt: not a model that this runtime opens",
    }.items():
        with pytest.raises(RuntimeFailure, match=re.escape(message)) as error:
            library.open(tmp_path / name)
        assert error.value.status == MODEL_FILE
    (tmp_path / "a.engine").write_bytes(b"plan")
    with pytest.raises(RuntimeFailure, match=r"cannot run \.engine files; build it with tensorrt \(-DDEEPLAB_TENSORRT"):
        library.open(tmp_path / "a.engine")


def test_a_graph_that_is_not_what_its_manifest_promises(library, tmp_path):
    for index, (graph, promised) in enumerate((
        ({"classes": 5}, {"classes": 4}),
        ({"classes": 5}, {"classes": 5, "output_kind": "labels"}),
        ({"classes": 5, "output_kind": "labels"}, {"classes": 3, "output_kind": "labels"}),
    )):  # fmt: skip
        path = save(tmp_path / f"{index}.onnx", make_manifest(**graph), make_manifest(**promised).to_json())
        with (
            library.open(path, backend="openvino") as opened,
            pytest.raises(RuntimeFailure, match="manifest") as error,
        ):
            opened.segment(picture(40, 60))
        assert error.value.status == MODEL_FILE


# -- parts


def test_tap_tables_have_python_s_bits(built):
    rng = random.Random(0)
    cases = [
        (1, 1, None),
        (1, 7, None),
        (7, 1, None),
        (5, 9, 5),
        (5, 9, 9),
        (5, 9, 1),
        (129, 1024, 513),
        (33, 1025, 257),
    ]
    cases += [(rng.randint(1, 200), rng.randint(1, 600), rng.choice([None, rng.randint(1, 400)])) for _ in range(20)]
    for size_in, size_out, via in cases:
        for align in (False, True):
            index, weight = resize_taps(size_in, size_out, align, via)
            said = call(built.check, "taps", size_in, size_out, int(align), *([] if via is None else [via]))
            found = np.array([line.split() for line in said.splitlines()], np.int64).reshape(size_out, -1, 2)
            assert np.array_equal(found[:, :, 0], index), (size_in, size_out, align, via)
            assert np.array_equal(found[:, :, 1], weight.view(np.uint32)), (size_in, size_out, align, via)


def test_checksums(built, tmp_path):
    paths = []
    for length in (0, 1, 3, 55, 56, 63, 64, 65, 119, 120, 1000):
        paths.append(tmp_path / str(length))
        paths[-1].write_bytes(random_images(1, 20, 20).tobytes()[:length])
    found = call(built.check, "sha256", *paths).splitlines()
    assert found == [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]


def test_engines_and_their_manifests(built, tmp_path):
    plan = tmp_path / "a.engine"
    plan.write_bytes(b"a plan")
    profile = Profile((1, 1, 1), (64, 64, 64), (96, 96, 96))
    good = EngineManifest(make_manifest(), hashlib.sha256(b"a plan").hexdigest(), "tensorrt", "10.3", (profile,))
    cases = [
        (good, "ok "),
        (dataclasses.replace(good, plugins=("libdeeplab_tensorrt.so",)), "ok "),
        (dataclasses.replace(good, plugins=("../lib.so",)), "names '../lib.so', which is not a file beside it"),
        (dataclasses.replace(good, plan_sha256="0" * 64), "it describes another engine"),
        (dataclasses.replace(good, schema_version=9), "it has version 9"),
        (dataclasses.replace(good, weights="stripped"), "it has no weights"),
    ]
    for manifest, text in cases:
        write_engine_manifest(plan, manifest)
        assert text in call(built.check, "engine", plan)
    said = call(built.check, "mutate", "engine", f"{plan}", 50)
    assert said == "0 of 50 accepted\n"  # the mutated plan has no manifest beside it
    (tmp_path / "a.engine.json").unlink()
    assert "a.engine.json: cannot be read; copy an engine together with its .json" in call(built.check, "engine", plan)


def test_the_library_shows_its_c_interface_only(built):
    if shutil.which("readelf") is None:
        pytest.skip("readelf is not installed")
    rows = [line.split() for line in call("readelf", "-W", "--dyn-syms", built.library).splitlines()]
    defined = {row[7].partition("@")[0] for row in rows if len(row) > 7 and row[4] in ("GLOBAL", "WEAK", "UNIQUE")
               and row[6] != "UND"}  # fmt: skip
    header = (ROOT / "csrc" / "runtime" / "include" / "deeplab" / "deeplab.h").read_text()
    assert defined == set(re.findall(r"^DEEPLAB_API .*?\b(deeplab_\w+)\(", header, re.MULTILINE))


# -- as others build it


def test_the_guide_s_code(built, models, tmp_path):
    """The CMake file, the C++ and the C program of docs/cpp.md, built against the installed package."""
    blocks = dict(re.findall(r"```(cmake|cpp|c)\n(.*?)```", (ROOT / "docs" / "cpp.md").read_text(), re.DOTALL))
    for language, name in (("cmake", "CMakeLists.txt"), ("cpp", "main.cpp"), ("c", "main.c")):
        (tmp_path / name).write_text(blocks[language])
    configure(tmp_path, tmp_path / "build", f"-DCMAKE_PREFIX_PATH={built.prefix}",
              "-DCMAKE_C_FLAGS=-std=c99 -Wall -Wextra -Wpedantic -Werror", "-DCMAKE_CXX_FLAGS=-Wall -Wextra -Werror")  # fmt: skip
    call("cmake", "--build", tmp_path / "build")
    for program in ("with_cpp", "with_c"):
        said = call(tmp_path / "build" / program, models["odd sizes"])
        assert re.search(r"480 x 640: class_\d", said), said
        failed = subprocess.run([tmp_path / "build" / program, "none.onnx"], capture_output=True, text=True)
        assert failed.returncode == 1
        assert "none.onnx: no such file" in failed.stderr


def test_settings_that_do_not_fit_together(tmp_path):
    needs_tools()
    for arguments, text in (
        (["-DDEEPLAB_ONNXRUNTIME_INCLUDE=/nowhere"], "ONNX Runtime needs both DEEPLAB_ONNXRUNTIME_INCLUDE"),
        (
            ["-DDEEPLAB_TENSORRT_LIBRARY=/nowhere/libnvinfer.so"],
            "DEEPLAB_TENSORRT_LIBRARY needs DEEPLAB_TENSORRT_INCLUDE",
        ),
    ):
        command = ["cmake", f"-S{ROOT}", f"-B{tmp_path}", "-DDEEPLAB_PYTHON=OFF", "-DDEEPLAB_CUDA=OFF",
                   "-DDEEPLAB_RUNTIME=ON", *arguments]  # fmt: skip
        result = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT)
        assert result.returncode != 0
        assert text in " ".join(result.stderr.split())
        (tmp_path / "CMakeCache.txt").unlink()


@pytest.mark.skipif(not TRT_HEADERS, reason="set DEEPLAB_TENSORRT_INCLUDE to the folder with NvInfer.h")
def test_the_tensorrt_backend_compiles(tmp_path):
    needs_tools()
    if shutil.which("nvcc", path=PATH) is None:
        pytest.skip("nvcc is not installed")
    configure(
        ROOT, tmp_path, "-DDEEPLAB_PYTHON=OFF", "-DDEEPLAB_CUDA=ON", "-DDEEPLAB_RUNTIME=ON", "-DDEEPLAB_STRICT=ON",
        f"-DDEEPLAB_TENSORRT_INCLUDE={TRT_HEADERS}", "-DDEEPLAB_TENSORRT_LIBRARY=/nowhere/libnvinfer.so",
    )  # fmt: skip
    call("cmake", "--build", tmp_path, "--target", "deeplab_runtime_tensorrt")
