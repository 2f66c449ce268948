# SPDX-License-Identifier: Apache-2.0
"""An application on a port, until a signal ends it."""

from __future__ import annotations

import errno
import ipaddress
import math
import signal
import socket
from typing import Any

import uvicorn

from ..errors import DeepLabError
from ..signals import handling

# Above this uvicorn itself answers 503, and file descriptors last (1024 is a usual limit).
MAX_CONNECTIONS = 512
BACKLOG = 512  # connections that the system accepts for us


def open_port(host: str, port: int) -> socket.socket:
    """A socket bound to the address; nobody can connect yet.

    Args:
        host: name or address.
        port: 0 takes a free one.

    Raises:
        DeepLabError: it is in use, not allowed or no address of this machine.
    """
    if not 0 <= port <= 65535:
        raise DeepLabError(f"--port must be in 0..65535, got {port}")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except socket.gaierror as error:
        raise DeepLabError(f"--host {host!r} is no address: {error.strerror}") from error
    opened = socket.socket(family, kind, protocol)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(address)
    except OSError as error:
        opened.close()
        raise DeepLabError(_bind_error(error, host, port)) from error
    return opened


def _bind_error(error: OSError, host: str, port: int) -> str:
    advice = {
        errno.EADDRINUSE: f"port {port} of {host} is in use; choose another with --port, or --port 0 for a free one",
        errno.EACCES: f"port {port} is not allowed for you; choose one from 1024 on with --port",
        errno.EADDRNOTAVAIL: f"{host} is no address of this machine; choose another with --host",
    }
    return advice.get(error.errno or 0, f"cannot listen on port {port} of {host}: {error.strerror}")


def address_of(opened: socket.socket) -> str:
    """``http://127.0.0.1:8000``."""
    host, port = opened.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_public(opened: socket.socket) -> bool:
    """Whether other machines can connect."""
    return not ipaddress.ip_address(opened.getsockname()[0].partition("%")[0]).is_loopback


def make_server(app: Any, timeout_s: float) -> uvicorn.Server:
    """A server that waits at its end for what a request may take, and a little more."""
    config = uvicorn.Config(
        app, http="h11", ws="none", loop="asyncio", lifespan="on", log_config=None, log_level="warning",
        backlog=BACKLOG, access_log=False, server_header=False, limit_concurrency=MAX_CONNECTIONS,
        timeout_graceful_shutdown=math.ceil(timeout_s) + 5,
    )  # fmt: skip
    return uvicorn.Server(config)


def serve(app: Any, opened: socket.socket, timeout_s: float) -> None:
    """Serve until SIGINT or SIGTERM; then finish what was accepted and return.

    Args:
        app: the ASGI application.
        opened: where to listen.
        timeout_s: what a request may take.
    """
    server = make_server(app, timeout_s)

    def stop(number: int, frame: Any) -> None:
        server.should_exit = True

    # uvicorn raises the signal that ended it once more, for whoever was there before: ending is no error here.
    with handling(stop, signal.SIGINT, signal.SIGTERM):
        server.run(sockets=[opened])
