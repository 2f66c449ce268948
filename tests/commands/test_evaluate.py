# SPDX-License-Identifier: Apache-2.0
"""``deeplab-eval``."""

import csv
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from deeplab_export import TracedNetwork
from deeplab_export.graph import Signature
from deeplab_export.openvino_export import export_openvino
from deeplab_export.precision import PRECISIONS
from PIL import Image

from deeplab_infer import Segmenter, checkpoints
from deeplab_infer.commands import evaluate
from deeplab_infer.commands.evaluate_options import for_each_model
from deeplab_infer.commands.evaluate_output import picture_path
from deeplab_infer.configs import dataset_spec
from deeplab_infer.configs.datasets import generic_dataset
from deeplab_infer.data.scenes import HELD_OUT_SEED, StreetScenes
from deeplab_infer.errors import DeepLabError
from deeplab_infer.evaluation import ConfusionMatrix, Trimap
from deeplab_infer.files import sha256_file

from ..networks import STREETS, make_network

HEIGHT, WIDTH = 64, 128
SMALL = ["--count", "2", "--size", f"{HEIGHT}x{WIDTH}"]
CLASSES = dataset_spec("synthetic_streets").classes


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The bundled network as checkpoint, ONNX and OpenVINO file; a worse one; some with other classes."""
    folder = tmp_path_factory.mktemp("models")
    network = checkpoints.load(f"asset:{STREETS}.safetensors")
    traced = TracedNetwork(network, Signature("uint8", "logits", (1, 1, 1), (HEIGHT,) * 3, (WIDTH,) * 3))
    traced.write(folder / "m.onnx", PRECISIONS["fp32"])
    export_openvino(traced, folder / "m.xml", PRECISIONS["fp32"])
    checkpoints.save(network, folder / "m.safetensors")
    with torch.no_grad():
        network.classifier.bias[CLASSES.index("car")] += 4
    checkpoints.save(network, folder / "other.safetensors")
    network.config = network.config.replace(dataset=generic_dataset(10))
    checkpoints.save(network, folder / "ten.safetensors")
    checkpoints.save(make_network(overrides=["num_classes=3"]), folder / "three.safetensors")
    return {path.name: str(path) for path in folder.iterdir()}


@pytest.fixture
def folder(tmp_path):
    """Five street scenes of several sizes in the plain folder format, with some void pixels."""
    root = tmp_path / "data"
    for name in ("images/a", "images/b", "masks/a", "masks/b"):
        (root / name).mkdir(parents=True)
    scenes = StreetScenes(5, 40, 72, 7)
    names = []
    for index in range(5):
        image, labels = scenes[index]
        labels = labels[: 40 - index].copy()
        labels[3:6, 10:30] = 255
        names.append(f"{'ab'[index % 2]}/street_{index}")
        Image.fromarray(image[: 40 - index]).save(root / "images" / f"{names[-1]}.png")
        Image.fromarray(labels).save(root / "masks" / f"{names[-1]}.png")
    (root / "classes.txt").write_text("\n".join(CLASSES) + "\n")
    (root / "val.txt").write_text("\n".join(names) + "\n")
    return root


def run(capsys, *arguments, code=0):
    """The command's stdout and stderr."""
    assert evaluate.main([str(argument) for argument in arguments]) == code
    return capsys.readouterr()


def run_json(capsys, *arguments, code=0):
    return json.loads(run(capsys, *arguments, "--json", "-", "-q", code=code).out, parse_constant=pytest.fail)


def test_evaluation(models, tmp_path, capsys):
    size = ["--count", "1", "--size", "32x64", "-q"]
    assert evaluate.main([models["m.safetensors"], *size]) == 0
    assert "mean" in capsys.readouterr().out
    for backend, runs_on in (("auto", "openvino"), ("torch", "torch")):
        assert evaluate.main([models["m.safetensors"], *size, "--backend", backend, "--json", "-"]) == 0
        result = json.loads(capsys.readouterr().out)
        assert 0 <= result["miou"] <= 1
        assert result["backend"] == runs_on
    assert evaluate.main([models["three.safetensors"], *size]) == 2
    assert "3 classes" in capsys.readouterr().err
    assert evaluate.main([models["m.safetensors"], "--count", "0"]) == 2


