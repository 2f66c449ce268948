# SPDX-License-Identifier: Apache-2.0
"""Files of a whole run from the journals of several processes."""

import json
import tracemalloc

import pytest

from deeplab_infer.errors import DataError
from deeplab_infer.outputs import OutputOptions, Outputs, assemble, read_records
from deeplab_infer.outputs.assembly import dump

from .results import NAMES, make_result

OPTIONS = OutputOptions(masks=False, json=True, coco="rle", cvat=True)
PALETTE = make_result().palette


def journals(folder, parts):
    """A journal a process, each with its own `Outputs`."""
    files = []
    for number, stems in enumerate(parts):
        file = folder / f"part-{number}.jsonl"
        with Outputs(folder, OPTIONS, NAMES, PALETTE, whole_run=False) as outputs, open(file, "w") as lines:
            for stem in stems:
                lines.write(dump(outputs.write(make_result(f"{stem}.png", seed=ord(stem)), stem)))
        files.append(file)
    return files


def test_parts_make_the_files_of_one_process(tmp_path):
    (tmp_path / "one").mkdir()
    with Outputs(tmp_path / "one", OPTIONS, NAMES, PALETTE) as outputs:
        for stem in "abcd":
            outputs.write(make_result(f"{stem}.png", seed=ord(stem)), stem)
    files = journals(tmp_path, ["ab", "bcd"])  # b was done again after a restart
    made = assemble(tmp_path, OPTIONS, NAMES, PALETTE, lambda: read_records(*files))
    assert [path.name for path in made] == ["results.jsonl", "coco.json", "cvat.xml"]
    for path in made:
        assert path.read_bytes() == (tmp_path / "one" / path.name).read_bytes()


def test_a_line_cut_short_is_left_out_and_a_damaged_one_is_an_error(tmp_path):
    (file,) = journals(tmp_path, ["abc"])
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:2]) + lines[2][:50])
    assert [record["stem"] for record in read_records(file)] == ["a", "b"]
    for damaged in ("{}\n", '{"stem": 3}\n', "[]\n", lines[0][:50] + "\n"):
        file.write_text(lines[0] + damaged + lines[1])
        with pytest.raises(DataError, match="line 2 is no record"):
            list(read_records(file))


def test_records_that_lack_a_part_are_an_error(tmp_path):
    with Outputs(tmp_path, OutputOptions(masks=False), NAMES, PALETTE) as outputs:
        record = outputs.write(make_result(), "a")
    with pytest.raises(DataError, match="'a' was made without coco.json"):
        assemble(tmp_path, OutputOptions(coco="rle"), NAMES, PALETTE, lambda: [record])
    assert list(tmp_path.iterdir()) == []


def test_memory_does_not_grow_with_the_images(tmp_path):
    (file,) = journals(tmp_path, ["a"])
    line = json.loads(file.read_text())

    def records(count):
        return lambda: ({**line, "stem": str(number)} for number in range(count))

    def peak(count):
        tracemalloc.start()
        assemble(tmp_path, OPTIONS, NAMES, PALETTE, records(count))
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    most, more = peak(300), peak(1500)
    assert more < most + (tmp_path / "coco.json").stat().st_size / 50
    assert len(json.loads((tmp_path / "coco.json").read_text())["images"]) == 1500
