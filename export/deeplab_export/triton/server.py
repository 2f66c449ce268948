# SPDX-License-Identifier: Apache-2.0
"""A written repository on a real server: it is started, asked for labels and ended."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from deeplab_infer.errors import BackendError
from deeplab_infer.manifest import Manifest
from deeplab_infer.models import DeepLab

from ..verify import Sample, Thresholds, VerificationReport, reference_logits, run_samples

SERVER = "tritonserver"
_TIMEOUT = 60.0  # seconds that one request may take


def find_server() -> str:
    """Path of Triton's own executable.

    Raises:
        BackendError: there is none on the PATH.
    """
    found = shutil.which(SERVER)
    if found is None:
        raise BackendError(
            f"--check-server starts {SERVER}, and there is none on the PATH; run this inside Triton's container, or "
            "leave the option away"
        )
    return found


def check_on_server(
    model: DeepLab,
    root: Path,
    name: str,
    manifest: Manifest,
    samples: Sequence[Sample],
    thresholds: Thresholds,
    *,
    start_timeout: float = 600.0,
) -> VerificationReport:
    """Serve a repository and compare the server's labels with the float32 network's.

    Args:
        model: the float32 network.
        root: a model repository.
        name: of the model in it.
        manifest: of the model.
        samples: images that the model accepts.
        thresholds: what passes.
        start_timeout: seconds until the model must be ready, warm-up included.

    Raises:
        BackendError: the server does not start, refuses the model, or fails a request, with its own words.
    """
    report = VerificationReport(
        file=f"{name} on {SERVER}",
        precision=manifest.precision,
        thresholds=thresholds,
        judged_labels=manifest.checkpoint_sha256 is not None or bool(model.checkpoint_source),
    )
    references = [reference_logits(model, sample.image) for sample in samples]
    with _serve(root, name, start_timeout) as address:
        run_samples(ServerRunner(address, name, manifest), samples, references, report)
    return report


class ServerRunner:
    """A model on a server as a `deeplab_infer.runtime.Runner`, over HTTP with binary tensors."""

    def __init__(self, address: str, name: str, manifest: Manifest) -> None:
        """``address``: of the server, with scheme and port; ``name``: of the model on it."""
        self.name, self.device, self.manifest = SERVER, address, manifest
        self._address = f"{address}/v2/models/{name}/infer"

    def run(self, batch: NDArray[Any]) -> NDArray[Any]:
        """Labels [N, H, W] of pixels uint8 [N, H, W, 3]."""
        data = np.ascontiguousarray(batch).tobytes()
        image = {"name": "image", "shape": list(batch.shape), "datatype": "UINT8"}
        asked = {
            "inputs": [{**image, "parameters": {"binary_data_size": len(data)}}],
            "outputs": [{"name": "labels", "parameters": {"binary_data": True}}],
        }
        head = json.dumps(asked).encode()
        headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))}
        request = urllib.request.Request(self._address, head + data, headers)
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer:
                body, length = answer.read(), int(answer.headers["Inference-Header-Content-Length"] or 0)
        except urllib.error.HTTPError as error:
            raise BackendError(f"{SERVER} refuses the request: {error.read().decode('utf-8', 'replace')}") from None
        except OSError as error:
            raise BackendError(f"{SERVER} does not answer: {error}") from error
        if not length:
            raise BackendError(f"{SERVER} answers without labels: {body[:500].decode('utf-8', 'replace')}")
        (output,) = json.loads(body[:length])["outputs"]
        dtype = np.dtype(self.manifest.label_dtype).newbyteorder("<")
        return np.frombuffer(body, dtype, offset=length).reshape(output["shape"])

    def close(self) -> None:
        """Nothing is held."""


@contextlib.contextmanager
def _serve(root: Path, name: str, start_timeout: float) -> Iterator[str]:
    """Start a server with one model on a free port; yields its address."""
    port = _free_port()
    command = [
        find_server(),
        f"--model-repository={root.resolve()}",
        "--model-control-mode=explicit",
        f"--load-model={name}",
        "--http-address=127.0.0.1",
        f"--http-port={port}",
        "--allow-grpc=false",
        "--allow-metrics=false",
    ]
    address = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=os.environ)
        try:
            _wait(process, f"{address}/v2/models/{name}/ready", log, start_timeout)
            yield address
        finally:
            process.terminate()
            try:
                process.wait(_TIMEOUT)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait(process: subprocess.Popen[bytes], address: str, log: IO[bytes], timeout: float) -> None:
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        if process.poll() is not None:
            raise BackendError(f"{SERVER} ended with code {process.returncode}: {_last_words(log)}")
        with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=_TIMEOUT):
            return
        time.sleep(0.2)
    raise BackendError(f"{SERVER} did not have the model ready within {timeout:.0f} s: {_last_words(log)}")


def _last_words(log: IO[bytes], count: int = 15) -> str:
    log.seek(0)
    return "\n".join(log.read().decode("utf-8", "replace").splitlines()[-count:]) or "it said nothing"


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
