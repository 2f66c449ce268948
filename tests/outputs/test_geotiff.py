# SPDX-License-Identifier: Apache-2.0
"""GeoTIFFs lie where their inputs lie."""

import logging
import subprocess
import sys
import warnings

import numpy as np
import pytest
from PIL import Image

from deeplab_infer.errors import DeepLabError, ImageError
from deeplab_infer.outputs import OutputOptions, Outputs
from deeplab_infer.outputs.banded import raster_pixels
from deeplab_infer.runtime.streamed import Band

from .results import make_result

rasterio = pytest.importorskip("rasterio", reason="rasterio is not installed")
GEOTIFF = OutputOptions(masks=False, geotiff=True)
PLACE = {"crs": "EPSG:32633", "transform": rasterio.Affine(0.5, 0.1, 400000.0, -0.1, -0.5, 5800000.0)}


def make_input(path, height=40, width=56, bands=3, dtype="uint8", **keywords):
    pixels = np.random.default_rng(0).integers(1, 255, (bands, height, width)).astype(dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with rasterio.open(
            path, "w", driver="GTiff", height=height, width=width, count=bands, dtype=dtype, **keywords
        ) as file:
            file.write(pixels)
    return pixels


def write(folder, path, options=GEOTIFF, **keywords):
    result = make_result(path, **keywords)
    out = folder / "out"
    out.mkdir(exist_ok=True)
    with Outputs(out, options, result.classes, result.palette) as outputs:
        outputs.write(result, "a")
    return result, out / "a.tif"


def test_place_values_and_layout(tmp_path):
    make_input(tmp_path / "in.tif", **PLACE)
    result, target = write(tmp_path, tmp_path / "in.tif")
    with rasterio.open(target) as file:
        assert file.crs.to_epsg() == 32633 and file.transform == PLACE["transform"]
        assert (file.count, file.dtypes, file.nodata) == (1, ("uint8",), 255)
        assert file.profile["tiled"] and file.compression.name == "deflate"
        assert file.block_shapes == [(256, 256)]
        assert np.array_equal(file.read(1), result.labels)
        assert [file.colormap(1)[i][:3] for i in range(3)] == list(result.palette)
        assert [file.tags(1)[f"class_{i}"] for i in range(3)] == list(result.classes)
    assert [path.name for path in target.parent.iterdir()] == ["a.tif"]
    assert Image.open(target).size == (56, 40)  # no other reader is needed


def test_control_points_and_rational_polynomials(tmp_path):
    points = [rasterio.control.GroundControlPoint(r, c, 10.0 + c, 50.0 - r) for r, c in ((0, 0), (0, 55), (39, 0))]
    make_input(tmp_path / "gcps.tif", gcps=points, crs="EPSG:4326")
    _, target = write(tmp_path, tmp_path / "gcps.tif")
    with rasterio.open(target) as file:
        found, system = file.gcps
        assert [(p.row, p.col, p.x, p.y) for p in found] == [(p.row, p.col, p.x, p.y) for p in points]
        assert system.to_epsg() == 4326
    one = [1.0] + [0.0] * 19
    rpcs = rasterio.rpc.RPC(0.0, 1.0, 50.0, 1.0, one, one, 20.0, 1.0, 10.0, 1.0, one, one, 28.0, 1.0)
    make_input(tmp_path / "rpcs.tif", rpcs=rpcs)
    _, target = write(tmp_path, tmp_path / "rpcs.tif")
    with rasterio.open(target) as file:
        found, expected = file.rpcs.to_dict(), rpcs.to_dict()
        assert {key: found[key] for key in expected if not key.startswith("err")} == {
            key: value for key, value in expected.items() if not key.startswith("err")
        }


def test_pixels_without_a_class_or_data_are_nodata(tmp_path):
    make_input(tmp_path / "in.tif", nodata=7, **PLACE)
    options = OutputOptions(masks=False, geotiff=True, classes=("road",), threshold=0.3)
    result, target = write(tmp_path, tmp_path / "in.tif", options, scores=True)
    with rasterio.open(tmp_path / "in.tif") as file:
        empty = file.dataset_mask() == 0
    kept = (result.labels == 0) & (result.scores >= 0.3)
    with rasterio.open(target) as file:
        assert np.array_equal(file.read(1), np.where(kept & ~empty, 0, 255))


def test_more_than_255_classes(tmp_path):
    make_input(tmp_path / "in.tif", **PLACE)
    for classes in (256, 300):
        options = OutputOptions(masks=True, geotiff=True, classes=("class 3",))
        result, target = write(tmp_path, tmp_path / "in.tif", options, classes=classes)
        expected = np.where(result.labels == 3, 3, 65535)
        with rasterio.open(target) as file:
            assert (file.dtypes, file.nodata) == (("uint16",), 65535)
            assert np.array_equal(file.read(1), expected)
        assert np.array_equal(np.asarray(Image.open(target.with_suffix(".png"))), expected)


def test_an_input_without_a_place_is_said_once(tmp_path, caplog):
    result = make_result(tmp_path / "a.png")
    Image.fromarray(result.image).save(tmp_path / "a.png")
    (tmp_path / "out").mkdir()
    with caplog.at_level(logging.WARNING, "deeplab_infer"), warnings.catch_warnings():
        warnings.simplefilter("error")
        with Outputs(tmp_path / "out", GEOTIFF, result.classes, result.palette) as outputs:
            for stem in ("a", "b"):
                outputs.write(result, stem)
            outputs.write(make_result(None), "c")
    assert len(caplog.records) == 1 and "has no georeference" in caplog.text
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.tif", "b.tif", "c.tif"]


def test_a_turned_image_is_refused(tmp_path):
    picture = Image.fromarray(make_result().image)
    picture.save(tmp_path / "turned.tif", tiffinfo={274: 3})
    (tmp_path / "turned.tfw").write_text("0.5\n0\n0\n-0.5\n400000\n5800000\n")
    result = make_result(tmp_path / "turned.tif")
    with (
        pytest.raises(ImageError, match="orientation tag"),
        Outputs(tmp_path, GEOTIFF, result.classes, result.palette) as outputs,
    ):
        outputs.write(result, "a")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["turned.tfw", "turned.tif"]


def test_bands_of_rows_make_the_same_file(tmp_path):
    make_input(tmp_path / "in.tif", 700, 90, **PLACE)
    result, target = write(tmp_path, tmp_path / "in.tif", height=700, width=90)
    options = OutputOptions(masks=False, geotiff=True, json=True)
    heights = [1, 300, 255, 1, 143]
    tops = np.cumsum([0, *heights[:-1]])
    with Outputs(tmp_path, options, result.classes, result.palette) as outputs:
        assert outputs.banded
        bands = (Band(int(t), result.labels[t : t + n]) for t, n in zip(tops, heights, strict=True))
        record = outputs.write_bands(bands, (700, 90), str(tmp_path / "in.tif"), "b")
    assert record["areas"] == result.to_dict()["areas"]
    assert (record["height"], record["width"], record["file_name"]) == (700, 90, "in.tif")
    with rasterio.open(target) as one, rasterio.open(tmp_path / "b.tif") as other:
        assert np.array_equal(one.read(1), other.read(1)) and one.profile == other.profile
    assert target.read_bytes() == (tmp_path / "b.tif").read_bytes()


@pytest.mark.parametrize(
    ("bands", "dtype", "shape"), [(1, "uint16", (40, 56)), (3, "uint8", (40, 56, 3)), (5, "uint16", (40, 56, 3))]
)
def test_rasters_as_images(tmp_path, bands, dtype, shape):
    values = make_input(tmp_path / "in.tif", bands=bands, dtype=dtype, **PLACE)
    expected = values[0] if bands == 1 else values[:3].transpose(1, 2, 0)
    with raster_pixels(tmp_path / "in.tif") as pixels:
        assert pixels.shape == shape and pixels.dtype == dtype
        assert np.array_equal(pixels[3:17, 5:56], expected[3:17, 5:56])
    for keywords in ({"bands": 2}, {"dtype": "float32"}):
        make_input(tmp_path / "other.tif", **keywords, **PLACE)
        with raster_pixels(tmp_path / "other.tif") as pixels:
            assert pixels is None
    make_input(tmp_path / "nowhere.tif")
    with raster_pixels(tmp_path / "nowhere.tif") as pixels:
        assert pixels is None


def test_a_missing_package_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "rasterio", None)
    result = make_result()
    with pytest.raises(DeepLabError, match=r"deeplab-infer\[geo\]"):
        Outputs(tmp_path, GEOTIFF, result.classes, result.palette)


def test_a_file_that_cannot_be_written_whole_is_an_error(tmp_path):
    """With a limit on the size of files, as on a full disk, GDAL fails while it closes the file."""
    code = f"""
import resource
import numpy as np
from deeplab_infer.outputs import OutputOptions, Outputs
from deeplab_infer.segmentation import Segmentation
labels = np.random.default_rng(0).integers(0, 3, (600, 600)).astype(np.uint8)
result = Segmentation(labels, ("a", "b", "c"), ((0, 0, 0), (1, 1, 1), (2, 2, 2)))
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
try:
    with Outputs({str(tmp_path)!r}, OutputOptions(masks=False, geotiff=True), result.classes, result.palette) as outputs:
        outputs.write(result, "a")
except OSError as error:
    print("refused:", error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "refused:" in done.stdout, done.stdout + done.stderr
    assert list(tmp_path.iterdir()) == []
