# SPDX-License-Identifier: Apache-2.0
"""deeplab-infer: DeepLabV3 and DeepLabV3+ from a PyTorch checkpoint to production.

>>> from deeplab_infer import Segmenter
>>> result = Segmenter("model.onnx").predict("street.png")
>>> result.labels.shape, result.areas()["road"]

Importing this package is light: torch and the runtimes are imported when they are first needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["ModelConfig", "Segmentation", "Segmenter", "__version__", "build_model", "fuse", "load_config"]

if TYPE_CHECKING:
    from .configs import ModelConfig, load_config
    from .models import build_model
    from .optimize import fuse
    from .segmentation import Segmentation
    from .segmenter import Segmenter

_HOMES = {
    "ModelConfig": "configs",
    "load_config": "configs",
    "build_model": "models",
    "fuse": "optimize",
    "Segmentation": "segmentation",
    "Segmenter": "segmenter",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
