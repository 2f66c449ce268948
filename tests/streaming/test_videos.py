# SPDX-License-Identifier: Apache-2.0
"""Video files, good and bad."""

import logging
import sys

import numpy as np
import pytest
from PIL import Image

from deeplab_infer.errors import BackendError, ImageError
from deeplab_infer.streaming import pyav
from deeplab_infer.streaming.decoding import upright

from . import media

# Largest change of an 8-bit colour by one conversion to 4:2:0 and back, in flat areas: two roundings each way.
ROUNDED = 3


def test_frames_times_and_labels(segmenter, tmp_path):
    path = media.write_video(tmp_path / "a b\nc.mkv", 12, codec="ffv1")
    stream = segmenter.stream(path)
    results = list(stream)
    assert stream.total == 12 and not stream.live
    assert [r.metadata["frame"] for r in results] == list(range(12))
    assert [r.metadata["time_s"] for r in results] == pytest.approx([i / 25 for i in range(12)], abs=1e-3)
    assert {r.metadata["source"] for r in results} == {str(path)}
    for index, result in enumerate(results):
        assert np.abs(result.image.astype(int) - media.picture(index)).max() <= ROUNDED
        assert np.array_equal(result.labels, segmenter.predict(result.image).labels)


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "libx264"), ("a.avi", "mpeg4"), ("a.mkv", "mjpeg")])
def test_codecs(segmenter, tmp_path, name, codec):
    path = media.write_video(tmp_path / name, 12, codec=codec)
    results = list(segmenter.stream(path, batch=3))
    assert len(results) == 12
    assert [r.metadata["batch"] for r in results] == [3] * 12


def test_odd_sizes_and_unusual_names(segmenter, tmp_path):
    path = media.write_video(tmp_path / "rtsp:odd", 3, 47, 61, codec="ffv1", format="matroska")
    results = list(segmenter.stream(path))  # a name that looks like an address, and says nothing of its kind
    assert [r.labels.shape for r in results] == [(47, 61)] * 3


def test_variable_rate(segmenter, tmp_path):
    times = [0.0, 0.04, 0.3, 0.34, 1.0]
    path = media.write_video(tmp_path / "vfr.mp4", times=times)
    assert [r.metadata["time_s"] for r in segmenter.stream(path)] == pytest.approx(times, abs=1e-3)


# Display matrices map a stored pixel (x, y) to (a x + c y, b x + d y); so a phone held upright turns by 90 degrees.
ONE = 1 << 16
TURNS = {
    "clockwise": ((0, ONE, 0, -ONE, 0, 0, 0, 0, 1 << 30), lambda p: np.rot90(p, -1)),
    "half": ((-ONE, 0, 0, 0, -ONE, 0, 0, 0, 1 << 30), lambda p: np.rot90(p, 2)),
    "counterclockwise": ((0, -ONE, 0, ONE, 0, 0, 0, 0, 1 << 30), np.rot90),
    "mirrored": ((-ONE, 0, 0, 0, ONE, 0, 0, 0, 1 << 30), lambda p: p[:, ::-1]),
}


@pytest.mark.parametrize("turn", TURNS)
def test_rotation(segmenter, tmp_path, turn):
    matrix, turned = TURNS[turn]
    path = media.write_video(tmp_path / "phone.mov", 2, codec="libx264", matrix=matrix)
    (plain, _) = media.read_video(path)[1]
    first = next(segmenter.stream(path))
    assert np.array_equal(first.image, turned(plain))


def test_a_turn_that_is_none(caplog):
    pixels = np.zeros((4, 6, 3), np.uint8)
    assert upright(pixels, (3, 3, -3, 3)) is pixels
    assert "no multiple of 90" in caplog.text


