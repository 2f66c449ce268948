# SPDX-License-Identifier: Apache-2.0
"""Streams: folders, videos and cameras through a model, with reading, inference and writing overlapped."""

from .items import Failure
from .live import Reconnect
from .stream import Stream, StreamOptions

__all__ = ["Failure", "Reconnect", "Stream", "StreamOptions"]
