# SPDX-License-Identifier: Apache-2.0
"""Small videos, made and read back with PyAV."""

import functools
from fractions import Fraction

import av
import numpy as np

RATE = 25
SAMPLES = 44100


def picture(index, height=48, width=64):
    """Frame ``index``: the left top quarter red, the lower half a green that tells the frame."""
    made = np.zeros((height, width, 3), np.uint8)
    made[: height // 2, : width // 2] = (200, 0, 0)
    made[height // 2 :, :, 1] = index * 8 % 256
    return made


def write_video(
    path, frames=12, height=48, width=64, *, codec="libx264", sound=None, times=None, matrix=None, **options
):
    """A video of `picture`; ``times`` in seconds, ``sound`` an encoder's name, ``matrix`` a display matrix."""
    times = [index / RATE for index in range(frames)] if times is None else times
    with av.open(str(path), "w", **options) as out:
        video = out.add_stream(codec, rate=RATE, options={"g": "5"})
        video.height, video.width = height, width
        video.pix_fmt = {"mjpeg": "yuvj420p", "ffv1": "yuv444p"}.get(codec, "yuv420p")
        exact = codec in ("libx264", "ffv1")
        clock = 1000 if exact else RATE
        video.codec_context.time_base = Fraction(1, clock)
        if matrix is not None:
            video.set_display_matrix(matrix)
        audio = out.add_stream(sound, rate=SAMPLES, layout="mono") if sound else None
        for index, time_s in enumerate(times):
            frame = av.VideoFrame.from_ndarray(picture(index, height, width))
            frame.pts, frame.time_base = round(time_s * clock), Fraction(1, clock)
            out.mux(video.encode(frame))
        out.mux(video.encode(None))
        if audio is not None:
            for packet in _sine(audio, times[-1] + 1 / RATE):
                out.mux(packet)
    return path


def _sine(stream, seconds):
    wave = (np.sin(np.arange(int(seconds * SAMPLES)) * (2 * np.pi * 440 / SAMPLES)) * 9000).astype(np.int16)[None]
    for start in range(0, wave.shape[1], 1024):
        part = np.ascontiguousarray(wave[:, start : start + 1024])
        frame = av.AudioFrame.from_ndarray(part, format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = SAMPLES, start, Fraction(1, SAMPLES)
        yield from stream.encode(frame)
    yield from stream.encode(None)


def damage(path, packet, out, count=1):
    """A copy of a video with ``count`` coded pictures from number ``packet`` on overwritten."""
    with av.open(str(path)) as container:
        places = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
    data = bytearray(path.read_bytes())
    for position, size in places[packet : packet + count]:
        data[position : position + size] = b"\x55" * size
    out.write_bytes(data)
    return out


def read_video(path):
    """Times in seconds and pictures of a video."""
    with av.open(str(path)) as container:
        frames = [(frame.time, frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
    return [time_s for time_s, _ in frames], [pixels for _, pixels in frames]


def read_sound(path):
    """Decoded samples of a video, [channels, samples], or None."""
    with av.open(str(path)) as container:
        if not container.streams.audio:
            return None
        parts = [frame.to_ndarray() for frame in container.decode(audio=0)]
    return np.concatenate(parts, axis=1)


@functools.cache
def jpeg(index):
    """`picture` as JPEG bytes."""
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture(index)).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()
