# SPDX-License-Identifier: Apache-2.0
"""Importing the peers beside any build of torch: what their missing compiled parts need."""

from __future__ import annotations

import contextlib
import functools
import sys
import types
from typing import Any

_EXTENSION = "mmcv._ext"


@functools.cache
def import_torchvision() -> Any:
    """torchvision, also beside a CPU build of torch.

    Its wheels are CUDA builds whose operators do not load there; the Python part imports once two are declared.
    """
    import torch

    try:
        import torchvision
    except RuntimeError:
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        _declared_operators()
        import torchvision
    assert torch  # torchvision's operators need torch's library loaded first
    return torchvision


@functools.cache
def _declared_operators() -> Any:
    """Kept by the cache: the declarations live as long as this object."""
    import torch

    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


@functools.cache
def import_smp() -> Any:
    """segmentation_models_pytorch, which imports torchvision through timm."""
    import_torchvision()
    import segmentation_models_pytorch

    return segmentation_models_pytorch


@functools.cache
def import_mmseg_models() -> Any:
    """Models of mmsegmentation, registered, without mmcv's compiled operators: no DeepLab calls one."""
    with contextlib.suppress(ImportError):  # mmcv imports it where it is installed, and does without elsewhere
        import_torchvision()
    stub = types.ModuleType(_EXTENSION)
    stub.__getattr__ = _missing_operator  # type: ignore[method-assign]
    sys.modules[_EXTENSION] = stub
    try:
        import mmseg.models
        from mmengine.registry import init_default_scope
    finally:
        # mmengine asks later whether the extension is there, and must see that it is not.
        del sys.modules[_EXTENSION]
    init_default_scope("mmseg")
    return mmseg.models


def _missing_operator(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)

    def call(*_: Any, **__: Any) -> Any:
        raise RuntimeError(f"{_EXTENSION}.{name} is not compiled")

    return call