def test_the_bundled_weights_are_as_good_as_the_readme_says(capsys):
    assert evaluate.main([STREETS, "--count", "3", "--size", "256x512", "--json", "-", "-q"]) == 0
    # 0.87 over 100 larger scenes; three small ones vary.
    assert json.loads(capsys.readouterr().out)["miou"] > 0.75


def test_the_scores_are_those_of_the_predictions(models, capsys):
    scenes = StreetScenes(2, HEIGHT, WIDTH, HELD_OUT_SEED)
    matrix, trimap = ConfusionMatrix(CLASSES), Trimap(CLASSES, widths=(1, 4))
    with Segmenter(models["m.safetensors"]) as segmenter:
        for index in range(2):
            image, labels = scenes[index]
            for one in (matrix, trimap):
                one.add(segmenter.predict(image).labels, labels)
    found = run_json(capsys, models["m.safetensors"], *SMALL, "--boundary", "1,4")
    assert {key: found[key] for key in ("miou", "iou", "pixels")} == {
        key: matrix.scores().to_dict()[key] for key in ("miou", "iou", "pixels")
    }
    assert found["boundary"] == trimap.scores().to_dict()


def test_what_the_json_says_about_the_run(models, tmp_path, capsys):
    out = run(capsys, models["m.xml"], *SMALL, "--json", tmp_path / "r.json", "--csv", tmp_path / "r.csv")
    found = json.loads((tmp_path / "r.json").read_text())
    assert found["sha256"] == sha256_file(models["m.xml"])
    assert found["sha256_weights"] == sha256_file(models["m.bin"])
    expected = {
        "model": models["m.xml"], "backend": "openvino", "device": "cpu", "precision": "fp32", "mode": "whole",
        "scales": [1.0], "flip": False, "dataset": "synthetic_streets", "count": 2, "size": "64x128", "images": 2,
        "unreadable": [], "schema_version": 1,
    }  # fmt: skip
    assert {key: found[key] for key in expected} == expected
    assert found["command"].startswith("deeplab-eval ")
    assert {"deeplab-infer", "python", "numpy", "openvino"} <= set(found["versions"])
    assert found["seconds"] > 0
    rows = list(csv.DictReader((tmp_path / "r.csv").open()))
    assert [row["class"] for row in rows] == list(CLASSES)
    assert float(rows[0]["iou"]) == found["iou"]["sky"]
    assert "2 held-out scenes of 64x128" in out.out
    assert "2 images predicted in" in out.err


def test_the_formats_of_one_network_agree(models, tmp_path, capsys):
    names = [models[name] for name in ("m.safetensors", "m.onnx", "m.xml")]
    found = run_json(capsys, *names, *SMALL, "--min-agreement", "0.999", "--agreement-map", tmp_path / "maps")
    assert [model["backend"] for model in found["models"]] == ["openvino", "onnxruntime", "openvino"]
    for comparison in found["comparisons"]:
        # All pixels; float32 sums in another order may turn a tie.
        assert round((1 - comparison["agreement"]) * 2 * HEIGHT * WIDTH) <= 1
        assert abs(comparison["miou_difference"]) < 0.01
    assert sorted(path.name for path in (tmp_path / "maps").iterdir()) == ["m.onnx", "m.xml"]


