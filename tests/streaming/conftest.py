# SPDX-License-Identifier: Apache-2.0
"""What the tests of streams share."""

import pytest

from ..runtime.cheap_runner import CheapRunner, open_cheap

pytest.importorskip("av", reason="videos need PyAV: pip install 'deeplab-infer[video]'")


@pytest.fixture
def runner():
    return CheapRunner()


@pytest.fixture
def segmenter(monkeypatch, runner):
    """A segmenter whose network is a few sums."""
    with open_cheap(monkeypatch, runner, mode="whole") as opened:
        yield opened