def test_damaged_in_the_middle(segmenter, tmp_path, caplog):
    whole = media.write_video(tmp_path / "whole.mp4", 20)
    path = media.damage(whole, 7, tmp_path / "broken.mp4", 2)
    with caplog.at_level(logging.WARNING):
        stream = segmenter.stream(path, smooth=3)
        frames = list(stream)
    assert stream.counts.damaged >= 1
    assert stream.counts.missing == 20 - len(frames)
    assert 10 <= len(frames) < 20
    assert frames[-1].metadata["time_s"] == pytest.approx(19 / 25, abs=1e-3)  # it went on to the end
    assert "broken.mp4: damaged at 0." in caplog.text
    assert f"{len(frames)} of 20 frames" in caplog.text


def test_truncated(segmenter, tmp_path, caplog):
    whole = media.write_video(tmp_path / "whole.mkv", 60, times=[i / 5 for i in range(60)])
    (tmp_path / "cut.mkv").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    frames = list(segmenter.stream(tmp_path / "cut.mkv"))
    assert 5 < len(frames) < 60
    assert "truncated" in caplog.text


def test_nothing_but_damage(segmenter, tmp_path):
    whole = media.write_video(tmp_path / "whole.mp4", 12)
    path = media.damage(whole, 0, tmp_path / "broken.mp4", 12)
    with pytest.raises(ImageError, match="no frame of it can be decoded"):
        list(segmenter.stream(path))


def bad_video(folder, kind):
    path = folder / f"{kind}.mp4"
    if kind == "missing":
        return path
    if kind == "folder":
        path.mkdir()
    elif kind == "sound":
        media.write_video(folder / "with.mp4", 2, sound="aac")
        import av

        with av.open(str(folder / "with.mp4")) as whole, av.open(str(path), "w") as out:
            stream = out.add_stream_from_template(whole.streams.audio[0])
            for packet in whole.demux(audio=0):
                if packet.dts is not None:
                    packet.stream = stream
                    out.mux(packet)
    else:
        data = media.write_video(folder / "whole.mp4", 12).read_bytes()
        path.write_bytes({"zero": b"", "text": b"no video" * 100, "cut": data[: len(data) // 2]}[kind])
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("zero", "the file is empty"),
        ("text", "not a video"),
        ("cut", "truncated"),
        ("sound", "holds no video, only audio"),
        ("missing", "no such file"),
    ],
)
def test_what_is_no_video(segmenter, tmp_path, kind, message):
    with pytest.raises(ImageError, match=message):
        segmenter.stream(bad_video(tmp_path, kind))


def test_a_folder_of_both_goes_on_after_a_bad_video(segmenter, tmp_path):
    (tmp_path / "text.mp4").write_bytes(b"no video" * 100)
    media.write_video(tmp_path / "z.mp4", 3)
    Image.fromarray(media.picture(0)).save(tmp_path / "a.png")
    stream = segmenter.stream(tmp_path)
    sources = [r.metadata["source"].rpartition("/")[2] for r in stream]
    assert sources == ["a.png", "z.mp4", "z.mp4", "z.mp4"]
    assert len(stream.failures) == 1


def test_frames_larger_than_allowed(segmenter, tmp_path):
    path = media.write_video(tmp_path / "a.mp4", 2)
    with pytest.raises(ImageError, match="64 x 48 pixels are more than the limit"):
        segmenter.stream(path, max_pixels=64 * 48 - 1)


def test_which_decoder_is_said(segmenter, tmp_path, caplog, monkeypatch):
    path = media.write_video(tmp_path / "a.mp4", 2)
    with caplog.at_level(logging.INFO, logger="deeplab_infer"):
        list(segmenter.stream(path, decoder="cpu"))
    assert "a.mp4: decoded on the CPU" in caplog.text
    monkeypatch.setattr(pyav, "_no_nvdec", lambda av: "no CUDA device")
    with caplog.at_level(logging.INFO, logger="deeplab_infer"):
        list(segmenter.stream(path))
    assert "no NVDEC: no CUDA device" in caplog.text
    with pytest.raises(BackendError, match="NVDEC cannot be used here"):
        segmenter.stream(path, decoder="cuda")


def test_without_pyav(segmenter, tmp_path, monkeypatch):
    path = media.write_video(tmp_path / "a.mp4", 2)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(BackendError, match=r"pip install 'deeplab-infer\[video\]'"):
        segmenter.stream(path)
