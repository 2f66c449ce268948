# SPDX-License-Identifier: Apache-2.0
"""Journals and what is read out of them, without a model."""

import errno
import json
import os

import pytest

from deeplab_infer.errors import DataError, DeepLabError
from deeplab_infer.fleet.description import check_same, describe, fingerprint
from deeplab_infer.fleet.folder import JobFolder, journals
from deeplab_infer.fleet.journal import Identity, Journal, JournalName, identify, read_events
from deeplab_infer.fleet.ledger import LOCAL, Ledger
from deeplab_infer.outputs import OutputOptions

RECORD = {"stem": "a", "files": ["a.png"], "height": 1, "width": 2}


def journal(folder, run=1, writer=LOCAL, attempt=0):
    return Journal(folder / JournalName(run, writer, attempt).file, {"writer": writer})


def ledger_of(folder, paths=None, run=9):
    found = Ledger(paths)
    found.read(folder, journals(folder), run=run)
    return found


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "images" / "a.png"
    path.parent.mkdir()
    path.write_bytes(b"pixels")
    return str(path)


def test_names_are_sorted_as_they_were_written():
    names = [
        JournalName(2, "local", 0),
        JournalName(1, "ray_b", 1),
        JournalName(1, "ray_b", 0),
        JournalName(100_000, "x-y", 12),
    ]
    assert [JournalName.of(name.file) for name in names] == names
    assert sorted(names) == [names[2], names[1], names[0], names[3]]
    assert JournalName.of("job.json") is JournalName.of("00001-local-000.jsonl~") is None


def test_done_is_found_with_its_record_and_identity(tmp_path, image):
    log = journal(tmp_path)
    log.started(image)
    log.done(image, RECORD)
    log.close(ended=True)
    found = ledger_of(tmp_path, [image, "other"])
    assert found.is_done(image) and not found.is_done("other") and not found.is_done("unknown")
    assert found.record(image) == RECORD
    assert found.identity(image) == identify(image) == Identity(6, os.stat(image).st_mtime_ns)
    assert found.outputs == {"a.png"}
    assert not found.interrupted and not found.deaths
    found.close()


def test_the_identity_is_that_of_the_file_that_was_read(tmp_path, image):
    log = journal(tmp_path)
    log.started(image)
    before = identify(image)
    with open(image, "ab") as stream:
        stream.write(b"more")
    log.done(image, RECORD)
    log.close(ended=True)
    assert ledger_of(tmp_path).identity(image) == before != identify(image)


@pytest.mark.parametrize("name", ["new\nline.png", "no\udcff text.png", "ü\u2028.png", "a'\"\\.png"])
def test_any_name_is_one_line(tmp_path, name):
    log = journal(tmp_path)
    log.started(name)
    log.done(name, {**RECORD, "path": name})
    log.close(ended=False)
    assert len(log.path.read_bytes().splitlines()) == 3
    found = ledger_of(tmp_path, [name])
    assert found.record(name)["path"] == name
    found.close()


@pytest.mark.parametrize("cut", [1, 10, 40])
def test_a_last_line_that_was_cut_is_left_out(tmp_path, image, cut):
    log = journal(tmp_path)
    for path in (image, "second"):
        log.started(path)
        log.done(path, RECORD)
    log.close(ended=False)
    log.path.write_bytes(log.path.read_bytes()[:-cut])
    found = ledger_of(tmp_path)
    assert found.is_done(image) and not found.is_done("second")
    assert found.interrupted == {"second"}


@pytest.mark.parametrize("bad", [b"{...\n", b"\x00\x00\x00\n", b"[1]\n", b'"text"\n'])
def test_a_damaged_line_is_an_error(tmp_path, bad):
    path = tmp_path / JournalName(1, LOCAL, 0).file
    path.write_bytes(b'{"writer":"local"}\n' + bad + b'{"end":true}\n')
    with pytest.raises(DataError, match="line 2 is damaged; remove the file"):
        list(read_events(path))


def test_a_line_that_does_not_fit_is_taken_back(tmp_path, image, monkeypatch):
    log = journal(tmp_path)
    log.started(image)
    stream, left = log._stream, [7]

    class Full:
        def write(self, data):
            if not left:
                raise OSError(errno.ENOSPC, "full")
            return stream.write(data[: left.pop()])

        def __getattr__(self, name):
            return getattr(stream, name)

    log._stream = Full()
    with pytest.raises(OSError, match="full"):
        log.done(image, RECORD)
    log._stream = stream
    log.failed("b", "bad")
    log.close(ended=True)
    found = ledger_of(tmp_path)
    assert not found.is_done(image)
    assert found.bad["b"].error == "bad"


def test_the_last_word_counts(tmp_path, image):
    first = journal(tmp_path, 1)
    first.failed(image, "truncated")
    first.close(ended=True)
    assert ledger_of(tmp_path).bad[image].error == "truncated"
    second = journal(tmp_path, 2)
    second.started(image)
    second.done(image, RECORD)
    second.close(ended=True)
    found = ledger_of(tmp_path)
    assert found.is_done(image) and not found.bad
    third = journal(tmp_path, 3)
    third.failed(image, "gone")
    third.close(ended=True)
    found = ledger_of(tmp_path)
    assert not found.is_done(image) and found.bad[image].error == "gone"


