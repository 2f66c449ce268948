# SPDX-License-Identifier: Apache-2.0
"""What a server counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import generate_latest

CONTENT_TYPE = CONTENT_TYPE_LATEST
STAGES = ("upload", "decode", "queue", "inference", "encode")
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """The metrics of one server; names are in docs/serving.md."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter(
            "deeplab_requests", "Answers by path, method and status", ("path", "method", "status"), registry=registry
        )
        self.seconds = Histogram(
            "deeplab_request_seconds", "From the headers to the last byte", ("path",), buckets=_SECONDS,
            registry=registry,
        )  # fmt: skip
        self.stages = Histogram(
            "deeplab_stage_seconds", "Parts of a segmentation; inference is that of its whole batch", ("stage",),
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self.batches = Histogram(
            "deeplab_batch_images", "Images that entered the network at once", buckets=(1, 2, 3, 4, 5, 6, 7, 8),
            registry=registry,
        )  # fmt: skip
        self.pixels = Counter("deeplab_pixels", "Pixels of images that were segmented", registry=registry)
        self.rejected = Counter("deeplab_rejected", "Refusals by reason", ("reason",), registry=registry)
        self.dropped = Counter("deeplab_dropped", "Requests whose client went away", registry=registry)
        self._depth = Gauge("deeplab_queue_images", "Decoded images that wait for the network", registry=registry)
        self._held = Gauge("deeplab_requests_held", "Requests that hold a place", registry=registry)
        self._places = Gauge("deeplab_requests_held_max", "Places there are (--queue)", registry=registry)
        for stage in STAGES:
            self.stages.labels(stage)

    def watch(self, depth: Callable[[], float], held: Callable[[], float], places: int) -> None:
        """Read these whenever the metrics are asked for."""
        self._depth.set_function(depth)
        self._held.set_function(held)
        self._places.set(places)

    def text(self) -> bytes:
        """In Prometheus's text format, of type `CONTENT_TYPE`."""
        return generate_latest(self._registry)
