# SPDX-License-Identifier: Apache-2.0
"""Runs every CUDA kernel once on small arrays: what compute-sanitizer watches (`scripts/gpu_check.sh`)."""

from __future__ import annotations

import itertools
import sys

import torch

from deeplab_infer.ops import tensors

# Channels and widths that are multiples of the widest vector, of a pair, and of nothing.
SIZES = ((16, 24), (6, 10), (5, 7))
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
FORMATS = (torch.contiguous_format, torch.channels_last)
# Rates that are multiples of 8, 4, 2, 1 pick a kernel each; 40 lies beyond the image.
RATES = ((1,), (8,), (4, 12), (2, 6), (3, 40))


def leaf(
    *shape: int, dtype: torch.dtype = torch.float32, memory_format: torch.memory_format | None = None
) -> torch.Tensor:
    x = torch.randn(*shape, device="cuda").to(dtype)
    return (x if memory_format is None else x.contiguous(memory_format=memory_format)).requires_grad_()


def run(dtype: torch.dtype, memory_format: torch.memory_format, channels: int, width: int) -> None:
    x = leaf(2, channels, 9, width, dtype=dtype, memory_format=memory_format)
    for rates in RATES:
        count = len(rates)
        weight, a, b = leaf(count, channels, 3, 3), leaf(count, channels), leaf(count, channels)
        tensors.aspp_depthwise(x, weight, a, b, rates, "relu").float().sum().backward()
        tensors.depthwise_training(x, weight, a, b, 1e-5, rates)[0].float().sum().backward()
    for k, stride in ((3, 2), (5, 1), (7, 2)):
        with torch.no_grad():
            tensors.depthwise_conv_bn_relu(x, leaf(channels, 1, k, k), a[0], b[0], stride, 2, "relu6")
    low = leaf(2, 8, 17, 2 * width, dtype=dtype, memory_format=memory_format)
    kernels, c, d = leaf(channels + 8, 1, 3, 3), leaf(channels + 8), leaf(channels + 8)
    tensors.upsample_concat(x, low, False).float().sum().backward()
    tensors.upsample_concat_depthwise(x, low, kernels, c, d, True).float().sum().backward()
    for via in (None, (20, 30)):
        tensors.upsample_argmax(x, (37, 41), False, via)
    windows = torch.randn(6, channels, 9, width, device="cuda").to(dtype).contiguous(memory_format=memory_format)
    tensors.merge_windows(windows, (40, 50), (30, 20), (20, 15), False)
    pixels = torch.randint(0, 256, (2, 13, 11, 3), dtype=torch.uint8, device="cuda")
    for size in (None, (20, 9)):
        tensors.preprocess(pixels, (1.0,) * 3, (2.0,) * 3, size=size, dtype=dtype)


def main() -> int:
    for dtype, memory_format, (channels, width) in itertools.product(DTYPES, FORMATS, SIZES):
        run(dtype, memory_format, channels, width)
    torch.cuda.synchronize()
    print("every kernel ran")
    return 0


if __name__ == "__main__":
    sys.exit(main())
