# SPDX-License-Identifier: Apache-2.0
"""Downloads against a server on this machine."""

import hashlib
import http.server
import threading

import pytest

from deeplab_infer.checkpoints.download import cache_dir, download
from deeplab_infer.errors import CheckpointError

CONTENT = bytes(range(256)) * 2000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        server.requests.append(self.headers.get("Range"))
        if self.path.endswith("/missing.pth"):
            self.send_error(404)
            return
        start = 0
        wanted = self.headers.get("Range")
        if wanted and server.ranges:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            if start >= len(CONTENT):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(CONTENT)}")
                self.end_headers()
                return
            self.send_response(206)
        else:
            self.send_response(200)
        body = CONTENT[start:]
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if server.cut_after:
            body, server.cut_after = body[: server.cut_after], 0
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("DEEPLAB_CACHE", str(tmp_path / "cache"))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.requests, server.ranges, server.cut_after = [], True, 0
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    server.url = f"http://127.0.0.1:{server.server_port}/a/model-{DIGEST[:8]}.pth"
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_files_are_fetched_once(server):
    path = download(server.url, DIGEST[:8], progress=True)
    assert path.read_bytes() == CONTENT
    assert path.parent == cache_dir()
    assert download(server.url, DIGEST[:8]) == path
    assert server.requests == [None]


def test_a_cut_connection_is_resumed(server):
    server.cut_after = 100_000
    with pytest.raises(CheckpointError, match="Run again to go on"):
        download(server.url, DIGEST[:8], progress=False)
    part = cache_dir() / f"model-{DIGEST[:8]}.pth.part"
    assert part.stat().st_size == 100_000
    assert download(server.url, DIGEST[:8], progress=False).read_bytes() == CONTENT
    assert server.requests == [None, "bytes=100000-"]
    assert not part.exists()


def test_a_server_without_ranges_starts_again(server):
    server.ranges, server.cut_after = False, 5000
    with pytest.raises(CheckpointError):
        download(server.url, DIGEST[:8], progress=False)
    assert download(server.url, DIGEST[:8], progress=False).read_bytes() == CONTENT


@pytest.mark.parametrize("have", [CONTENT, CONTENT + b"too long"])
def test_a_part_that_is_whole_or_too_long(server, have):
    cache_dir().mkdir(parents=True)
    (cache_dir() / f"model-{DIGEST[:8]}.pth.part").write_bytes(have)
    assert download(server.url, DIGEST[:8], progress=False).read_bytes() == CONTENT


def test_another_file_than_expected_is_removed(server):
    with pytest.raises(CheckpointError, match=f"starts with {DIGEST[:8]}, expected 00000000"):
        download(server.url, "00000000", progress=False)
    assert list(cache_dir().iterdir()) == []


def test_a_damaged_file_in_the_cache_is_fetched_again(server):
    path = download(server.url, DIGEST[:8], progress=False)
    path.write_bytes(b"damaged")
    assert download(server.url, DIGEST[:8], progress=False).read_bytes() == CONTENT


def test_errors_of_the_server_and_the_network(server):
    base = server.url.rsplit("/", 1)[0]
    with pytest.raises(CheckpointError, match="404"):
        download(f"{base}/missing.pth", progress=False)
    with pytest.raises(CheckpointError, match="names no file"):
        download("http://127.0.0.1:9/", progress=False)
    with pytest.raises(CheckpointError, match="download failed"):
        download("http://127.0.0.1:9/a.pth", progress=False)
