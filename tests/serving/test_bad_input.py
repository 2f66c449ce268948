# SPDX-License-Identifier: Apache-2.0
"""Whatever a stranger sends: a sentence, no crash, and the next request is served as before."""

import gzip
import io
import json
import socket
import time
import zlib

import numpy as np
import pytest
from PIL import Image

from deeplab_infer.errors import DeepLabError
from deeplab_infer.serving import uploads
from deeplab_infer.serving.pictures import FORMATS

from .fakes import FakeModel, huge_png, png, running, wait_until


@pytest.fixture(scope="module")
def client():
    with running(FakeModel(), max_body=1 << 20, max_pixels=1_000_000, latency_s=0) as (client, _):
        yield client
        assert client.post(png())[0] == 200, "it serves as before"


def encoded(image, kind, **more):
    buffer = io.BytesIO()
    image.save(buffer, kind, **more)
    return buffer.getvalue()


def send(client, head, *pieces, pause=0.0):
    """What comes back for bytes on a socket."""
    with socket.create_connection(("127.0.0.1", client.port), timeout=30) as raw:
        raw.sendall(head)
        for piece in pieces:
            time.sleep(pause)
            raw.sendall(piece)
        answer = b""
        while block := raw.recv(65536):
            answer += block
    return answer


def head(length, extra=""):
    return (
        f"POST /v1/segment HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: {length}\r\n{extra}\r\n"
    ).encode()


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"", 400, "the body is empty (0 bytes)"),
        (b"not an image", 422, "not an image of a known format (PNG, JPEG"),
        (bytes(1000), 422, "not an image of a known format"),
        (png(64, 64)[:-2000], 422, "damaged or truncated"),
        (png()[:40], 422, ""),
        (png(kind="JPEG")[:-200], 422, "damaged or truncated"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", 422, "not an image of a known format"),
        (encoded(Image.new("RGB", (9, 9)), "GIF"), 422, "not an image of a known format"),
        (encoded(Image.fromarray(np.full((2, 2), 1e9, np.float32)), "TIFF"), 422, "outside 0..255"),
        (huge_png(1001, 1000), 413, "the image of 1,000 x 1,001 pixels has more than the limit of 1,000,000 pixels"),
        (huge_png(3000, 30_000), 413, "the image of 90,000,000 pixels has more than the limit"),
        (huge_png(15_000, 15_000), 413, "the image of 225,000,000 pixels"),
        (bytes((1 << 20) + 1), 413, "the body has 1,048,577 bytes, more than the limit of 1,048,576 bytes"),
    ],
)  # fmt: skip
def test_bodies(client, body, status, message):
    got, error = client.error(body)
    assert got == status
    assert message in error


def test_a_panorama_within_the_limit(client):
    body = huge_png(33, 30_000)
    assert np.asarray(Image.open(io.BytesIO(client.post(body)[2]))).shape == (33, 30_000)


def test_a_webp_that_says_it_is_large(client):
    image = encoded(Image.new("RGB", (4, 4)), "WEBP", lossless=True)
    assert image[12:16] == b"VP8L"
    size = (16383 | 16383 << 14).to_bytes(4, "little")
    assert client.error(image[:21] + size + image[25:])[0] == 413


def test_compressed_text_in_a_png(client):
    """A chunk of 50 MB of text, 50 kB to send."""
    packed = b"comment\0\0" + zlib.compress(bytes(50 << 20), 9)
    chunk = len(packed).to_bytes(4, "big") + b"zTXt" + packed + zlib.crc32(b"zTXt" + packed).to_bytes(4, "big")
    body = png()
    assert client.error(body[:33] + chunk + body[33:])[0] == 422


@pytest.mark.parametrize(
    ("content_type", "message"),
    [
        ("text/html", "Content-Type 'text/html' is not an image"),
        ("application/x-www-form-urlencoded", "is not an image"),
        ("", "a body without Content-Type is not an image"),
    ],
)
def test_media_types(client, content_type, message):
    status, error = client.error(png(), content_type=content_type)
    assert status == 415
    assert message in error
    assert "curl" in json.loads(client.post(png(), content_type=content_type)[2])["hint"]


