# SPDX-License-Identifier: Apache-2.0
"""Far more requests than places: 200 or 429, bounded memory, and nothing accepted is lost."""

import collections
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .fakes import Client, FakeModel, huge_png, png, running, wait_until

ROOT = Path(__file__).parents[2]
MB = 1 << 20


def peak_memory(pid):
    """Bytes; the most that was resident since the start."""
    (line,) = [one for one in Path(f"/proc/{pid}/status").read_text().splitlines() if one.startswith("VmHWM")]
    return int(line.split()[1]) << 10


def test_memory_is_bounded_under_overload():
    """Unbounded, the images of 120 clients alone would be 2 GB; unbounded uploads the same again."""
    queue, height, width = 4, 2000, 3000
    program = [sys.executable, "-c", "import sys; from tests.serving.fakes import main; main(0, 4, 6_000_000, 0.05)"]
    server = subprocess.Popen(program, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        client = Client(int(server.stdout.readline()))
        assert client.post(png())[0] == 200
        body = huge_png(height, width)
        before = peak_memory(server.pid)
        with ThreadPoolExecutor(60) as pool:
            answers = list(pool.map(lambda _: client.post(body, "?format=json", timeout=120), range(120)))
        grown = peak_memory(server.pid) - before
        counts = collections.Counter(status for status, _, _ in answers)
        assert set(counts) == {200, 429}
        assert all(int(headers["retry-after"]) >= 1 for status, headers, _ in answers if status == 429)
        pixels = height * width
        # Each place: 3 bytes a pixel of the image, 1 of the labels. Each of the 2 codecs: what Pillow holds (4) and
        # the copy that is made of it (3), or counting the labels as int64 (8). The model: one batch of one image.
        bound = queue * 4 * pixels + 2 * 8 * pixels + 4 * pixels + 64 * MB
        assert grown < bound, f"{grown / MB:.0f} MB, more than {bound / MB:.0f} MB"
        assert client.get("/readyz")[0] == 200
        assert client.metric("deeplab_requests_held ") == 0
        assert client.metric('deeplab_rejected_total{reason="full"}') == counts[429]
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0
    finally:
        server.kill()
        server.communicate()


def test_places_count_uploads_and_readers_too():
    with running(FakeModel(), queue=2, latency_s=0) as (client, service):
        start = b"POST /v1/segment HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 900\r\n\r\n"
        slow = [socket.create_connection(("127.0.0.1", client.port)) for _ in range(2)]
        for raw in slow:
            raw.sendall(start + b"x")
        wait_until(lambda: service.places.taken == 2)
        status, headers, _ = client.post(png())
        assert (status, headers["retry-after"], headers["connection"]) == (429, "1", "close")
        assert client.get("/readyz")[0] == 503
        assert client.get("/healthz")[0] == client.get("/metrics")[0] == 200
        for raw in slow:
            raw.close()
        wait_until(lambda: service.places.taken == 0)
        assert client.post(png())[0] == 200


def test_a_client_that_never_reads_its_answer_loses_its_place():
    with running(FakeModel(), queue=1, timeout_s=1, latency_s=0) as (client, service):
        body = png(1500, 1500)
        raw = socket.socket()
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.connect(("127.0.0.1", client.port))
        head = f"POST /v1/segment?format=overlay HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: {len(body)}"
        raw.sendall(head.encode() + b"\r\n\r\n" + body)
        wait_until(lambda: service.places.taken == 1)
        wait_until(lambda: service.places.taken == 0)
        assert client.get("/readyz")[0] == 200
        raw.close()


def test_clients_that_send_batches_get_them():
    model = FakeModel()
    with running(model, queue=8, batch=4, latency_s=2) as (client, _), ThreadPoolExecutor(4) as pool:
        assert {status for status, _, _ in pool.map(client.post, [png()] * 4)} == {200}
        assert client.metric('deeplab_batch_images_bucket{le="4.0"}') == 1
    assert model.calls == [[(4, 6)] * 4]


def test_ending_finishes_what_was_accepted():
    model = FakeModel()
    answers = []
    with running(model, batch=1, latency_s=0) as (client, service):
        model.gate.clear()
        threads = [threading.Thread(target=lambda: answers.append(client.post(png())[0])) for _ in range(5)]
        for thread in threads:
            thread.start()
        wait_until(lambda: service.places.taken == 5)
        threading.Timer(0.5, model.gate.set).start()
    for thread in threads:
        thread.join(20)
    assert answers == [200] * 5
    assert model.closed
    assert not service.places.taken
