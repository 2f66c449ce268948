# SPDX-License-Identifier: Apache-2.0
"""Cameras of a few lines: MJPEG and files over HTTP, and a program that pushes RTSP to whoever listens.

python servers.py rtsp://127.0.0.1:PORT/live FRAMES
"""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
import time
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

BOUNDARY = "frame"


class HttpCamera:
    """An HTTP server on a free port.

    Args:
        connections: frames that each connection gets before it is dropped; further ones get 503. None: a frame for as
            long as there is one who reads.
        jpeg: gives the bytes of frame i; None holds the connection open without sending.
        pause_s: between frames.
        files: served whole, by name.
    """

    def __init__(self, connections=(), jpeg=None, pause_s=0.01, files=()):
        self.connections, self.jpeg, self.pause_s, self.files = list(connections), jpeg, pause_s, dict(files)
        self.sent, self.seen = 0, 0
        self.stopping = threading.Event()
        camera = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *arguments):
                pass

            def do_GET(self):
                with contextlib.suppress(ConnectionError):
                    camera.answer(self)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def answer(self, handler):
        name = handler.path.lstrip("/")
        if name in self.files:
            data = self.files[name]
            handler.send_response(200)
            handler.send_header("Content-Type", "video/mp4")
            handler.send_header("Content-Length", str(len(data)))
            handler.end_headers()
            handler.wfile.write(data)
        elif name == "secret":
            handler.send_error(401)
        elif self.seen >= len(self.connections):
            self.seen += 1
            handler.send_error(503)
        else:
            self.seen += 1
            self.stream(handler, self.connections[self.seen - 1])

    def stream(self, handler, frames):
        handler.send_response(200)
        handler.send_header("Content-Type", f"multipart/x-mixed-replace; boundary={BOUNDARY}")
        handler.end_headers()
        sent = 0
        while not self.stopping.is_set() and (frames is None or sent < frames):
            data = self.jpeg(self.sent)
            if data is None:
                self.stopping.wait(20)
                return
            head = f"--{BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
            handler.wfile.write(head.encode() + data + b"\r\n")
            sent, self.sent = sent + 1, self.sent + 1
            time.sleep(self.pause_s)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.stopping.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def push_rtsp(url, frames, patience_s=20):
    """Send frames of rising brightness to a reader that listens (``rtsp_flags=listen``)."""
    import av
    import numpy as np

    until = time.monotonic() + patience_s
    while True:
        try:
            out = av.open(url, "w", format="rtsp", options={"rtsp_transport": "tcp"})
            video = out.add_stream("mpeg4", rate=25)
            video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
            video.codec_context.gop_size = 1
            out.start_encoding()
            break
        except av.error.FFmpegError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)
    for index in range(frames):
        frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), index * 8 % 256, np.uint8))
        frame.pts, frame.time_base = index, Fraction(1, 25)
        out.mux(video.encode(frame))
        time.sleep(0.02)
    out.close()


if __name__ == "__main__":
    push_rtsp(sys.argv[1], int(sys.argv[2]))
