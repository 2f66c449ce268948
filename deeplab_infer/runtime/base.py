# SPDX-License-Identifier: Apache-2.0
"""What every backend offers, and what it refuses."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import BackendError
from ..manifest import Manifest

# The precision that a CPU runs fastest of those it computes in by itself: bf16 where it has it, else float32.
FASTEST = "fastest"


class Runner(Protocol):
    """A loaded network on one backend. ``run`` may be called from several threads at once.

    Attributes:
        name: backend, e.g. ``"onnxruntime"``.
        device: where it runs, e.g. ``"cpu"``, ``"cuda:0"``.
        manifest: what the model promises.
    """

    name: str
    device: str
    manifest: Manifest

    def run(self, batch: NDArray[Any]) -> NDArray[Any]:
        """One batch through the network.

        Args:
            batch: as ``manifest.input_kind`` says: uint8 [N, H, W, 3] RGB or float32 [N, 3, H, W].

        Returns:
            As ``manifest.output_kind`` says: logits float32 [N, C, h, w] or labels [N, H, W].
        """
        ...

    def close(self) -> None:
        """Free what the backend holds."""
        ...


def check_batch(batch: NDArray[Any], manifest: Manifest) -> None:
    """Refuse what the model does not accept, before a backend sees it.

    Raises:
        BackendError: dtype, layout or a size outside the model's limits.
    """
    wanted = np.uint8 if manifest.input_kind == "uint8" else np.float32
    layout = "[N, H, W, 3]" if manifest.input_kind == "uint8" else "[N, 3, H, W]"
    channels = 3 if manifest.input_kind == "uint8" else 1
    if batch.dtype != wanted or batch.ndim != 4 or batch.shape[channels] != 3:
        raise BackendError(f"the model needs {np.dtype(wanted).name} {layout}, got {batch.dtype} {list(batch.shape)}")
    sizes = (batch.shape[0], *(batch.shape[1:3] if channels == 3 else batch.shape[2:4]))
    for name, size in zip(("batch", "height", "width"), sizes, strict=True):
        low, _, high = getattr(manifest, name)
        if not low <= size <= high:
            raise BackendError(
                f"{name} {size} is outside what the model was exported for ({low}..{high}); "
                f"export again with --{name} {min(low, size)}:{size}:{max(high, size)}"
            )
