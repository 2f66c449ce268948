# SPDX-License-Identifier: Apache-2.0
"""Overlay videos: times, sound, sizes, and what is left when writing ends early."""

import errno
import itertools
import logging
from fractions import Fraction

import numpy as np
import pytest

from deeplab_infer.streaming.lines import FrameLines
from deeplab_infer.streaming.pyav import Opening
from deeplab_infer.streaming.video_writer import OverlayVideo

from . import media

# Encoding at this quality changes flat areas of 8-bit colour by a few steps.
ENCODED = 6


def write(segmenter, path, out, frames=None, alpha=0.0):
    with segmenter.stream(path) as stream, OverlayVideo(out, stream.source.info, Opening(), alpha) as video:
        for number, result in enumerate(stream):
            if number == frames:
                break
            video.write(result)
    return out


def test_colours_times_and_sound_are_kept(segmenter, tmp_path):
    path = media.write_video(tmp_path / "a.mp4", 30, sound="aac")
    out = write(segmenter, path, tmp_path / "out.mp4")
    (times, pictures), (_, originals) = media.read_video(out), media.read_video(path)
    assert times == pytest.approx([i / 25 for i in range(30)], abs=1e-4)
    # Away from the legend and from the borders between colours.
    for found, original in zip(pictures, originals, strict=True):
        assert np.abs(found[36:44, 44:60].astype(int) - original[36:44, 44:60]).max() <= ENCODED
    assert np.array_equal(media.read_sound(out), media.read_sound(path))


def test_variable_rate_is_kept(segmenter, tmp_path):
    times = [0.0, 0.04, 0.3, 0.34, 1.0, 1.5]
    out = write(segmenter, media.write_video(tmp_path / "a.mkv", times=times), tmp_path / "out.mp4")
    assert media.read_video(out)[0] == pytest.approx(times, abs=1e-3)
    assert media.read_sound(out) is None


def test_odd_sizes_are_padded(segmenter, tmp_path, caplog):
    path = media.write_video(tmp_path / "a.mkv", 3, 47, 61, codec="ffv1")
    with caplog.at_level(logging.INFO, logger="deeplab_infer"):
        out = write(segmenter, path, tmp_path / "out.mp4")
    assert "61 x 47 pixels are padded to 62 x 48" in caplog.text
    assert [p.shape for p in media.read_video(out)[1]] == [(48, 62, 3)] * 3


def test_a_size_that_changes_is_scaled(segmenter, tmp_path):
    path = media.write_video(tmp_path / "a.mp4", 2)
    results = [*segmenter.stream(path)]
    small = segmenter.predict(np.zeros((20, 30, 3), np.uint8))
    small.metadata["time_s"] = 0.5
    with OverlayVideo(tmp_path / "out.mp4", segmenter.stream(path).source.info, Opening(), 0.5) as video:
        for result in [*results, small]:
            video.write(result)
    times, pictures = media.read_video(tmp_path / "out.mp4")
    assert [p.shape for p in pictures] == [(48, 64, 3)] * 3
    assert times == pytest.approx([0, 0.04, 0.5], abs=1e-4)


def test_leaving_early_leaves_a_video_with_the_sound_so_far(segmenter, tmp_path):
    path = media.write_video(tmp_path / "a.mp4", 50, sound="aac")
    out = tmp_path / "out.mp4"

    def interrupted():
        with segmenter.stream(path) as stream, OverlayVideo(out, stream.source.info, Opening(), 0.5) as video:
            for result in itertools.islice(stream, 20):
                video.write(result)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    times, _ = media.read_video(out)
    assert len(times) == 20
    # A packet of sound is 1024 samples; the one that is heard at the last frame is in it.
    seconds = media.read_sound(out).shape[1] / media.SAMPLES
    assert abs(seconds - 19 / 25) <= 2 * 1024 / media.SAMPLES


def test_what_a_kill_leaves_can_be_played(segmenter, tmp_path):
    path = media.write_video(tmp_path / "a.mp4", 300)
    out = tmp_path / "out.mp4"
    with segmenter.stream(path) as stream, OverlayVideo(out, stream.source.info, Opening(), 0.5) as video:
        for result in stream:
            video.write(result)
        left = out.read_bytes()  # before it is closed
    (tmp_path / "left.mp4").write_bytes(left)
    assert 100 <= len(media.read_video(tmp_path / "left.mp4")[0]) < 300


def test_sound_that_mp4_does_not_take_is_said(segmenter, tmp_path, caplog):
    path = media.write_video(tmp_path / "a.avi", 12, codec="mpeg4", sound="pcm_mulaw")
    out = write(segmenter, path, tmp_path / "out.mp4")
    assert media.read_sound(out) is None
    assert len(media.read_video(out)[0]) == 12
    assert "out.mp4: without sound: an MP4 file does not take it" in caplog.text


def test_a_full_disk(segmenter, tmp_path, monkeypatch):
    """The error names the file and says what it is, and what was written before stays."""
    import av

    path = media.write_video(tmp_path / "a.mp4", 8)
    out = tmp_path / "out.mp4"
    real = OverlayVideo._mux

    def fail(self, frame, container=None):
        real(self, frame, container)
        if self.frames == 3:
            from deeplab_infer.streaming.video_writer import _as_os_error

            with _as_os_error(self.path):
                raise av.error.OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(OverlayVideo, "_mux", fail)
    with pytest.raises(OSError, match="No space left") as caught:
        write(segmenter, path, out)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(out))


def test_lines_are_whole_and_there_at_once(segmenter, tmp_path):
    path = media.write_video(tmp_path / "a.mp4", 3)
    out = tmp_path / "a.jsonl"
    with FrameLines(out) as lines:
        assert not out.exists()
        for number, result in enumerate(segmenter.stream(path), 1):
            lines.write(result)
            assert out.read_text().count("\n") == number
        before = out.read_bytes()
        stream = lines._stream

        class Full:
            """Takes some bytes, then the disk is full."""

            def write(self, data):
                if len(data) < 20:
                    raise OSError(errno.ENOSPC, "No space left on device")
                return stream.write(data[: len(data) - 10])

            def __getattr__(self, name):
                return getattr(stream, name)

        lines._stream = Full()
        with pytest.raises(OSError, match="No space"):
            lines.write(result)
    assert out.read_bytes() == before


def test_the_mean_rate_is_that_of_the_frames_written(tmp_path, segmenter):
    import av

    path = media.write_video(tmp_path / "a.mp4", 30)
    out = tmp_path / "out.mp4"
    with (
        segmenter.stream(path, every=5) as stream,
        OverlayVideo(out, stream.source.info, Opening(), 0.5, every=5) as video,
    ):
        for result in stream:
            video.write(result)
    with av.open(str(out)) as found:
        assert Fraction(found.streams.video[0].average_rate) == pytest.approx(5, rel=0.05)
