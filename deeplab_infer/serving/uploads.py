# SPDX-License-Identifier: Apache-2.0
"""The body of a request: never more of it in memory than the limit, whatever is sent."""

from __future__ import annotations

import io

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from .problems import Problem

FORM = "multipart/form-data"
PART = "file"
_BINARY = "application/octet-stream"
_CURL = "curl --data-binary @street.png -H 'Content-Type: image/png', or curl -F file=@street.png"


def check_headers(request: Request, max_body: int) -> None:
    """Refuse what the headers say is no use, before a byte of the body is read.

    Raises:
        Problem: 413 or 415.
    """
    kind = _media_type(request)
    if not (kind.startswith("image/") or kind in (_BINARY, FORM)):
        said = f"Content-Type {kind!r} is" if kind else "a body without Content-Type is"
        raise Problem(415, f"{said} not an image", f"send {_CURL}", reason="media_type")
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    if coding not in ("", "identity"):
        raise Problem(
            415,
            f"Content-Encoding {coding!r} is not taken: images are compressed already",
            "send the file as it is",
            reason="media_type",
        )
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > max_body:
        raise _too_large(f"the body has {int(length):,} bytes, more", max_body)


async def read_body(request: Request, max_body: int) -> io.BytesIO:
    """The body, which is counted as it arrives.

    Raises:
        Problem: 413 as soon as it is too long, 400 where it is empty.
        ClientDisconnect: the client went away before the end.
    """
    body = io.BytesIO()
    async for chunk in request.stream():
        if body.tell() + len(chunk) > max_body:
            raise _too_large("the body is larger", max_body)
        body.write(chunk)
    if body.tell() == 0:
        raise Problem(400, "the body is empty (0 bytes)", f"send an image: {_CURL}", reason="empty")
    return body


def picture_in(request: Request, body: io.BytesIO) -> io.BytesIO:
    """The file of a form, or the body as it is.

    Raises:
        Problem: 400: not a form, or one without exactly one part called ``file``, or with an empty one.
    """
    if _media_type(request) != FORM:
        body.seek(0)
        return body
    _, options = parse_options_header(request.headers["content-type"])
    boundary = options.get(b"boundary", b"")
    if not boundary:
        raise Problem(400, "the form has no boundary in its Content-Type", f"send {_CURL}", reason="form")
    form = _Form()
    try:
        parser = MultipartParser(boundary, form.callbacks())  # type: ignore[arg-type]
        parser.write(body.getvalue())
        parser.finalize()
    except FormParserError as error:
        raise Problem(400, f"the form is damaged: {error}", f"send {_CURL}", reason="form") from error
    if not form.complete or len(form.files) != 1:
        said = f"{len(form.files)} parts" if form.complete else "no whole part"
        raise Problem(400, f"the form has {said} called {PART!r}, not one", f"send {_CURL}", reason="form")
    if form.files[0].tell() == 0:
        raise Problem(400, f"the part {PART!r} of the form is empty (0 bytes)", f"send {_CURL}", reason="empty")
    form.files[0].seek(0)
    return form.files[0]


class _Form:
    """Keeps the parts called ``file`` of a form and drops all others."""

    def __init__(self) -> None:
        self.files: list[io.BytesIO] = []
        self.complete = False
        self._field, self._value = b"", b""
        self._part: io.BytesIO | None = None

    def callbacks(self) -> dict[str, object]:
        names = ("part_begin", "part_data", "header_field", "header_value", "header_end", "end")
        return {f"on_{name}": getattr(self, f"_{name}") for name in names}

    def _part_begin(self) -> None:
        self._part = None

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        _, options = parse_options_header(self._value)
        if self._field.lower() == b"content-disposition" and options.get(b"name") == PART.encode():
            self._part = io.BytesIO()
            self.files.append(self._part)
        self._field, self._value = b"", b""

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._part is not None:
            self._part.write(data[start:end])

    def _end(self) -> None:
        self.complete = True


def _media_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _too_large(said: str, limit: int) -> Problem:
    hint = "send a smaller file, or start the server with a larger --max-body"
    return Problem(413, f"{said} than the limit of {limit:,} bytes", hint, reason="bytes")