def test_two_models_are_compared(models, tmp_path, capsys):
    pair = [models["m.safetensors"], models["other.safetensors"]]
    extras = ["--agreement-map", tmp_path / "maps", "--worst", "1", "--save", tmp_path / "saved"]
    found = run_json(capsys, *pair, *SMALL, *extras)
    (comparison,) = found["comparisons"]
    assert comparison["models"] == ["m.safetensors", "other.safetensors"]
    first, second = (np.stack([np.asarray(Image.open(tmp_path / "saved" / name / f"scene_{HELD_OUT_SEED + i}.png"))
                               for i in range(2)]) for name in comparison["models"])  # fmt: skip
    assert comparison["agreement"] == np.mean(first == second) < 1
    worst = int(np.argmin((first == second).mean((1, 2))))
    assert comparison["worst_images"][0]["image"] == f"scene {HELD_OUT_SEED + worst}"
    (picture,) = (tmp_path / "maps").iterdir()
    assert picture.name == f"01_scene_{HELD_OUT_SEED + worst}.png"
    assert Image.open(picture).size == (WIDTH, HEIGHT)
    assert comparison["miou_difference"] == found["models"][1]["miou"] - found["models"][0]["miou"]
    text = run(capsys, *pair, *SMALL, "--boundary", "--min-agreement", "0.99", code=1)
    for words in ("A: m.safetensors", "IoU B", "B against A", "scene 100000", "mIoU B", "40 px"):
        assert words in text.out, words
    assert "below --min-agreement 0.99" in text.err


def test_one_model_on_two_backends(models, capsys):
    found = run_json(capsys, models["m.onnx"], models["m.onnx"], *SMALL, "--backend", "onnxruntime,openvino")
    assert [model["name"] for model in found["models"]] == ["m.onnx (onnxruntime fp32)", "m.onnx (openvino fp32)"]
    found = run_json(capsys, models["m.safetensors"], models["m.onnx"], *SMALL, "--precision", "bf16,auto")
    assert [model["precision"] for model in found["models"]] == ["bf16", "fp32"]
    found = run_json(capsys, models["m.onnx"], models["m.onnx"], *SMALL)
    assert [model["name"] for model in found["models"]] == [
        "m.onnx (onnxruntime fp32) #1",
        "m.onnx (onnxruntime fp32) #2",
    ]
    assert found["comparisons"][0]["agreement"] == 1


def test_a_folder_of_images(models, folder, tmp_path, capsys):
    arguments = [models["m.safetensors"], "--dataset", "folder", "--data", folder]
    found = run_json(capsys, *arguments, "--save", tmp_path / "saved")
    assert (found["dataset"], found["split"], found["format"], found["images"]) == ("data", "val", "folder", 5)
    matrix = ConfusionMatrix(CLASSES)
    saved = sorted((tmp_path / "saved").rglob("*.png"))
    assert len(saved) == 5
    for path in saved:
        mask = next((folder / "masks").rglob(path.name))
        matrix.add(np.asarray(Image.open(path)), np.asarray(Image.open(mask)))
    assert found["miou"] == matrix.scores().miou
    assert Image.open(saved[0]).getpalette()[:3] == list(dataset_spec("synthetic_streets").palette[0])
    part = run_json(capsys, *arguments, "--limit", "2")
    assert (part["images"], part["limit"]) == (2, 2)
    text = run(capsys, *arguments, "--limit", "2", "-q", "--markdown").out
    assert text.startswith("**2 of 5 images of data val**\n\n| class | IoU |")


def test_a_folder_without_class_names_has_those_of_the_model(models, folder, capsys):
    (folder / "classes.txt").unlink()
    assert run_json(capsys, models["m.safetensors"], "--dataset", "folder", "--data", folder)["images"] == 5


def test_void_borders_and_class_edges(models, folder, capsys):
    bands = {}
    for edges in ("auto", "void", "classes"):
        arguments = ["--dataset", "folder", "--data", folder, "--boundary=2", "--boundary-edges", edges]
        bands[edges] = run_json(capsys, models["m.safetensors"], *arguments)["boundary"]["bands"][0]["share"]
    assert bands["void"] < bands["auto"]
    assert bands["classes"] < bands["auto"] < bands["void"] + bands["classes"]
    message = run(capsys, models["m.safetensors"], *SMALL, "--boundary", "--boundary-edges", "void", code=2).err
    assert "no labelled pixel is within 40 pixels of a boundary (void)" in message


