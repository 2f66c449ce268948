# SPDX-License-Identifier: Apache-2.0
"""Pixels that are on the GPU already, and labels that stay there. Needs an NVIDIA GPU; not run on one yet.

    deeplab-export --config deeplabv3plus_mobilenetv2_streets --fp16 --height 512 --width 1024 -o exported
    python examples/gpu_arrays.py exported/deeplabv3plus_mobilenetv2_streets_fp16.engine street.png

With torch; CuPy, Numba and PyCUDA arrays go in and out in the same way, by ``__cuda_array_interface__``.
"""

from __future__ import annotations

import argparse

import torch

from deeplab_infer import Segmenter
from deeplab_infer.images import read_image


def main() -> int:
    """Areas of the classes, computed on the GPU; exit code 2 without one."""
    parser = argparse.ArgumentParser(description="segment an array on the GPU")
    parser.add_argument("engine")
    parser.add_argument("picture")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("this example needs an NVIDIA GPU that torch can use")
        return 2
    pixels = torch.from_numpy(read_image(arguments.picture)).cuda()  # uint8 [H, W, 3] RGB: a decoder's output, say
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with Segmenter(arguments.engine) as segmenter, torch.cuda.stream(stream):
        labels = segmenter.predict_gpu(pixels)  # used in place; enqueued, nothing waits
        counts = torch.bincount(torch.as_tensor(labels, device="cuda").flatten(), minlength=len(segmenter.classes))
        for name, share in zip(segmenter.classes, (counts / counts.sum()).tolist(), strict=True):
            print(f"{name}: {share:.1%}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
