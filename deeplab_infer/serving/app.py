# SPDX-License-Identifier: Apache-2.0
"""The paths of the server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import resources
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from .. import __version__
from .access import GONE, AccessLog
from .admission import Admission
from .answers import FORMATS, JSON, PNG
from .batching import Model
from .metrics import CONTENT_TYPE
from .options import ServeOptions
from .problems import MEANINGS, ClientGone, Problem
from .schemas import ErrorBody, ModelInfo, PolygonAnswer, RleAnswer, SegmentQuery, Status, Summary
from .service import Service
from .uploads import FORM, PART

SEGMENT = "/v1/segment"
PAGE_FILES = {"/": ("page.html", "text/html"), "/page.css": ("page.css", "text/css"),
              "/page.js": ("page.js", "text/javascript")}  # fmt: skip
PATHS = frozenset({SEGMENT, "/v1/model", "/healthz", "/readyz", "/metrics", "/openapi.json", *PAGE_FILES})
_PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_RETRY = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer", "minimum": 1}}}
_IMAGES = ("image/png", "image/jpeg", "image/webp", "image/bmp", "image/tiff", "application/octet-stream")
_BODY = {
    "required": True,
    "description": "An image file, or a form with one in the part `file`. What it is, is read from its content.",
    "content": {
        **dict.fromkeys(_IMAGES, _BINARY),
        FORM: {
            "schema": {"type": "object", "properties": {PART: _BINARY["schema"]}, "required": [PART]},
            "encoding": {PART: {"contentType": ", ".join(_IMAGES)}},
        },
    },
}

router = APIRouter()


def create_app(model: Model, options: ServeOptions | None = None) -> FastAPI:
    """The ASGI application around an open model, which it closes at shutdown.

    Args:
        model: a `deeplab_infer.Segmenter`.
        options: limits; default `ServeOptions()`.

    Returns:
        The application; ``app.state.service`` is its `Service`.
    """
    service = Service(model, options or ServeOptions())

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(service.close)

    app = FastAPI(
        title="deeplab-serve", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None,
        description="Semantic segmentation with DeepLabV3 and DeepLabV3+: an image in, labels out.",
    )  # fmt: skip
    app.state.service = service
    app.include_router(router)
    for path, (name, media_type) in PAGE_FILES.items():
        app.add_api_route(path, _page_file(name, media_type), methods=["GET"], include_in_schema=False)
    app.add_exception_handler(Problem, _on_problem)
    app.add_exception_handler(ClientGone, _on_gone)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_middleware(
        Admission, places=service.places, paths=frozenset({SEGMENT}), retry_after=service.retry_after,
        refused=service.refused, timeout_s=service.options.timeout_s,
    )  # fmt: skip
    app.add_middleware(AccessLog, metrics=service.metrics, paths=PATHS)
    _name_classes(app, model.classes)
    return app


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    found: dict[int | str, dict[str, Any]] = {
        status: {"model": ErrorBody, "description": MEANINGS[status]} for status in statuses
    }
    for status in {429, 503, 504} & set(statuses):
        found[status]["headers"] = _RETRY
    return found


@router.post(
    SEGMENT,
    summary="Segment an image",
    operation_id="segment",
    response_class=Response,
    openapi_extra={"requestBody": _BODY},
    responses={
        200: {
            "model": Summary | RleAnswer | PolygonAnswer,
            "description": "As `format` says.",
            "content": {PNG: _BINARY},
            "headers": {
                "Server-Timing": {
                    "description": "Milliseconds of upload, decode, queue, inference and encode.",
                    "schema": {"type": "string"},
                }
            },
        },
        **_errors(400, 408, 409, 413, 415, 422, 429, 500, 503, 504),
    },
)
async def segment(request: Request, query: Annotated[SegmentQuery, Query()]) -> Response:
    """The labels of the image in the body, in the format asked for."""
    notes = request.scope["deeplab_notes"]
    answer = await _service(request).segment(request, query, notes)
    return Response(
        answer, media_type=FORMATS[query.format].media_type, headers={"Server-Timing": notes.server_timing()}
    )


@router.get("/v1/model", summary="The model and the limits", operation_id="model", responses=_errors(503))
async def model_info(request: Request) -> ModelInfo:
    """Classes with their colours, how the model runs, what its file promises, and what the server takes."""
    return ModelInfo(**_service(request).describe())


@router.get("/healthz", summary="Alive?", operation_id="healthz", responses=_errors(503))
async def healthz() -> Status:
    """200 while the process answers."""
    return Status(status="ok")


@router.get("/readyz", summary="Ready for an image?", operation_id="readyz", responses=_errors(503))
async def readyz(request: Request) -> Status:
    """200 while there is a place for another image, else 503."""
    service = _service(request)
    service.check_open()
    if service.places.taken >= service.places.count:
        seconds = service.retry_after()
        raise Problem(
            503, f"all {service.places.count} places are taken", f"ask again in {seconds} s",
            headers={"Retry-After": str(seconds)},
        )  # fmt: skip
    return Status(status="ready")


@router.get(
    "/metrics",
    summary="For Prometheus",
    operation_id="metrics",
    response_class=Response,
    responses={
        200: {"description": "Prometheus's text format.", "content": {"text/plain": {"schema": {"type": "string"}}}},
        **_errors(503),
    },
)
async def metrics(request: Request) -> Response:
    """Counters, gauges and histograms."""
    return Response(_service(request).metrics.text(), media_type=CONTENT_TYPE)


def _service(request: Request) -> Service:
    return request.app.state.service


def _page_file(name: str, media_type: str) -> Any:
    content = (resources.files(__package__) / "page" / name).read_bytes()

    async def page() -> Response:
        return Response(content, media_type=media_type, headers=_PAGE_HEADERS)

    return page


async def _on_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    if request.url.path == SEGMENT:
        _service(request).refused(error)
    return error.response()


async def _on_gone(request: Request, error: Exception) -> Response:
    request.scope["deeplab_notes"].gone = True
    return Response(status_code=GONE)


async def _on_http_error(request: Request, error: Exception) -> Response:
    """Paths and methods that do not exist."""
    assert isinstance(error, HTTPException)
    body = {"error": f"{error.detail}: {request.method} {request.url.path[:200]}", "hint": "GET /openapi.json"}
    return JSONResponse(body, error.status_code, error.headers)


async def _on_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"][1:])[:80]
    problem = Problem(
        422, f"parameter {name!r}: {first['msg'][:1].lower()}{first['msg'][1:]}",
        "GET /openapi.json describes the parameters", reason="parameter",
    )  # fmt: skip
    return await _on_problem(request, problem)


def _name_classes(app: FastAPI, classes: tuple[str, ...]) -> None:
    """Let the OpenAPI description list the model's own classes."""
    for parameter in app.openapi()["paths"][SEGMENT]["post"]["parameters"]:
        if parameter["name"] == "classes":
            variants = parameter["schema"].get("anyOf", [parameter["schema"]])
            variants[0]["items"]["enum"] = list(classes)


assert frozenset({PNG, JSON}) == {one.media_type for one in FORMATS.values()}