def test_two_writers(tmp_path):
    one, two = journal(tmp_path, 1, "ray_1"), journal(tmp_path, 1, "ray_2")
    for index in range(6):
        log = one if index % 2 else two
        log.started(str(index))
        log.done(str(index), {**RECORD, "stem": f"s{index}"})
    found = ledger_of(tmp_path, [str(index) for index in range(7)])
    assert [found.is_done(str(index)) for index in range(7)] == [True] * 6 + [False]
    assert [found.record(str(index))["stem"] for index in range(6)] == [f"s{index}" for index in range(6)]
    for log in (one, two, found):
        log.close(**({} if log is found else {"ended": True}))


def test_deaths_of_runs_without_workers(tmp_path, image):
    for run in (1, 2):
        log = journal(tmp_path, run)
        log.started(image)
        log.close(ended=False)
        # Of the run that is going on nobody knows yet.
        assert ledger_of(tmp_path, run=run).deaths.get(image, (None, 0))[1] == run - 1
        assert ledger_of(tmp_path, run=run + 1).deaths[image].times == run
    ended = journal(tmp_path, 3)
    ended.started(image)
    ended.close(ended=True)  # Ctrl-C is no death
    assert ledger_of(tmp_path).deaths[image].times == 2
    with open(image, "ab") as stream:
        stream.write(b"changed")
    log = journal(tmp_path, 4)
    log.started(image)
    log.close(ended=False)
    assert ledger_of(tmp_path).deaths[image].times == 1


def test_deaths_of_workers(tmp_path, image):
    """A worker died where another has its place; where none has, the whole run ended."""
    log = journal(tmp_path, 1, "ray_a", 0)
    log.started(image)
    log.close(ended=False)
    found = ledger_of(tmp_path)
    assert not found.deaths and found.interrupted == {image}
    journal(tmp_path, 1, "ray_b", 1).close(ended=False)
    assert not ledger_of(tmp_path).deaths
    log = journal(tmp_path, 1, "ray_a", 1)
    assert ledger_of(tmp_path).deaths[image].times == 1
    log.started(image)
    log.done(image, RECORD)
    log.close(ended=False)
    assert not ledger_of(tmp_path).deaths


def test_many_journals_with_few_open_files(tmp_path):
    paths = [f"{index}" for index in range(100)]
    for index, path in enumerate(paths):
        log = journal(tmp_path, index + 1)
        log.done(path, {**RECORD, "stem": path})
        log.close(ended=True)
    found = ledger_of(tmp_path, paths, run=101)
    assert [found.record(path)["stem"] for path in paths] == paths
    assert len(found._open) <= 32
    found.close()


# -- the folder


OUTPUTS = OutputOptions()
SEGMENTER = {"mode": "slide", "window": (32, 48), "scales": [1.0], "flip": False, "threads": 2, "device": "cpu"}


def description(model="model", outputs=OUTPUTS, **changed):
    return describe(model, SEGMENTER | changed, outputs)


def test_a_job_goes_on(tmp_path):
    with JobFolder(tmp_path, description(), "/root") as job:
        token = job.token
        assert job.run == 1
        journal(job.path, 1).close(ended=True)
    with JobFolder(tmp_path, description(threads=9, device="cuda"), "/other") as job:
        assert (job.token, job.root, job.run) == (token, "/root", 2)
    with JobFolder(tmp_path, description("another"), "/other", restart=True) as job:
        assert job.token != token
        assert (job.root, job.run, job.journals()) == ("/other", 1, [])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"model": "another"}, "another model"),
        ({"mode": "whole"}, "--mode slide instead of whole"),
        ({"window": None}, r"--window \[32, 48\] instead of unset"),
        ({"flip": True}, "--flip off instead of on"),
        ({"outputs": OutputOptions(json=True)}, "output option json off instead of on"),
        ({"outputs": OutputOptions(classes=("road",))}, "output option classes unset instead of"),
    ],
)
def test_another_job_is_refused(tmp_path, changed, message):
    with JobFolder(tmp_path, description(), None):
        pass
    with pytest.raises(DeepLabError, match=message) as error, JobFolder(tmp_path, description(**changed), None):
        pass
    assert "--restart" in str(error.value)
    with JobFolder(tmp_path, description(), None):
        pass


def test_two_runs_at_once_are_refused(tmp_path):
    with JobFolder(tmp_path, description(), None), pytest.raises(DeepLabError, match="another run is writing"):
        JobFolder(tmp_path, description(), None)
    with JobFolder(tmp_path, description(), None):
        pass


def test_a_damaged_description(tmp_path):
    with JobFolder(tmp_path, description(), None) as job:
        (job.path / "job.json").write_text('{"token": ')
    with pytest.raises(DataError, match="--restart"):
        JobFolder(tmp_path, description(), None)
    with JobFolder(tmp_path, description(), None, restart=True):
        pass


def test_an_older_format(tmp_path):
    with pytest.raises(DeepLabError, match="another version"):
        check_same({"format": 0}, description(), tmp_path)


def test_fingerprints(tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"one")
    one = fingerprint(str(tmp_path / "m.onnx"))
    (tmp_path / "m.onnx").write_bytes(b"two")
    assert one.startswith("sha256:") and one != fingerprint(str(tmp_path / "m.onnx"))
    (tmp_path / "m.xml").write_bytes(b"network")
    alone = fingerprint(str(tmp_path / "m.xml"))
    (tmp_path / "m.bin").write_bytes(b"weights")
    assert fingerprint(str(tmp_path / "m.xml")) != alone
    assert fingerprint("deeplabv3_mobilenetv2") == "deeplabv3_mobilenetv2"


def test_a_description_is_json():
    options = OutputOptions(classes=("road",), threshold=0.5)
    found = description(outputs=options)
    assert json.loads(json.dumps(found)) == found
