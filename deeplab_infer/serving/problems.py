# SPDX-License-Identifier: Apache-2.0
"""Everything that goes wrong for a client: a status, one sentence, and what to do."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.responses import JSONResponse

# What a status of an answer means; the OpenAPI description says the same.
MEANINGS = {
    400: "the body is empty, or not the multipart form that it says it is",
    405: "another method than the path has",
    408: "the body did not arrive in time",
    409: "the model was exported without scores",
    413: "more bytes or more pixels than the server allows",
    415: "a body of another type than an image or a form with one",
    422: "a parameter is wrong, or the body is no image that can be read",
    429: "as many requests as the server holds are under way; Retry-After says when to come again",
    500: "the model failed; the server's log says why",
    503: "too many connections, or the server is ending",
    504: "the image was not done in time",
}


class Problem(Exception):
    """An answer that is an error.

    Attributes:
        status: of HTTP.
        error: one sentence, what was wrong and what came.
        hint: what to do.
        headers: of the answer.
        reason: its name in the metric of refusals.
    """

    def __init__(
        self, status: int, error: str, hint: str, *, reason: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(error)
        self.status, self.error, self.hint = status, error, hint
        self.reason, self.headers = reason, dict(headers or {})

    def response(self) -> JSONResponse:
        """As ``{"error": ..., "hint": ...}``."""
        return JSONResponse({"error": self.error, "hint": self.hint}, self.status, self.headers)


class ClientGone(Exception):
    """Nobody waits for the answer any more."""
