# SPDX-License-Identifier: Apache-2.0
"""Magnitudes of activations against numpy, and where the images come from."""

import json

import numpy as np
import onnx
import pytest
from deeplab_export.calibration import METHODS, Calibration, calibrate, calibration_images, fit_images
from deeplab_export.graph import Signature
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from deeplab_infer.data.synthetic_streets import generate_street
from deeplab_infer.errors import ExportError, ImageError

from ..networks import random_images
from .tiny import SIZE, run

CALIBRATED = ("Conv", "Add", "Concat")


@pytest.fixture(scope="module")
def images():
    """Of several reaches, the widest in the middle."""
    pixels = [random_images(1, *SIZE, seed=seed) for seed in range(4)]
    return [pixels[0] // 4 + 96, pixels[1] // 2, pixels[2], pixels[3] // 8]


@pytest.fixture(scope="module")
def activations(tiny, images):
    """Every tensor around the calibrated operators, one array an image."""
    constant = {tensor.name for tensor in tiny.graph.graph.initializer}
    nodes = [node for node in tiny.graph.graph.node if node.op_type in CALIBRATED]
    names = sorted({name for node in nodes for name in (*node.input, *node.output)} - constant)
    runs = [run(tiny.graph, image, *names) for image in images]
    return {name: [one[index] for one in runs] for index, name in enumerate(names)}


def reach(arrays):
    return max(float(np.abs(array).max()) for array in arrays)


def double(bias=0.0):
    """y = 2 x + bias, of one value a pixel."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1, 32, 32]) for name in "xy"]
    weights = [
        numpy_helper.from_array(np.full((1, 1, 1, 1), 2, np.float32), "w"),
        numpy_helper.from_array(np.full(1, bias, np.float32), "b"),
    ]
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w", "b"], ["y"], name="c")], "g", *([v] for v in values), weights
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)  # fmt: skip


def pixels(*values):
    """An input of `double` with these values and ones elsewhere."""
    x = np.ones((1, 1, 32, 32), np.float32)
    x.reshape(-1)[: len(values)] = values
    return x


def test_minmax_is_the_largest_magnitude_seen(tiny, images, activations):
    found = calibrate(tiny.graph, images)
    assert set(found) == set(activations)
    for name, arrays in activations.items():
        assert found[name] == reach(arrays), name


def test_the_largest_magnitude_may_be_negative_or_of_any_image():
    for values in ([pixels(-7), pixels(3)], [pixels(3), pixels(-7)], [pixels(), pixels(3, -7)]):
        assert calibrate(double(), values) == {"x": 7, "y": 14}


def test_percentile_is_the_quantile_of_magnitudes(tiny, images, activations):
    minmax, found = calibrate(tiny.graph, images), calibrate(tiny.graph, images, "percentile", 99.0)
    assert set(found) == set(minmax)
    for name, arrays in activations.items():
        values = np.concatenate([np.abs(array).ravel() for array in arrays])
        # Histograms of 2048 bins over a range that is at most twice what is reached; the edge above is the answer.
        width = 2 * reach(arrays) / 2048
        assert (values <= found[name] * (1 + 1e-6)).mean() >= 0.99, name
        assert found[name] <= np.sort(values)[int(np.ceil(0.99 * len(values))) - 1] * (1 + 1e-6) + width, name
        assert found[name] <= minmax[name]
    assert sum(found[name] < 0.9 * minmax[name] for name in found) > len(found) / 2


def test_percentile_ignores_a_rare_outlier():
    x = [pixels(*np.linspace(0, 1, 1024)), pixels(*np.linspace(0, 1, 1023), 50.0)]
    assert calibrate(double(), x)["x"] == 50
    assert calibrate(double(), x, "percentile", 99.9)["x"] == pytest.approx(1, abs=2 / 2048 + 1e-3)
    assert calibrate(double(), x, "percentile", 100.0)["x"] == pytest.approx(50, rel=1 / 2048)


def test_entropy_is_finite_and_within_the_largest_magnitude(tiny, images):
    minmax, found = calibrate(tiny.graph, images), calibrate(tiny.graph, images, "entropy")
    assert set(found) == set(minmax)
    for name, magnitude in found.items():
        assert np.isfinite(magnitude)
        assert 0 < magnitude <= minmax[name], name


def test_entropy_cuts_a_long_thin_tail():
    """Most of a normal distribution, and one value at ten times its reach: 127 steps are better spent below."""
    x = np.random.default_rng(0).standard_normal(1024).astype(np.float32)
    x[0] = 40
    for order in (1, -1):
        found = calibrate(double(), [pixels(*x), pixels(*x[1:])][::order], "entropy")
        assert np.abs(x[1:]).max() / 2 < found["x"] < 30


@pytest.mark.parametrize("method", METHODS)
def test_a_dead_tensor_has_a_magnitude_above_zero(method):
    found = calibrate(double(), [np.zeros((1, 1, 32, 32), np.float32)] * 2, method)
    assert all(0 < magnitude <= 1e-3 for magnitude in found.values())


@pytest.mark.parametrize("method", METHODS)
def test_a_dead_first_image_does_not_hide_the_second(method):
    found = calibrate(double(), [np.zeros((1, 1, 32, 32), np.float32), pixels(*np.linspace(-3, 3, 1024))], method)
    assert found["x"] == pytest.approx(3, rel=0.05)
    assert found["y"] == pytest.approx(6, rel=0.05)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("position", [0, 1])
def test_activations_that_are_not_finite_raise(method, bad, position):
    x = [pixels(1, 2), pixels(3, 4)]
    x[position][0, 0, 5, 5] = bad
    with pytest.raises(ExportError, match="tensor [xy] is not finite on the calibration images; check the checkpoint"):
        calibrate(double(), x, method)


@pytest.mark.parametrize("method", METHODS)
def test_progress_is_reported_and_nothing_is_printed(tiny, images, method, capfd):
    done = []
    calibrate(tiny.graph, images, method, progress=done.append)
    assert done == [1, 2, 3, 4]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "mse"}, "calibration method 'mse' is not one of minmax, percentile, entropy"),
        ({"images": []}, "no image to calibrate with"),
        ({"method": "percentile", "percentile": 50}, "must be above 50 and at most 100, got 50"),
        ({"method": "percentile", "percentile": 100.1}, "must be above 50 and at most 100, got 100.1"),
        ({"method": "percentile", "percentile": float("nan")}, "must be above 50 and at most 100, got nan"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ExportError, match=message):
        calibrate(**{"model": double(), "images": [pixels()], **options})


def test_the_given_graph_is_left_alone():
    model = double()
    before = model.SerializeToString()
    for method in METHODS:
        calibrate(model, [pixels()], method)
    assert model.SerializeToString() == before


# -- where images come from


def save(path, value, size=(8, 6)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, value, value)).save(path)


@pytest.fixture
def folder(tmp_path):
    for index in range(9):
        save(tmp_path / "photos" / ("deep/er" if index % 3 == 0 else "") / f"{index}.png", index)
    (tmp_path / "photos" / "notes.txt").write_text("not an image")
    return tmp_path / "photos"


def values(images):
    return [int(image[0, 0, 0]) for image in images]


def test_folders_are_searched_to_the_bottom(folder):
    found = calibration_images([folder], 100, SIZE)
    assert sorted(values(found)) == list(range(9))
    assert {(image.shape, image.dtype.name) for image in found} == {((6, 8, 3), "uint8")}
    assert sorted(values(calibration_images(str(folder), 100, SIZE))) == list(range(9))


@pytest.mark.parametrize(
    ("count", "chosen"), [(1, [0]), (2, [0, 8]), (3, [0, 4, 8]), (5, [0, 2, 4, 6, 8]), (9, range(9))]
)
def test_a_few_images_are_spread_over_all(tmp_path, count, chosen):
    for index in range(9):
        save(tmp_path / f"{index}.png", index)
    assert values(calibration_images([tmp_path], count, SIZE)) == list(chosen)
    assert values(calibration_images([str(tmp_path / "*.png")], count, SIZE)) == list(chosen)


def test_streets_are_generated_at_the_size_and_always_the_same():
    found = calibration_images("streets", 3, (64, 96))
    assert [image.shape for image in found] == [(64, 96, 3)] * 3
    assert not np.array_equal(found[0], found[1])
    for other in (calibration_images(["streets"], 3, (64, 96)), calibration_images(("streets",), 3, (64, 96))):
        assert all(np.array_equal(*pair) for pair in zip(found, other, strict=True))
    # Neither the scenes of the training (from 0) nor those of the verification (from a million).
    assert not any(np.array_equal(found[0], generate_street(seed, 64, 96)[0]) for seed in (0, 1_000_000))


def test_a_folder_called_streets_is_given_by_its_path(tmp_path, monkeypatch):
    save(tmp_path / "streets" / "a.png", 7)
    monkeypatch.chdir(tmp_path)
    assert values(calibration_images(["./streets"], 5, SIZE)) == [7]


@pytest.mark.parametrize("count", [0, -1])
@pytest.mark.parametrize("source", ["streets", ["anything"]])
def test_no_image_asked_for(source, count):
    with pytest.raises(ExportError, match=f"must be at least 1, got {count}"):
        calibration_images(source, count, SIZE)


def test_sources_without_images(tmp_path):
    with pytest.raises(ExportError, match="no image to calibrate with"):
        calibration_images([], 4, SIZE)
    with pytest.raises(ImageError, match="holds no image"):
        calibration_images([tmp_path], 4, SIZE)
    with pytest.raises(ImageError, match="no such file, folder or pattern"):
        calibration_images([tmp_path / "missing"], 4, SIZE)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    with pytest.raises(ImageError, match=r"broken\.png"):
        calibration_images([tmp_path], 4, SIZE)


@pytest.mark.parametrize(
    ("test_scale", "limits", "size"),
    [
        (None, ((1, 512), (1, 512)), (60, 80)),
        (None, ((1, 50), (100, 512)), (50, 100)),
        (None, ((64, 64), (96, 96)), (64, 96)),
        ((160, 120), ((1, 512), (1, 512)), (120, 160)),  # the config's limits are (width, height)
        ((160, 120), ((1, 100), (1, 512)), (100, 160)),
    ],
)
def test_images_are_fitted_as_they_enter_the_network(test_scale, limits, size):
    image = random_images(1, 60, 80)[0]
    fitted = fit_images([image, image], test_scale, limits)
    assert [one.shape for one in fitted] == [(*size, 3)] * 2
    assert fitted[0].dtype == np.uint8
    if size == (60, 80):
        assert np.array_equal(fitted[0], image)


def test_inputs_of_a_traced_network_are_whole_batches(tiny):
    assert [(one.shape, one.dtype.name) for one in tiny.calibration_inputs] == [((1, *SIZE, 3), "uint8")] * 4
    assert Signature().dynamic == {"batch": True, "height": True, "width": True}


@pytest.mark.parametrize(
    ("calibration", "expected"),
    [
        (Calibration(), {"source": ["streets"], "count": 16, "method": "minmax"}),
        (Calibration(("a", "b")), {"source": ["a", "b"], "count": 128, "method": "minmax"}),
        (
            Calibration(("a",), 7, "percentile", 99.9),
            {"source": ["a"], "count": 7, "method": "percentile", "percentile": 99.9},
        ),
        (Calibration(count=3, method="entropy"), {"source": ["streets"], "count": 3, "method": "entropy"}),
    ],
)
def test_what_the_manifest_says_of_a_calibration(calibration, expected):
    assert json.loads(json.dumps(calibration.to_dict())) == expected
    assert calibration.images == expected["count"]


def test_a_model_is_checked_by_onnx(tiny):
    onnx.checker.check_model(tiny.graph, full_check=True)
