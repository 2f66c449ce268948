# SPDX-License-Identifier: Apache-2.0
"""What goes in and out as JSON, with examples that the OpenAPI description shows."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

FORMAT_NAMES = Literal["png", "overlay", "json", "rle", "polygons"]
_SIZE: dict[str, Any] = {"height": 512, "width": 1024}


def _example(**values: Any) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": [values]})


class SegmentQuery(BaseModel):
    """Parameters of a segmentation. One that the chosen format does not take is refused."""

    model_config = ConfigDict(extra="forbid")

    format: FORMAT_NAMES = Field(
        "png",
        description="`png`: class indices as a PNG with the palette (16-bit grey beyond 256 classes). `overlay`: PNG "
        "of the image under the colours, with a legend. `json`: areas and timings. `rle`: COCO's compressed run "
        "lengths of each class. `polygons`: outlines of each class.",
    )
    classes: list[str] | None = Field(
        None, description="Only these classes (repeat the parameter); default: those present. For `json`, `rle`, "
        "`polygons`.", max_length=1024,
    )  # fmt: skip
    alpha: float | None = Field(None, ge=0, le=1, description="Opacity of the colours (default 0.55). For `overlay`.")
    min_area: float | None = Field(
        None, ge=0, le=1e9, description="Smallest region in pixels (default 16). For `polygons`."
    )
    mask: bool | None = Field(None, description="Add `mask_png`, the labels in colours, as base64. For `json`.")
    scores: bool | None = Field(None, description="Add `mean_score`. For `json`; the model must have scores.")


class ErrorBody(BaseModel):
    """What every error looks like."""

    model_config = _example(error="the body is empty (0 bytes)", hint="send an image: curl -F file=@street.png")

    error: str = Field(description="What was wrong and what came, in a sentence.")
    hint: str = Field(description="What to do.")


class Status(BaseModel):
    """An answer to a probe."""

    model_config = _example(status="ok")

    status: Literal["ok", "ready"]


class Summary(BaseModel):
    """Of `format=json`."""

    model_config = _example(
        **_SIZE,
        areas={"road": 0.384216, "building": 0.301544, "sky": 0.31424},
        timings_ms={"preprocess": 1.52, "inference": 88.1, "postprocess": 3.97},
        metadata={"config": "deeplabv3plus_mobilenetv2_streets", "backend": "onnxruntime", "device": "cpu"},
    )

    height: int = Field(ge=1)
    width: int = Field(ge=1)
    areas: dict[str, float] = Field(description="Share of the image, 0..1, of each class, the largest first.")
    timings_ms: dict[str, float] = Field(description="Milliseconds; of a batch: this image's share.")
    metadata: dict[str, Any] = Field(description="Config, backend, device, precision, sizes.")
    mean_score: float | None = Field(None, description="Mean probability of the pixels' classes, 0..1.")
    mask_png: str | None = Field(None, description="PNG of the labels in the palette's colours, base64.")


class RunLengths(BaseModel):
    """One class as COCO's compressed run lengths."""

    size: list[int] = Field(description="[height, width]", min_length=2, max_length=2)
    counts: str


class RleAnswer(BaseModel):
    """Of `format=rle`."""

    model_config = _example(height=4, width=6, classes={"road": {"size": [4, 6], "counts": "0h0"}})

    height: int = Field(ge=1)
    width: int = Field(ge=1)
    classes: dict[str, RunLengths]


class Region(BaseModel):
    """A connected part of a class; points are pixel centres, (0, 0) the top left one."""

    outline: list[list[int]]
    holes: list[list[list[int]]]
    area: int = Field(description="Pixels.")


class PolygonAnswer(BaseModel):
    """Of `format=polygons`."""

    model_config = _example(
        height=4, width=6,
        classes={"road": [{"outline": [[0, 2], [0, 3], [5, 3], [5, 2]], "holes": [], "area": 12}]},
    )  # fmt: skip

    height: int = Field(ge=1)
    width: int = Field(ge=1)
    classes: dict[str, list[Region]]


class ClassInfo(BaseModel):
    """A class; its index is its label."""

    index: int
    name: str
    color: list[int] = Field(description="RGB, 0..255", min_length=3, max_length=3)


class Limits(BaseModel):
    """What the server takes."""

    max_body_bytes: int
    max_pixels: int
    requests_held: int
    batch: int
    latency_ms: float
    timeout_s: float
    formats: list[str] = Field(description="Formats of images that are read.")


class ModelInfo(BaseModel):
    """The model behind the server."""

    model_config = _example(
        name="deeplabv3plus_mobilenetv2_streets",
        version="0.1.0",
        classes=[{"index": 0, "name": "road", "color": [128, 64, 128]}],
        run={"backend": "onnxruntime", "device": "cpu", "precision": "fp32", "mode": "whole"},
        manifest={"precision": "fp32", "output_kind": "logits", "batch": [1, 1, 8]},
        limits={
            "max_body_bytes": 33554432, "max_pixels": 16777216, "requests_held": 16, "batch": 8, "latency_ms": 5,
            "timeout_s": 30, "formats": ["PNG", "JPEG"],
        },
    )  # fmt: skip

    name: str
    version: str = Field(description="Of deeplab-infer.")
    classes: list[ClassInfo]
    run: dict[str, Any] = Field(description="Backend, device, precision, mode.")
    manifest: dict[str, Any] = Field(description="What the exported file promises, and where its weights are from.")
    limits: Limits
