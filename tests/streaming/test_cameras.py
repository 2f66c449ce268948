# SPDX-License-Identifier: Apache-2.0
"""Live sources: HTTP and RTSP servers that come and go."""

import itertools
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from deeplab_infer.errors import DeepLabError, ImageError
from deeplab_infer.streaming import Reconnect
from deeplab_infer.streaming.pyav import shown

from . import media
from .servers import HttpCamera, free_port

QUICK = Reconnect(attempts=3, first_s=0.01, cap_s=0.05)


def test_mjpeg_that_is_lost_and_comes_back(segmenter, caplog):
    with HttpCamera([5, 0, 4], media.jpeg) as camera:
        stream = segmenter.stream(camera.url, reconnect=QUICK, timeout_s=5)
        assert stream.live and stream.total is None
        results = []
        with pytest.raises(ImageError, match="the camera is gone after 9 frames.*3 attempts"):
            results.extend(stream)
        results += []
    assert stream.given == 9
    assert stream.counts.reconnects >= 1
    assert "connecting again in 0.0 s (attempt 1 of 3)" in caplog.text
    assert "connected again" in caplog.text


def test_frames_of_a_camera(segmenter):
    with HttpCamera([None], media.jpeg) as camera, segmenter.stream(camera.url, timeout_s=5) as stream:
        results = [next(stream) for _ in range(6)]
    assert [r.metadata["frame"] for r in results] == list(range(6))
    times = [r.metadata["time_s"] for r in results]
    assert times[0] == 0 and all(later > earlier for earlier, later in itertools.pairwise(times))
    # JPEG at this quality and 4:2:0 keep flat areas; the frame is told by its green.
    for index, result in enumerate(results):
        assert abs(int(result.image[40, 50, 1]) - int(media.picture(index)[40, 50, 1])) <= 6


def test_the_end_of_a_stream_without_reconnecting_is_an_end(segmenter):
    with HttpCamera([4], media.jpeg) as camera:
        assert len(list(segmenter.stream(camera.url, reconnect=Reconnect(attempts=0)))) == 4


def test_dropping_takes_the_newest_and_counts(segmenter):
    with (
        HttpCamera([40], media.jpeg, pause_s=0.005) as camera,
        segmenter.stream(camera.url, drop=True, reconnect=Reconnect(attempts=0), batch=1) as stream,
    ):
        frames = []
        for result in stream:
            frames.append(result.metadata["frame"])
            time.sleep(0.03)
    assert stream.dropped > 0
    assert len(frames) + stream.dropped == 40  # nothing is lost without being counted
    assert frames == sorted(set(frames)) and frames[-1] == 39
    assert stream._pipeline.read.peak == 1


def test_nothing_is_dropped_unless_asked(segmenter):
    with HttpCamera([30], media.jpeg, pause_s=0) as camera:
        frames = []
        for result in segmenter.stream(camera.url, reconnect=Reconnect(attempts=0)):
            frames.append(result.metadata["frame"])
            time.sleep(0.01)
    assert frames == list(range(30))


def test_a_camera_that_falls_silent(segmenter):
    with HttpCamera([None], lambda i: media.jpeg(i) if i < 8 else None) as camera:
        stream = segmenter.stream(camera.url, reconnect=Reconnect(1, 0.01, 0.01), timeout_s=0.6)
        with pytest.raises(ImageError, match="gone after"):
            list(stream)
        assert stream.given > 0


def test_leaving_a_camera(segmenter):
    with HttpCamera([None], media.jpeg) as camera:
        stream = segmenter.stream(camera.url, reconnect=Reconnect(attempts=50, first_s=60, cap_s=60))
        next(stream)
        camera.stopping.set()  # the stream ends, and the wait of a minute begins
        time.sleep(0.1)
        begun = time.monotonic()
        stream.close()
        assert time.monotonic() - begun < 5


def test_a_recording_over_http_is_no_camera(segmenter, tmp_path):
    data = media.write_video(tmp_path / "a.mp4", 7, sound="aac").read_bytes()
    with HttpCamera(files={"a.mp4": data}) as camera:
        stream = segmenter.stream(camera.url + "/a.mp4")
        assert not stream.live and stream.total == 7
        assert len(list(stream)) == 7
        with pytest.raises(DeepLabError, match="not live"):
            segmenter.stream(camera.url + "/a.mp4", drop=True)


def test_rtsp_that_comes_back(segmenter):
    url = f"rtsp://127.0.0.1:{free_port()}/live"
    push = [sys.executable, str(Path(__file__).with_name("servers.py")), url, "6"]
    pushers = [subprocess.Popen(push)]
    try:
        stream = segmenter.stream(
            url,
            # The reader listens, so that no server is needed; seconds to wait for the one who pushes.
            input_options={"rtsp_flags": "listen", "listen_timeout": "20"},
            reconnect=Reconnect(2, 0.01, 0.01),
            timeout_s=20,
        )
        values = []
        for result in stream:
            values.append(int(result.image[20, 20, 0]))
            if len(values) == 3:
                pushers.append(subprocess.Popen(push))
            if len(values) == 12:
                break
        stream.close()
    finally:
        for pusher in pushers:
            pusher.kill()
            pusher.wait()
    assert stream.counts.reconnects == 1
    assert np.abs(np.array(values) - np.tile(np.arange(6) * 8, 2)).max() <= 6


@pytest.mark.parametrize(
    ("path", "message"), [("/secret", "401 unauthorised"), ("/busy", "503|Server"), (None, "connection was refused")]
)
def test_a_wrong_address_is_said_at_once(segmenter, path, message):
    with HttpCamera() as camera:
        url = f"http://127.0.0.1:{free_port()}/x" if path is None else camera.url + path
        with pytest.raises(ImageError, match=message):
            segmenter.stream(url, timeout_s=5)


def test_a_device_that_is_not_there(segmenter):
    with pytest.raises(ImageError, match="/dev/video63: no such file or device"):
        segmenter.stream("/dev/video63")


def test_passwords_are_not_shown():
    assert shown("rtsp://admin:pa@ss@10.0.0.1/x") == "rtsp://***@10.0.0.1/x"
    assert shown("http://10.0.0.1/a@b") == "http://10.0.0.1/a@b"


def test_delays_grow_to_the_cap():
    reconnect = Reconnect(attempts=100, first_s=0.5, cap_s=30)
    assert [reconnect.delay_s(i) for i in (0, 1, 2, 5, 6, 5000)] == [0.5, 1, 2, 16, 30, 30]
    for wrong in ({"attempts": -1}, {"first_s": -1.0}, {"first_s": 9.0, "cap_s": 3.0}):
        with pytest.raises(DeepLabError, match="reconnecting needs"):
            Reconnect(**wrong)
