# SPDX-License-Identifier: Apache-2.0
"""Outputs of a run: whole or absent, whatever ends it."""

import errno
import json
import logging
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from deeplab_infer.errors import DeepLabError
from deeplab_infer.outputs import OutputOptions, Outputs, assemble, read_records, writer
from deeplab_infer.outputs.assembly import dump
from deeplab_infer.segmentation import Segmentation

from .results import NAMES, make_result

EVERYTHING = OutputOptions(overlay=True, npz=True, json=True, coco="rle", labelme=True, cvat=True)
PALETTE = make_result().palette


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_everything_of_an_image(tmp_path):
    with Outputs(tmp_path, EVERYTHING, NAMES, PALETTE) as outputs:
        assert outputs.suffixes == [".png", "_overlay.png", ".npz", ".json"]
        assert outputs.names == ["results.jsonl", "coco.json", "cvat.xml"]
        assert outputs.needs_scores and not outputs.banded
        result = make_result("photos/x.png", scores=True)
        record = outputs.write(result, "x")
    assert names(tmp_path) == ["coco.json", "cvat.xml", "results.jsonl", "x.json", "x.npz", "x.png", "x_overlay.png"]
    line = json.loads((tmp_path / "results.jsonl").read_text())
    assert line == {key: value for key, value in json.loads(dump(record)).items() if key not in ("coco", "cvat")}
    assert line["areas"] == result.to_dict()["areas"]
    assert line["files"] == ["x.png", "x_overlay.png", "x.npz", "x.json"]
    assert np.array_equal(np.load(tmp_path / "x.npz")["scores"], result.scores)


def test_filter_and_threshold_hold_for_every_file(tmp_path):
    options = OutputOptions(npz=True, json=True, classes=("sky", "road"), threshold=0.4)
    result = make_result(scores=True)
    with Outputs(tmp_path, options, NAMES, PALETTE) as outputs:
        outputs.write(result, "x")
    expected = np.where((result.scores >= 0.4) & (result.labels != 1), result.labels, 255)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "x.png")), expected)
    assert np.array_equal(np.load(tmp_path / "x.npz")["labels"], expected)
    areas = json.loads((tmp_path / "results.jsonl").read_text())["areas"]
    assert areas == pytest.approx({NAMES[i]: (expected == i).mean() for i in (0, 2)}, abs=1e-6)


def test_unknown_classes_are_refused(tmp_path):
    with pytest.raises(DeepLabError, match="no class 'rode'; did you mean 'road'"):
        Outputs(tmp_path, OutputOptions(classes=("rode",)), NAMES, PALETTE)


def test_names_in_files_of_the_run(tmp_path):
    options = OutputOptions(masks=False, coco="rle")
    with Outputs(tmp_path, options, NAMES, PALETTE, root=tmp_path / "photos") as outputs:
        for stem, path in enumerate(("photos/a/x.png", "photos/b/x.png", "elsewhere/y.png", "photoshop/z.png")):
            outputs.write(make_result(tmp_path / path), str(stem))
        outputs.write(make_result(None), "frame 7")
    images = json.loads((tmp_path / "coco.json").read_text())["images"]
    assert [image["file_name"] for image in images] == ["a/x.png", "b/x.png", "y.png", "z.png", "frame 7"]


def full_disk(*arguments, **keywords):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_an_image_that_cannot_be_written_whole_leaves_nothing(tmp_path, monkeypatch, caplog):
    def run():
        with Outputs(tmp_path, OutputOptions(overlay=True, json=True), NAMES, PALETTE) as outputs:
            outputs.write(make_result(), "a")
            monkeypatch.setattr(Segmentation, "plot", full_disk)  # the mask of b is written by then
            outputs.write(make_result(), "b")

    with pytest.raises(OSError, match="No space"):
        run()
    assert names(tmp_path) == ["a.png", "a_overlay.png", "results.jsonl"]
    assert len((tmp_path / "results.jsonl").read_text().splitlines()) == 1
    assert "1 images were finished" in caplog.text


