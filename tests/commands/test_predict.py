# SPDX-License-Identifier: Apache-2.0
"""``deeplab-predict`` as a user runs it, on good and bad files."""

import errno
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from deeplab_export import export_onnx
from PIL import Image

from deeplab_infer.commands import predict
from deeplab_infer.commands.output_names import output_stems
from deeplab_infer.data.coco import CocoDataset
from deeplab_infer.segmentation import Segmentation
from deeplab_infer.segmenter import Segmenter

from ..networks import make_network, random_images


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    export_onnx(make_network(), path, batch=1, height=48, width=64)
    return str(path)


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "my photos"
    folder.mkdir()
    for index, image in enumerate(random_images(3, 40, 56)):
        Image.fromarray(image).save(folder / f"p{index}.png")
    return folder


def run(model, *arguments):
    return predict.main([model, *map(str, arguments)])


def names(folder):
    return sorted(p.name for p in Path(folder).iterdir())


def test_as_a_program(tmp_path, model_file, photos):
    command = [
        sys.executable,
        "-m",
        "deeplab_infer.commands.predict",
        model_file,
        str(photos),
        "-o",
        str(tmp_path / "o"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "3 of 3 images segmented" in done.stdout
    assert names(tmp_path / "o") == ["p0.png", "p1.png", "p2.png"]


def test_everything_that_can_be_written(tmp_path, model_file, photos):
    assert (
        run(model_file, photos / "p*.png", "-o", tmp_path / "o", "--overlay", "--npz", "--json", "--alpha", "0.3") == 0
    )
    assert names(tmp_path / "o") == sorted(
        [f"p{i}{end}" for i in range(3) for end in (".npz", ".png", "_overlay.png")] + ["results.jsonl"]
    )
    lines = [json.loads(line) for line in (tmp_path / "o" / "results.jsonl").read_text().splitlines()]
    assert [Path(line["path"]).name for line in lines] == ["p0.png", "p1.png", "p2.png"]
    assert sum(lines[0]["areas"].values()) == pytest.approx(1, abs=1e-4)
    expected = Segmenter(model_file).predict(photos / "p1.png").labels
    assert np.array_equal(np.asarray(Image.open(tmp_path / "o" / "p1.png")), expected)
    assert run(model_file, photos, "-o", tmp_path / "n", "--no-mask", "--json") == 0
    assert names(tmp_path / "n") == ["results.jsonl"]


def test_bad_files_are_reported_and_skipped(tmp_path, model_file, photos, capsys):
    (photos / "broken.png").write_bytes((photos / "p0.png").read_bytes()[:200])
    (photos / "zero.jpg").write_bytes(b"")
    assert run(model_file, photos, "-o", tmp_path / "o", "--json") == 1
    captured = capsys.readouterr()
    assert "broken.png: damaged" in captured.err
    assert "zero.jpg: not an image" in captured.err
    assert "3 of 5 images" in captured.out
    assert len((tmp_path / "o" / "results.jsonl").read_text().splitlines()) == 3
    assert run(model_file, photos / "zero.jpg", "-o", tmp_path / "o") == 2


def test_unusual_images_and_names(tmp_path, model_file):
    Image.fromarray(np.zeros((1, 1, 3), np.uint8)).save(tmp_path / "one.png")
    Image.fromarray(np.zeros((5, 9), np.uint8)).save(tmp_path / "grey.png")
    Image.fromarray(np.zeros((5, 9, 4), np.uint8)).save(tmp_path / "alpha.png")
    Image.fromarray(np.zeros((5, 9), np.uint16)).save(tmp_path / "deep.png")
    Image.fromarray(np.zeros((5, 9, 3), np.uint8)).save(tmp_path / "new\nline ü.png")
    assert run(model_file, tmp_path, "-o", tmp_path / "o", "--overlay") == 0
    assert Image.open(tmp_path / "o" / "one.png").size == (1, 1)
    assert (tmp_path / "o" / "new\nline ü.png").exists()


def test_names_that_meet_twice(tmp_path):
    paths = [Path("a/x.png"), Path("b/x.png"), Path("b/x.jpg"), Path("y.png"), Path("../../x.png")]
    stems = output_stems(paths)
    assert len(set(stems)) == 5
    assert stems[3] == "y"
    assert all("/" not in stem and ".." not in stem for stem in stems)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing/*.png"], "no such file, folder or pattern"),
        (["EMPTY"], "holds no image"),
        (["PHOTOS", "--alpha", "2"], "--alpha must be in 0..1"),
        (["PHOTOS", "--mode", "slide"], "needs window"),
        (["PHOTOS", "--mode", "slide", "--window", "4"], "is not a size"),
        (["PHOTOS", "--backend", "tflite"], "unknown backend"),
        (["PHOTOS", "-o", "PHOTOS/p0.png"], "is a file"),
        (["PHOTOS", "-o", "/proc/x"], "cannot write to folder"),
    ],
)
def test_wrong_use(tmp_path, capsys, model_file, photos, arguments, message):
    (tmp_path / "empty").mkdir()
    texts = [a.replace("PHOTOS", str(photos)).replace("EMPTY", str(tmp_path / "empty")) for a in arguments]
    if "-o" not in texts:
        texts += ["-o", str(tmp_path / "o")]
    assert run(model_file, *texts) == 2
    assert message in capsys.readouterr().err


def test_models_that_cannot_be_opened(tmp_path, capsys, photos):
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    for model, message in (
        ("bad.onnx", "not an ONNX file"),
        ("missing.onnx", "no such file"),
        ("x.engine", "no such file"),
    ):
        assert run(str(tmp_path / model), photos, "-o", tmp_path / "o") == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [(OSError(errno.ENOSPC, "No space left on device"), 2, "disk is full"), (KeyboardInterrupt(), 130, "interrupted")],
)
def test_nothing_half_written_is_left(tmp_path, capsys, monkeypatch, model_file, photos, error, code, message):
    def fail(*arguments, **keywords):
        raise error

    monkeypatch.setattr(Segmentation, "_encode", fail)
    assert run(model_file, photos, "-o", tmp_path / "o", "--json") == code
    assert message in capsys.readouterr().err
    assert names(tmp_path / "o") == []


def test_an_input_is_never_overwritten(tmp_path, model_file, photos, capsys):
    before = {path.name: path.read_bytes() for path in photos.iterdir()}
    assert run(model_file, photos, "-o", photos) == 2
    assert "would overwrite an input image" in capsys.readouterr().err
    (tmp_path / "link").symlink_to(photos)
    assert run(model_file, photos, "-o", tmp_path / "link") == 2
    assert {path.name: path.read_bytes() for path in photos.iterdir()} == before
    assert run(model_file, photos, "-o", photos, "--no-mask", "--overlay") == 0
    assert {name: (photos / name).read_bytes() for name in before} == before


def test_a_mask_and_an_overlay_never_share_a_name(tmp_path, model_file):
    for name, height in (("a.png", 8), ("a_overlay.png", 12)):
        Image.fromarray(np.zeros((height, 9, 3), np.uint8)).save(tmp_path / name)
    assert run(model_file, tmp_path, "-o", tmp_path / "o", "--overlay") == 0
    assert names(tmp_path / "o") == ["a.png", "a_overlay.png", "a_overlay_2.png", "a_overlay_2_overlay.png"]
    assert output_stems([Path("a.png"), Path("a_overlay.png")]) == ["a", "a_overlay"]


def test_precision_of_the_torch_backend(tmp_path, capsys):
    from deeplab_infer.runtime import TORCH_PRECISIONS
    from deeplab_infer.runtime.torch_precision import PRECISIONS

    assert tuple(PRECISIONS) == TORCH_PRECISIONS
    image = tmp_path / "a.png"
    Image.fromarray(np.zeros((32, 48, 3), np.uint8)).save(image)
    name = "deeplabv3plus_mobilenetv2_streets"
    assert predict.main(["-q", name, str(image), "-o", str(tmp_path / "out"), "--precision", "bf16"]) == 0
    assert (tmp_path / "out" / "a.png").exists()
    assert (
        predict.main(["-q", name, str(image), "-o", str(tmp_path / "out"), "--device", "cpu", "--precision", "tf32"])
        == 2
    )
    assert "tf32" in capsys.readouterr().err


def test_formats_for_other_tools(tmp_path, model_file, photos):
    out = tmp_path / "o"
    assert run(model_file, photos, "-o", out, "--no-mask", "--coco", "polygons", "--labelme", "--cvat", "--json") == 0
    assert names(out) == ["coco.json", "cvat.xml", "p0.json", "p1.json", "p2.json", "results.jsonl"]
    content = json.loads((out / "coco.json").read_text())
    assert [image["file_name"] for image in content["images"]] == ["p0.png", "p1.png", "p2.png"]
    labels = CocoDataset(photos, "train", annotations=out / "coco.json", uncovered="ignore").labels(1)
    assert np.array_equal(labels, Segmenter(model_file).predict(photos / "p1.png").labels)


def test_only_some_classes_and_sure_pixels(tmp_path, model_file, photos):
    segmenter = Segmenter(model_file)
    result = segmenter.predict(photos / "p0.png", scores=True)
    name = max(result.areas(), key=result.areas().get)
    middle = float(np.median(result.scores))
    assert run(model_file, photos / "p0.png", "-o", tmp_path / "o", "--classes", name, "--threshold", middle) == 0
    kept = (result.labels == segmenter.classes.index(name)) & (result.scores >= np.float32(middle))
    expected = np.where(kept, result.labels, 255)
    assert 0 < kept.sum() < kept.size
    assert np.array_equal(np.asarray(Image.open(tmp_path / "o" / "p0.png")), expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--classes", "rode"], "no class 'rode'"),
        (["--threshold", "2"], "is a probability"),
        (["--coco-per", "class"], "ask for that with --coco"),
        (["--min-area", "nan"], "smallest area"),
    ],
)
def test_outputs_that_cannot_be(tmp_path, capsys, model_file, photos, arguments, message):
    assert run(model_file, photos, "-o", tmp_path / "o", *arguments) == 2
    assert message in capsys.readouterr().err


def test_images_of_one_name_in_two_folders(tmp_path, model_file, photos):
    other = tmp_path / "other"
    other.mkdir()
    Image.fromarray(random_images(1, 20, 24)[0]).save(other / "p0.png")
    assert run(model_file, photos, other, "-o", tmp_path / "o", "--no-mask", "--coco", "rle") == 0
    images = json.loads((tmp_path / "o" / "coco.json").read_text())["images"]
    assert [image["file_name"] for image in images][2:] == ["my photos/p2.png", "other/p0.png"]


def test_names_too_long_for_their_outputs(tmp_path, model_file):
    for name in ("x" * 250 + "1.png", "x" * 250 + "2.png", "ü" * 125 + ".png"):
        Image.fromarray(np.zeros((5, 9, 3), np.uint8)).save(tmp_path / name)
    assert run(model_file, tmp_path, "-o", tmp_path / "o", "--overlay") == 0
    assert len(names(tmp_path / "o")) == 6


def test_an_image_named_like_a_file_of_the_run(tmp_path, model_file):
    Image.fromarray(np.zeros((5, 9, 3), np.uint8)).save(tmp_path / "coco.png")
    assert run(model_file, tmp_path, "-o", tmp_path / "o", "--no-mask", "--labelme", "--coco", "rle") == 0
    assert names(tmp_path / "o") == ["coco.json", "coco_2.json"]


def test_a_full_disk_in_the_middle(tmp_path, capsys, monkeypatch, model_file, photos):
    encode = Segmentation._encode
    calls = []

    def fill(self, *arguments):
        calls.append(self)
        if len(calls) > 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return encode(self, *arguments)

    monkeypatch.setattr(Segmentation, "_encode", fill)
    assert run(model_file, photos, "-o", tmp_path / "o", "--json") == 2
    assert "disk is full" in capsys.readouterr().err
    assert names(tmp_path / "o") == ["p0.png", "p1.png", "results.jsonl"]
    assert len((tmp_path / "o" / "results.jsonl").read_text().splitlines()) == 2


def test_large_geotiffs_from_file_to_file(tmp_path, model_file, monkeypatch):
    rasterio = pytest.importorskip("rasterio", reason="rasterio is not installed")
    place = {"crs": "EPSG:32633", "transform": rasterio.Affine(0.5, 0, 4e5, 0, -0.5, 5.8e6)}
    pixels = random_images(1, 300, 200)[0]
    with rasterio.open(
        tmp_path / "in.tif", "w", driver="GTiff", height=300, width=200, count=3, dtype="uint8", **place
    ) as file:
        file.write(pixels.transpose(2, 0, 1))
    options = ["--mode", "slide", "--window", "48x64", "--window-stride", "32x48", "--memory", "100000", "--geotiff"]
    assert run(model_file, tmp_path / "in.tif", "-o", tmp_path / "whole", *options) == 0
    with monkeypatch.context() as patch:
        patch.setattr("deeplab_infer.images.read_image", None)  # the file is never decoded whole
        patch.setattr(Segmenter, "predict", None)
        arguments = [*options, "--no-mask", "--json", "--threshold", "0.1"]
        assert run(model_file, tmp_path / "in.tif", "-o", tmp_path / "bands", *arguments) == 0
    with rasterio.open(tmp_path / "whole" / "in.tif") as one, rasterio.open(tmp_path / "bands" / "in.tif") as other:
        assert one.transform == other.transform == place["transform"]
        kept = other.read(1) != 255
        assert kept.any() and np.array_equal(one.read(1)[kept], other.read(1)[kept])
        assert np.array_equal(one.read(1), np.asarray(Image.open(tmp_path / "whole" / "in.png")))
