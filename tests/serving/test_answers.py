# SPDX-License-Identifier: Apache-2.0
"""Every path and format of a server around a real network gives what `Segmenter.predict` gives."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from deeplab_infer import Segmenter, __version__
from deeplab_infer.masks import decode_rle
from deeplab_infer.serving.answers import MAX_REGIONS
from deeplab_infer.serving.schemas import ErrorBody, ModelInfo, PolygonAnswer, RleAnswer, Summary

from ..networks import make_network
from .fakes import FakeModel, png, running


@pytest.fixture(scope="module")
def network():
    return make_network()


@pytest.fixture(scope="module")
def client(network):
    with running(Segmenter(network, backend="torch", threads=1), latency_s=0) as (client, _):
        yield client


@pytest.fixture(scope="module")
def segmenter(network):
    with Segmenter(network, backend="torch", threads=1) as segmenter:
        yield segmenter


@pytest.fixture(scope="module")
def picture():
    return png(40, 56)


@pytest.fixture(scope="module")
def expected(segmenter, picture):
    return segmenter.predict(picture, scores=True)


def pixels(content):
    return np.asarray(Image.open(io.BytesIO(content)))


def test_labels(client, picture, expected):
    status, headers, content = client.post(picture)
    assert (status, headers["content-type"]) == (200, "image/png")
    assert np.array_equal(pixels(content), expected.labels)
    stages = [part.split(";")[0].strip() for part in headers["server-timing"].split(",")]
    assert stages == ["upload", "decode", "queue", "inference", "encode"]
    assert client.post(picture, "?format=png")[2] == content == expected.encode(".png", "labels")


def test_overlay(client, picture, expected):
    assert np.array_equal(pixels(client.post(picture, "?format=overlay")[2]), expected.plot())
    assert np.array_equal(pixels(client.post(picture, "?format=overlay&alpha=0.25")[2]), expected.plot(0.25))


def test_json(client, picture, expected):
    found = client.post_json(picture, "?format=json")
    Summary.model_validate(found)
    summary = expected.to_dict()
    assert (found["height"], found["width"], found["areas"]) == (40, 56, summary["areas"])
    assert list(found["areas"]) == list(summary["areas"]), "the largest first"
    assert not {"path", "mask_png", "mean_score"} & set(found)
    found = client.post_json(picture, "?format=json&scores=true&mask=true&classes=car&classes=sky")
    assert found["mean_score"] == pytest.approx(summary["mean_score"], abs=2e-6)
    assert found["areas"] == {name: round(expected.areas()[name], 6) for name in ("car", "sky")}
    assert np.array_equal(pixels(base64.b64decode(found["mask_png"])), expected.labels)


def test_rle(client, picture, expected):
    found = client.post_json(picture, "?format=rle")
    RleAnswer.model_validate(found)
    present = [name for name, area in expected.areas().items() if area]
    assert list(found["classes"]) == present
    for name, rle in found["classes"].items():
        assert np.array_equal(decode_rle(rle), expected.mask(name))
    assert list(client.post_json(picture, "?format=rle&classes=sign")["classes"]) == ["sign"], "present or not"


def test_polygons(client, picture, expected):
    found = client.post_json(picture, "?format=polygons")
    PolygonAnswer.model_validate(found)
    assert found["classes"] == {n: expected.polygons(n, 16) for n, area in expected.areas().items() if area}
    found = client.post_json(picture, "?format=polygons&min_area=0&classes=sky")
    assert found["classes"] == {"sky": expected.polygons("sky")}


def form(parts, boundary="b0undary"):
    lines = b""
    for name, content in parts:
        lines += f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; filename="x.png"\r\n\r\n'.encode()
        lines += content + b"\r\n"
    return lines + f"--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"


def test_forms(client, picture, expected):
    body, kind = form([("other", b"1"), ("file", picture)])
    assert np.array_equal(pixels(client.post(body, content_type=kind)[2]), expected.labels)
    for parts, message in (
        ([("image", picture)], "0 parts called 'file'"),
        ([("file", picture)] * 2, "2 parts called 'file'"),
        ([("file", b"")], "is empty (0 bytes)"),
        ([], "0 parts"),
    ):
        body, kind = form(parts)
        status, error = client.error(body, content_type=kind)
        assert status == 400
        assert message in error
    body, kind = form([("file", picture)])
    assert client.error(body[:-30], content_type=kind) == (400, "the form has no whole part called 'file', not one")
    assert client.error(body, content_type="multipart/form-data")[0] == 400
    assert client.error(b"\r\nrubbish", content_type=kind)[0] == 400


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "BMP", "TIFF", "PPM"])
def test_other_formats_of_images(client, segmenter, kind):
    body = png(9, 11, kind=kind)
    labels = segmenter.predict(body).labels
    assert np.array_equal(pixels(client.post(body, content_type="application/octet-stream")[2]), labels)


def test_a_turned_photo_is_upright(client):
    image, buffer = Image.new("RGB", (8, 4)), io.BytesIO()
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(buffer, "JPEG", exif=exif)
    assert pixels(client.post(buffer.getvalue())[2]).shape == (8, 4)


def test_the_model(client, network):
    status, _, content = client.get("/v1/model")
    found = ModelInfo.model_validate_json(content)
    assert status == 200
    assert [one.name for one in found.classes] == list(network.config.classes)
    assert [tuple(one.color) for one in found.classes] == list(network.config.palette)
    assert (found.name, found.version, found.run["backend"]) == (network.config.name, __version__, "torch")
    assert found.limits.max_pixels == 1 << 24
    assert found.manifest["output_kind"] == "logits"


def test_probes_and_the_page(client):
    assert json.loads(client.get("/healthz")[2]) == {"status": "ok"}
    assert json.loads(client.get("/readyz")[2]) == {"status": "ready"}
    for path, start in (("/", b"<!DOCTYPE html>"), ("/page.css", b"/* SPDX"), ("/page.js", b"// SPDX")):
        status, headers, content = client.get(path)
        assert status == 200
        assert content.startswith(start)
        assert "default-src 'self'" in headers["content-security-policy"]
        assert b"https://" not in content, "the page loads nothing from elsewhere"


def test_paths_and_methods_that_do_not_exist(client):
    status, _, content = client.get("/nowhere%0a")
    assert status == 404
    ErrorBody.model_validate_json(content)
    status, headers, _ = client.request("DELETE", "/v1/segment")
    assert (status, headers["allow"]) == (405, "POST")


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("?format=gif", "parameter 'format': input should be 'png', 'overlay'"),
        ("?fromat=png", "parameter 'fromat'"),
        ("?alpha=0.5", "format=png takes no parameter 'alpha'"),
        ("?format=overlay&alpha=1.5", "parameter 'alpha'"),
        ("?format=overlay&classes=car", "takes no parameter 'classes'"),
        ("?format=json&classes=caar", "no class 'caar'; did you mean 'car'?"),
        ("?format=polygons&min_area=-1", "parameter 'min_area'"),
    ],
)
def test_wrong_parameters(client, picture, query, message):
    status, error = client.error(picture, query)
    assert status == 422
    assert message in error


def test_metrics(client, picture):
    before = client.metric('deeplab_requests_total{method="POST",path="/v1/segment",status="200"}')
    client.post(picture)
    assert client.metric('deeplab_requests_total{method="POST",path="/v1/segment",status="200"}') == before + 1
    for stage in ("upload", "decode", "queue", "inference", "encode"):
        assert client.metric(f'deeplab_stage_seconds_count{{stage="{stage}"}}') >= before + 1
    assert client.metric("deeplab_batch_images_count") >= 1
    assert client.metric("deeplab_pixels_total") >= 40 * 56
    assert client.metric('deeplab_rejected_total{reason="parameter"}') >= 0
    assert client.metric("deeplab_requests_held_max") == 16


def test_a_model_without_scores():
    with running(FakeModel(output_kind="labels")) as (client, _):
        assert client.error(png(), "?format=json&scores=1") == (409, "the model has no scores")


def test_labels_of_noise_are_not_outlined_without_end():
    side = 2 * int(MAX_REGIONS**0.5) + 8
    noise = np.zeros((side, side, 3), np.uint8)
    noise[::2, ::2] = 1  # a class of more isolated pixels than are outlined
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG")
    with running(FakeModel()) as (client, _):
        status, error = client.error(buffer.getvalue(), "?format=polygons&min_area=0")
        assert (status, error) == (422, "the labels have more than 20,000 regions of at least 0 pixels")
        assert client.post(buffer.getvalue(), "?format=polygons")[0] == 200


def test_labels_without_areas_are_given_as_a_picture_only():
    noise = png(800, 800)
    with running(FakeModel()) as (client, _):
        for query in ("?format=rle", "?format=polygons&classes=car"):
            status, error = client.error(noise, query)
            assert status == 422
            assert "times between pixels, more than the limit of 1,000,000" in error
        assert client.post(noise)[0] == 200