def test_unreadable_images(models, folder, capsys):
    (folder / "images" / "b" / "street_3.png").write_bytes(b"no picture")
    path = folder / "masks" / "a" / "street_2.png"
    labels = np.asarray(Image.open(path)).copy()
    labels[0, 0] = 99
    Image.fromarray(labels).save(path)
    arguments = [models["m.safetensors"], "--dataset", "folder", "--data", folder]
    message = run(capsys, *arguments, code=2).err
    for words in ("2 of 5 images could not be read", "street_3.png", "street_2.png", "99", "--skip-unreadable 2"):
        assert words in message, words
    assert run(capsys, *arguments, "--skip-unreadable", "1", code=2)
    result = run(capsys, *arguments, "--skip-unreadable", "2", "--json", "-", "-q")
    assert result.err.count("left out: ") == 2
    found = json.loads(result.out)
    assert found["images"] == 3
    assert len(found["unreadable"]) == 2


def test_multi_scale_and_windows(models, capsys):
    found = run_json(capsys, models["m.safetensors"], *SMALL[:1], "1", *SMALL[2:], "--ms-flip")
    assert (found["scales"], found["flip"]) == ([0.5, 0.75, 1.0, 1.25, 1.5, 1.75], True)
    found = run_json(capsys, models["m.safetensors"], *SMALL, "--scales", "0.5,1", "--flip")
    assert (found["scales"], found["flip"]) == ([0.5, 1.0], True)
    windows = ["--mode", "slide", "--window", "64x64", "--window-stride", "64x32"]
    found = run_json(capsys, models["m.safetensors"], *SMALL, *windows)
    assert (found["mode"], found["window"], found["window_stride"]) == ("slide", [64, 64], [64, 32])


def test_pictures(models, tmp_path, capsys):
    pair = [models["m.safetensors"], models["other.safetensors"]]
    run(capsys, *pair, *SMALL, "--confusion", tmp_path / "c.png", "--boundary-plot", tmp_path / "b.svg")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b.svg", "c_m.safetensors.png", "c_other.safetensors.png"]
    run(capsys, pair[0], *SMALL, "--confusion", tmp_path / "one.pdf")
    assert (tmp_path / "one.pdf").read_bytes().startswith(b"%PDF")


def test_a_missed_miou_is_exit_code_1(models, capsys):
    assert run(capsys, models["m.safetensors"], *SMALL, "--min-miou", "0").err.count("below") == 0
    assert "m.safetensors: mIoU 0." in run(capsys, models["m.safetensors"], *SMALL, "--min-miou", "0.99", code=1).err


def test_classes_by_their_numbers(models, capsys):
    message = run(capsys, models["ten.safetensors"], *SMALL, code=2).err
    assert "0 is 'class_0' and 'sky'" in message
    assert "--by-index" in message
    assert run_json(capsys, models["ten.safetensors"], *SMALL, "--by-index")["iou"].keys() == set(CLASSES)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--size", "32"], "is not a size"),
        (["--dataset", "cityscapes"], "give --data DIR"),
        (["--dataset", "citiscapes", "--data", "."], "did you mean 'cityscapes'"),
        (["--dataset", "cityscapes", "--data", "missing"], "missing"),
        (["--dataset", "folder", "--data", "{empty}"], "there is no images/"),
        (["--dataset", "streets", "--data", "."], "give one of them"),
        (["--dataset", "voc", "--data", ".", "--count", "3"], "give one of them"),
        (["--data", "."], "does not tell how the files"),
        (["--annotations", "a.json", "--dataset", "folder", "--data", "{empty}"], "coco"),
        (["--limit", "0"], "--limit must be at least 1"),
        (["--skip-unreadable", "-1"], "--skip-unreadable must be at least 0"),
        (["--ms-flip", "--flip"], "--ms-flip brings its own"),
        (["--ms-flip", "--scales", "1,2"], "--ms-flip brings its own"),
        (["--min-miou", "79"], "79 % is 0.79"),
        (["--min-agreement", "0.9"], "--min-agreement compares models"),
        (["--agreement-map", "{empty}"], "--agreement-map compares models"),
        (["--boundary", "2000"], "1..1000"),
        (["--confusion", "c.jpg"], "a plot is written as"),
        (["--boundary-plot", "{empty}/no/b.png"], "there is no folder"),
        (["--json", "{empty}/no/r.json"], "there is no folder"),
        (["--csv", "{empty}/no/r.csv"], "there is no folder"),
        (["--save", "/proc/x"], "cannot write to folder"),
        (["--backend", "onnx"], "--backend 'onnx' is not one of"),
        (["--backend", "torch,torch"], "2 values for 1 models"),
        (["--precision", "fp8"], "--precision 'fp8' is not one of auto, fp32"),
        (["--mode", "slide"], "needs window"),
        (["--mode", "slide", "--window", "8x8", "--window-stride", "9x9"], "is larger than window"),
        (["--window", "8"], "is not a size"),
    ],
)
def test_wrong_use(models, tmp_path, capsys, arguments, message):
    empty = tmp_path / "empty"
    empty.mkdir()
    arguments = [one.replace("{empty}", str(empty)) for one in arguments]
    assert message in run(capsys, models["m.safetensors"], *arguments, code=2).err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--boundary", "m.onnx"], "put the model before --boundary"),
        (["--boundary", "0,1"], "are not widths"),
        (["--scales", "1,x"], "are not scales"),
        (["--scales=-1"], "must be positive"),
        (["--boundary-edges", "all"], "invalid choice"),
    ],
)
def test_options_that_cannot_be_parsed(capsys, arguments, message):
    with pytest.raises(SystemExit) as error:
        evaluate.main(["m.onnx", *arguments])
    assert error.value.code == 2
    assert message in capsys.readouterr().err


