# SPDX-License-Identifier: Apache-2.0
"""The OpenAPI description against the server, by schemathesis and by hand."""

import json

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode

from deeplab_infer.serving import schemas
from deeplab_infer.serving.answers import FORMATS
from deeplab_infer.serving.app import create_app
from deeplab_infer.serving.options import ServeOptions
from deeplab_infer.serving.problems import MEANINGS

from .fakes import FakeModel, png, running

KINDS = {"png": "PNG", "jpeg": "JPEG", "webp": "WEBP", "bmp": "BMP", "tiff": "TIFF"}
FILES = {f"image/{name}": png(5, 7, kind=kind) for name, kind in KINDS.items()}
for _type, _file in {**FILES, "application/octet-stream": png()}.items():
    schemathesis.openapi.media_type(_type, st.just(_file))


@schemathesis.hook
def map_query(context, query):
    """What OpenAPI cannot say: which format takes which parameter."""
    if isinstance(query, dict) and isinstance(query.get("format", "png"), str):
        taken = FORMATS.get(query.get("format", "png"))
        if taken:
            for name in {"classes", "alpha", "min_area", "mask", "scores"} - taken.takes:
                query.pop(name, None)
    return query


@pytest.fixture(scope="module")
def app():
    app = create_app(FakeModel(), ServeOptions(latency_s=0))
    yield app
    app.state.service.close()


@pytest.fixture(scope="module")
def description(app):
    return app.openapi()


@pytest.mark.parametrize(
    ("path", "mode"),
    [
        ("/v1/segment", GenerationMode.NEGATIVE),
        *((path, GenerationMode.POSITIVE) for path in ("/v1/segment", "/v1/model", "/healthz", "/readyz", "/metrics")),
    ],
)
def test_requests_that_schemathesis_makes_up(app, path, mode):
    """Valid ones are answered, invalid ones refused; status, type and content are as the description says."""

    async def requests_only(scope, receive, send):
        """schemathesis starts and ends the application around every request."""
        if scope["type"] == "http":
            await app(scope, receive, send)

    api = schemathesis.openapi.from_asgi("/openapi.json", requests_only)
    operation = api[path]["POST" if path == "/v1/segment" else "GET"]

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(max_examples=40 if path == "/v1/segment" else 3, deadline=None, derandomize=True, database=None,
              suppress_health_check=list(HealthCheck))  # fmt: skip
    def check(case):
        case.call_and_validate()

    check()


def test_errors_are_declared(description):
    answers = description["paths"]["/v1/segment"]["post"]["responses"]
    assert {int(status) for status in answers} == {200, *MEANINGS} - {405}
    for status, answer in answers.items():
        if status != "200":
            assert answer["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/ErrorBody"}
            assert answer["description"] == MEANINGS[int(status)]
    assert "Retry-After" in answers["429"]["headers"]
    assert set(answers["200"]["content"]) == {"image/png", "application/json"}


def test_the_description_names_the_model_s_classes(description):
    parameters = {one["name"]: one for one in description["paths"]["/v1/segment"]["post"]["parameters"]}
    assert set(parameters) == set(schemas.SegmentQuery.model_fields)
    assert parameters["classes"]["schema"]["anyOf"][0]["items"]["enum"] == list(FakeModel().classes)
    assert parameters["format"]["schema"]["enum"] == list(FORMATS)
    assert all(one["description"] for one in parameters.values())


@pytest.mark.parametrize(
    "name", ["ErrorBody", "Status", "Summary", "RleAnswer", "PolygonAnswer", "ModelInfo"],
)  # fmt: skip
def test_examples_are_valid(description, name):
    model = getattr(schemas, name)
    (example,) = description["components"]["schemas"][name]["examples"]
    assert model.model_validate(example).model_dump(exclude_none=True) == example


def test_the_description_is_served():
    with running(FakeModel()) as (client, _):
        status, headers, content = client.get("/openapi.json")
        assert (status, headers["content-type"]) == (200, "application/json")
        assert json.loads(content)["openapi"].startswith("3.1")
        assert client.get("/docs")[0] == 404, "its pages load scripts from elsewhere"
