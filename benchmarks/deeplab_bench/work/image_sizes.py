# SPDX-License-Identifier: Apache-2.0
"""Size (height, width) of a typical image of each dataset, which the published table's figures are for."""

IMAGE_SIZES: dict[str, tuple[int, int]] = {
    "cityscapes": (1024, 2048),
    "ade20k": (512, 683),
    "voc12aug": (375, 500),
    "pascal_context": (375, 500),
    "pascal_context_59": (375, 500),
    "loveda": (1024, 1024),
    "potsdam": (512, 512),
}