def test_models_that_cannot_be_evaluated(models, tmp_path, capsys):
    assert "no such file" in run(capsys, "missing.onnx", code=2).err
    assert "give images: --dataset folder --data DIR" in run(capsys, models["three.safetensors"], code=2).err
    pair = [models["m.safetensors"], models["three.safetensors"]]
    assert "three.safetensors has 3 classes" in run(capsys, *pair, *SMALL, code=2).err
    message = run(capsys, *pair, *SMALL, "--device", "cpu,cpu,cpu", code=2).err
    assert "--device has 3 values for 2 models" in message
    fixed = run(capsys, models["m.onnx"], *SMALL, "--ms-flip", code=2).err
    assert "exported for one size" in fixed


def test_images_without_labels(models, folder, capsys):
    for mask in (folder / "masks").rglob("*.png"):
        Image.fromarray(np.full_like(np.asarray(Image.open(mask)), 255)).save(mask)
    message = run(capsys, models["m.safetensors"], "--dataset", "folder", "--data", folder, code=2).err
    assert "no pixel of the 5 images is labelled" in message


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("leftImg8bit/val/a/x_leftImg8bit.png", "leftImg8bit/val/a/x_leftImg8bit.png"),
        ("scene 1000003", "scene_1000003.png"),
        ("../../etc/passwd.jpg", "etc/passwd.png"),
        ("/abs/olute.TIF", "abs/olute.png"),
        ("a\\b.jpeg", "a/b.png"),
        ("x.v2", "x.v2.png"),
        ("..", "image.png"),
    ],
)
def test_predictions_stay_in_their_folder(name, path):
    assert str(picture_path(name)) == path


def test_one_value_for_all_or_one_for_each():
    assert for_each_model(None, 3, "--x") == [None] * 3
    assert for_each_model("a", 2, "--x") == ["a", "a"]
    assert for_each_model("a, b", 2, "--x", ("a", "b")) == ["a", "b"]
    with pytest.raises(DeepLabError, match="3 values for 2 models"):
        for_each_model("a,b,c", 2, "--x")


def test_evaluating_an_exported_file_needs_no_torch(models, folder):
    code = (
        "import sys\n"
        "from deeplab_infer.commands import evaluate\n"
        f"code = evaluate.main([{models['m.onnx']!r}, '--dataset', 'folder', '--data', {str(folder)!r}, '--boundary', '-q'])\n"
        "assert code == 0 and not {'torch', 'matplotlib'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
