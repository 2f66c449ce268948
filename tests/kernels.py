# SPDX-License-Identifier: Apache-2.0
"""How the operators are run in tests: on every instruction set, thread by thread as the GPU would, and on a GPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from deeplab_infer import _C

GUARD = 64  # elements before and after every output, which nothing may touch
DTYPES = ("float32", "float16", "bfloat16", "float64")
LAYOUTS = ("nchw", "nhwc")


def modes() -> list[Any]:
    """``cpu-<instruction set>``, ``emulated`` where the build has CUDA kernels, ``gpu`` (skipped without one)."""
    found: list[Any] = [f"cpu-{name}" for name in _C.build_info()["instruction_sets"]]
    emulated = pytest.mark.skipif(not _C.build_info()["cuda"], reason="this build has no CUDA kernels (no nvcc)")
    found.append(pytest.param("emulated", marks=emulated))
    found.append(pytest.param("gpu", marks=pytest.mark.gpu))
    return found


def skip_unless_supported(mode: str, dtype: str) -> None:
    if dtype == "float64" and not mode.startswith("cpu"):
        pytest.skip("float64 is for the CPU")


def options(mode: str) -> dict[str, Any]:
    """Arguments of ``_C`` functions that choose where they run."""
    if mode == "gpu":
        return {"stream": torch.cuda.current_stream().cuda_stream}
    if mode == "emulated":
        return {"emulate": True, "threads": 2}
    return {"instruction_set": mode.removeprefix("cpu-"), "threads": 2}


class Bench:
    """Makes inputs and guarded outputs for one mode, dtype and layout."""

    def __init__(self, mode: str, dtype: str, layout: str, seed: int = 0) -> None:
        self.mode, self.dtype, self.layout = mode, getattr(torch, dtype), layout
        self.parameters = torch.float64 if dtype == "float64" else torch.float32
        self.device = "cuda" if mode == "gpu" else "cpu"
        self.rng = np.random.default_rng(seed)
        self.buffers: list[torch.Tensor] = []

    def _laid_out(self, shape: tuple[int, ...], buffer: torch.Tensor) -> torch.Tensor:
        if self.layout == "nchw" or len(shape) < 4:
            return buffer.view(shape)
        *lead, channels, height, width = shape
        return buffer.view(*lead, height, width, channels).movedim(-1, -3)

    def image(self, *shape: int) -> torch.Tensor:
        """Random values in the layout, exact in the dtype."""
        values = torch.from_numpy(self.rng.standard_normal(shape)).to(self.dtype)
        made = self._laid_out(shape, torch.empty(values.numel(), dtype=self.dtype))
        made.copy_(values)
        return made.to(self.device)

    def parameter(self, *shape: int) -> torch.Tensor:
        return torch.from_numpy(self.rng.standard_normal(shape)).to(self.parameters).to(self.device)

    def output(self, *shape: int, dtype: torch.dtype | None = None, flat: bool = False) -> torch.Tensor:
        """Full of NaN, between guards. ``flat``: parameters, which have no layout."""
        dtype = dtype or self.dtype
        count = int(np.prod(shape))
        buffer = torch.full((count + 2 * GUARD,), float("nan"), dtype=dtype, device=self.device)
        buffer[:GUARD] = buffer[GUARD + count :] = 77
        self.buffers.append(buffer)
        inner = buffer[GUARD : GUARD + count]
        return inner.view(shape) if flat else self._laid_out(shape, inner)

    def check_guards(self) -> None:
        for buffer in self.buffers:
            assert (buffer[:GUARD] == 77).all(), "written before the output's beginning"
            assert (buffer[-GUARD:] == 77).all(), "written past the output's end"


def f64(x: torch.Tensor) -> np.ndarray:
    return x.detach().cpu().double().numpy()
