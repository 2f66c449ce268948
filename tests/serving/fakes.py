# SPDX-License-Identifier: Apache-2.0
"""A model without a network, and a server around any model; also a program of its own, whose memory can be read."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import sys
import threading
import time
import zlib

import numpy as np
from PIL import Image

from deeplab_infer.configs import load_config
from deeplab_infer.manifest import Manifest
from deeplab_infer.segmentation import Segmentation
from deeplab_infer.serving.app import create_app
from deeplab_infer.serving.options import ServeOptions
from deeplab_infer.serving.running import make_server, open_port

CONFIG = load_config("deeplabv3plus_mobilenetv2_streets")


class FakeModel:
    """Labels are the red channel modulo the number of classes; it takes its time."""

    def __init__(self, seconds=0.0, fail=None, output_kind="logits", largest_batch=8):
        self.config, self.classes, self.palette = CONFIG, CONFIG.classes, CONFIG.palette
        self.manifest = Manifest(
            CONFIG, "uint8", output_kind, "fp32", 18, (1, 1, largest_batch), (1, 512, 8192), (1, 512, 8192)
        )
        self.largest_batch = largest_batch
        self.seconds, self.fail = seconds, fail
        self.calls, self.closed, self.gate = [], False, threading.Event()
        self.gate.set()

    def batch_key(self, height, width):
        return height, width

    def predict(self, images, *, scores=False):
        self.gate.wait(30)
        time.sleep(self.seconds)
        self.calls.append([image.shape[:2] for image in images])
        if self.fail is not None:
            self.fail(images)
        return [self._one(image, scores) for image in images]

    def _one(self, image, scores):
        labels = image[:, :, 0] % len(self.classes)
        found = np.full(labels.shape, 0.5, np.float32) if scores else None
        return Segmentation(
            labels, self.classes, self.palette, scores=found, image=image, timings_ms={"inference": 1.0}
        )

    def describe(self):
        return {"config": CONFIG.name, "backend": "fake", "device": "cpu", "precision": "fp32", "mode": "whole"}

    def close(self):
        self.closed = True


class Client:
    """Plain HTTP to one address."""

    def __init__(self, port):
        self.port = port

    def request(self, method, path, body=None, timeout=60, **headers):
        """(status, headers, body)."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            names = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, names)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()

    def get(self, path):
        return self.request("GET", path)

    def post(self, body, query="", content_type="image/png", **more):
        return self.request("POST", f"/v1/segment{query}", body, content_type=content_type, **more)

    def post_json(self, body, query, **more):
        status, _, content = self.post(body, query, **more)
        assert status == 200, content
        return json.loads(content)

    def error(self, body, query="", **more):
        """(status, sentence) of a refusal, whose form is checked."""
        status, _, content = self.post(body, query, **more)
        said = json.loads(content)
        assert sorted(said) == ["error", "hint"]
        assert all(said.values())
        return status, said["error"]

    def metric(self, line):
        text = self.get("/metrics")[2].decode()
        return sum(float(found.rpartition(" ")[2]) for found in text.splitlines() if found.startswith(line))


@contextlib.contextmanager
def running(model, **options):
    """A server on loopback in a thread; yields (client, service)."""
    options = ServeOptions(**options)
    app = create_app(model, options)
    with open_port("127.0.0.1", 0) as opened:
        opened.listen(512)
        server = make_server(app, options.timeout_s)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [opened]})
        thread.start()
        try:
            yield Client(opened.getsockname()[1]), app.state.service
        finally:
            server.should_exit = True
            thread.join(60)
            assert not thread.is_alive()


def wait_until(true, seconds=20):
    limit = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < limit, "it did not happen"
        time.sleep(0.01)


def png(height=4, width=6, seed=0, kind="PNG"):
    """An image file of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def huge_png(height, width):
    """A well-formed PNG of zeros, made row by row: small to send, large to decode."""

    def chunk(kind, data):
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    packer = zlib.compressobj(9)
    row = bytes(1 + 3 * width)
    data = b"".join([*(packer.compress(row) for _ in range(height)), packer.flush()])
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 2, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def main(port, queue, max_pixels, seconds):
    from deeplab_infer.serving.running import serve

    options = ServeOptions(queue=queue, max_pixels=max_pixels, batch=1, timeout_s=60)
    with open_port("127.0.0.1", port) as opened:
        opened.listen(512)
        print(opened.getsockname()[1], flush=True)
        serve(create_app(FakeModel(seconds), options), opened, 60)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