def test_compressed_bodies_are_not_unpacked(client):
    status, error = client.error(gzip.compress(bytes(1 << 20)), Content_Encoding="gzip")
    assert (status, "Content-Encoding 'gzip'" in error) == (415, True)


def test_an_upload_without_a_length_ends_at_the_limit(client):
    def pieces():
        for _ in range(40):
            yield bytes(64 << 10)

    status, error = client.error(pieces())
    assert (status, error) == (413, "the body is larger than the limit of 1,048,576 bytes")


def test_an_oversized_upload_is_not_read(client):
    """Refused by its length: the answer comes before any of the body."""
    with socket.create_connection(("127.0.0.1", client.port), timeout=30) as raw:
        raw.sendall(head(1 << 40, "Expect: 100-continue\r\n"))
        answer = raw.recv(65536)
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"connection: close" in answer.lower()


def test_a_truncated_upload_is_dropped(client):
    before = client.metric("deeplab_dropped_total")
    with socket.create_connection(("127.0.0.1", client.port), timeout=30) as raw:
        raw.sendall(head(5000) + png()[:50])
    wait_until(lambda: client.metric("deeplab_dropped_total") == before + 1)
    assert client.metric("deeplab_requests_held ") == 0


def test_rubbish_instead_of_http(client):
    assert b"400" in send(client, b"\x16\x03\x01\x02\x00\x01 rubbish\r\n\r\n")


def test_a_slow_upload(monkeypatch):
    with running(FakeModel(), timeout_s=0.3, latency_s=0) as (client, service):
        answer = send(client, head(5000), b"x")
        assert answer.startswith(b"HTTP/1.1 408")
        assert b"did not arrive within 0.3 s" in answer
        assert service.places.taken == 0


def test_a_slow_model():
    model = FakeModel()
    with running(model, timeout_s=0.4, latency_s=0, batch=1) as (client, _):
        model.gate.clear()
        status, headers, content = client.post(png())
        assert (status, json.loads(content)["error"]) == (504, "the image was not done within 0.4 s")
        assert int(headers["retry-after"]) >= 1
        model.gate.set()
        assert client.post(png())[0] == 200


def test_a_client_that_goes_away_is_not_worked_for():
    model = FakeModel()
    with running(model, latency_s=0, batch=1) as (client, _):
        model.gate.clear()
        body = png(5, 5)
        busy = socket.create_connection(("127.0.0.1", client.port))
        busy.sendall(head(len(body)) + body)
        wait_until(lambda: client.metric("deeplab_requests_held ") == 1 and client.metric("deeplab_queue_images") == 0)
        gone = socket.create_connection(("127.0.0.1", client.port))
        other = png(6, 6)
        gone.sendall(head(len(other)) + other)
        wait_until(lambda: client.metric("deeplab_queue_images") == 1)
        gone.close()
        wait_until(lambda: client.metric("deeplab_dropped_total") == 1)
        model.gate.set()
        assert busy.recv(100).startswith(b"HTTP/1.1 200")
        busy.close()
    assert model.calls == [[(5, 5)]]
    assert model.closed


def test_a_model_that_fails(caplog):
    def fail(images):
        raise (DeepLabError("width 7 is outside 8..8") if images[0].shape[1] == 7 else MemoryError("too much"))

    with running(FakeModel(fail=fail), latency_s=0) as (client, _):
        assert client.error(png(4, 7)) == (422, "width 7 is outside 8..8")
        assert client.error(png(4, 8)) == (500, "the model failed (MemoryError)")
        assert client.get("/healthz")[0] == 200
    assert "too much" in caplog.text


def test_the_log_has_one_line_whatever_the_path_holds(client, caplog):
    caplog.set_level("INFO", "deeplab_infer")
    client.request("GET", "/a%0d%0aERROR:%20forged?b=%0a")
    wait_until(lambda: any("forged" in record.getMessage() for record in caplog.records))
    (line,) = [record.getMessage() for record in caplog.records if "forged" in record.getMessage()]
    assert "\n" not in line
    assert " 404 " in line


def test_every_format_is_one_that_pillow_reads():
    Image.init()
    assert set(FORMATS) <= set(Image.OPEN)
    assert uploads.PART == "file"