@pytest.mark.parametrize("error", [KeyboardInterrupt, DeepLabError])
def test_what_was_finished_is_in_the_files_of_the_run(tmp_path, error):
    def run():
        with Outputs(tmp_path, OutputOptions(coco="rle"), NAMES, PALETTE) as outputs:
            outputs.write(make_result(), "a")
            raise error

    with pytest.raises(error):
        run()
    assert names(tmp_path) == ["a.png", "coco.json"]
    assert len(json.loads((tmp_path / "coco.json").read_text())["images"]) == 1


def test_a_run_that_ends_before_its_first_image_leaves_older_files(tmp_path):
    def run():
        with Outputs(tmp_path, OutputOptions(json=True), NAMES, PALETTE):
            raise DeepLabError("no")

    (tmp_path / "results.jsonl").write_text("old\n")
    with pytest.raises(DeepLabError):
        run()
    assert (tmp_path / "results.jsonl").read_text() == "old\n"


def test_where_the_files_of_the_run_cannot_be_made_the_journal_stays(tmp_path, monkeypatch, caplog):
    options = OutputOptions(masks=False, coco="rle", json=True)
    outputs = Outputs(tmp_path, options, NAMES, PALETTE)
    for stem in ("a", "b"):
        outputs.write(make_result(seed=ord(stem)), stem)
    with monkeypatch.context() as patch:
        patch.setattr(writer, "assemble", full_disk)
        with pytest.raises(OSError, match="No space"):
            outputs.close()
    (journal,) = tmp_path.iterdir()
    assert str(journal) in caplog.text and "2 finished images" in caplog.text
    assemble(tmp_path, options, NAMES, PALETTE, lambda: read_records(journal))
    assert len(json.loads((tmp_path / "coco.json").read_text())["images"]) == 2
    assert len((tmp_path / "results.jsonl").read_text().splitlines()) == 2


def test_a_line_that_does_not_fit_on_the_disk_is_taken_back(tmp_path):
    journal = writer._Journal(tmp_path)
    journal.append(dump({"stem": "a"}))
    real = journal._stream

    class Full:
        tell, seek, truncate, close = real.tell, real.seek, real.truncate, real.close

        def write(self, data):
            if len(data) < 9:
                full_disk()
            return real.write(data[:8])

    journal._stream = Full()
    with pytest.raises(OSError, match="No space"):
        journal.append(dump({"stem": "b"}))
    journal._stream = real
    journal.append(dump({"stem": "c"}))
    journal.close()
    assert [record["stem"] for record in journal.records()] == ["a", "c"]


def test_threads_share_it(tmp_path):
    with Outputs(tmp_path, OutputOptions(json=True), NAMES, PALETTE) as outputs, ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: outputs.write(make_result(seed=n), str(n)), range(24)))
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert sorted(int(line["stem"]) for line in lines) == list(range(24))


def test_odd_and_long_names(tmp_path):
    stems = ["a b", "new\nline", "grüße", "\udc80 no utf-8", "x" * 242, "-o", "%s{}"]
    with Outputs(tmp_path, EVERYTHING, NAMES, PALETTE) as outputs:
        for stem in stems:
            if not stem.startswith("\udc80"):
                outputs.write(make_result(f"photos/{stem}.png", scores=True), stem)
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [line["stem"] for line in lines] == [stem for stem in stems if not stem.startswith("\udc80")]
    with Outputs(tmp_path, OutputOptions(json=True, coco="rle", labelme=True), NAMES, PALETTE) as outputs:
        outputs.write(make_result("photos/\udc80.png"), "\udc80")
    assert json.loads((tmp_path / "coco.json").read_text())["images"][0]["file_name"] == "\udc80.png"


def test_a_result_without_scores_is_refused(tmp_path, caplog):
    with caplog.at_level(logging.ERROR), Outputs(tmp_path, OutputOptions(threshold=0.5), NAMES, PALETTE) as outputs:
        with pytest.raises(DeepLabError, match="needs scores"):
            outputs.write(make_result(), "a")
        assert names(tmp_path) == []
