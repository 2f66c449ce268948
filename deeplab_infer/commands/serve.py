# SPDX-License-Identifier: Apache-2.0
"""``deeplab-serve``: a model behind HTTP."""

from __future__ import annotations

import argparse
import importlib.util
import logging
import sys
from collections.abc import Sequence

from ..errors import DeepLabError
from ..runtime import BACKENDS, RUN_PRECISIONS
from .cli import make_parser, run_command

PROG = "deeplab-serve"
_NEEDS = ("fastapi", "uvicorn", "prometheus_client", "python_multipart")
_EPILOG = """\
examples:
  deeplab-serve model.onnx
  deeplab-serve model.engine --port 9000 --batch 8 --latency 10
  curl --data-binary @street.png -H 'Content-Type: image/png' 'http://127.0.0.1:8000/v1/segment?format=json'

Paths: / (a page to try it on), /v1/segment, /v1/model, /healthz, /readyz, /metrics, /openapi.json; docs/serving.md.
There is no authentication and no TLS: other machines should reach it through a proxy only.
One process serves one model; for more, start more of them behind a balancer.
exit code: 0 ended by Ctrl-C or SIGTERM, with everything that was accepted done; 2 wrong use or an error
"""


def build_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = make_parser(PROG, "Serve an exported model, a checkpoint or a named config over HTTP.", _EPILOG)
    parser.add_argument(
        "model", help="an exported .engine, .onnx or .xml; with torch also a checkpoint or a config's name"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1, this machine)")
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one (default: 8000)")
    run = parser.add_argument_group("how to run")
    run.add_argument("--backend", default="auto", help=f"{', '.join(BACKENDS)} (default: auto)")
    run.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    run.add_argument("--threads", type=int, help="CPU threads (default: all)")
    run.add_argument("--precision", choices=RUN_PRECISIONS, help="as in deeplab-predict")
    batches = parser.add_argument_group("batches")
    batches.add_argument("--batch", type=int, default=8, metavar="N", help="images at once at most (default: 8)")
    batches.add_argument(
        "--latency", type=float, default=5, metavar="MS",
        help="milliseconds that an image waits for others of its size (default: 5)",
    )  # fmt: skip
    limits = parser.add_argument_group("limits")
    limits.add_argument(
        "--queue", type=int, default=16, metavar="N", help="requests held at once; others get 429 (default: 16)"
    )
    limits.add_argument("--max-body", type=float, default=32, metavar="MB", help="size of an upload (default: 32)")
    limits.add_argument(
        "--max-pixels", type=int, default=1 << 24, metavar="N", help="pixels of an image (default: 16777216)"
    )
    limits.add_argument(
        "--timeout", type=float, default=30, metavar="S", help="seconds that a request may take (default: 30)"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_command(PROG, build_parser(), _run, argv)


def _run(arguments: argparse.Namespace) -> int:
    missing = [name for name in _NEEDS if importlib.util.find_spec(name) is None]
    if missing:
        raise DeepLabError(f"{', '.join(missing)} not installed; run: pip install 'deeplab-infer[serve]'")
    from ..segmenter import Segmenter
    from ..serving.app import create_app
    from ..serving.options import ServeOptions
    from ..serving.running import BACKLOG, address_of, is_public, open_port, serve

    options = ServeOptions(
        max_body=int(arguments.max_body * (1 << 20)),
        max_pixels=arguments.max_pixels,
        queue=arguments.queue,
        batch=arguments.batch,
        latency_s=arguments.latency / 1e3,
        timeout_s=arguments.timeout,
    )
    # Before the model: a port in use should be said at once.
    with open_port(arguments.host, arguments.port) as opened:
        model = Segmenter(
            arguments.model,
            backend=arguments.backend,
            device=arguments.device,
            threads=arguments.threads,
            precision=arguments.precision,
        )
        app = create_app(model, options)
        if is_public(opened):
            logging.getLogger("deeplab_infer").warning(
                "other machines can reach %s, and there is no authentication: put a proxy before it", address_of(opened)
            )
        opened.listen(BACKLOG)
        how = model.describe()
        print(f"{how['config']} on {how['backend']} ({how['device']}) at {address_of(opened)}", flush=True)
        serve(app, opened, options.timeout_s)
    print("stopped; everything that was accepted is done", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
