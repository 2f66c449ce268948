# SPDX-License-Identifier: Apache-2.0
"""One exported file on every runtime that is installed: are the labels the same, and how long does a picture take?

    python examples/compare_backends.py model.onnx street.png

Runtimes run one after the other in one process, so the times are for orientation; `deeplab-bench run` measures each in
a process of its own.
"""

from __future__ import annotations

import argparse
from statistics import median

from deeplab_infer import Segmenter
from deeplab_infer.errors import DeepLabError
from deeplab_infer.images import read_image
from deeplab_infer.runtime.opening import backends_for


def main() -> int:
    """Exit code 1 where labels of two runtimes differ on more pixels than --tolerate allows."""
    parser = argparse.ArgumentParser(description="compare the runtimes of one file")
    parser.add_argument("model", help="an exported .onnx file")
    parser.add_argument("picture")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--tolerate", type=float, default=0.001, help="share of pixels (default: 0.001)")
    arguments = parser.parse_args()
    try:
        image = read_image(arguments.picture)
    except DeepLabError as error:
        print(error)
        return 2
    first, worst = None, 0.0
    for backend in backends_for(arguments.model):
        try:
            with Segmenter(arguments.model, backend=backend) as segmenter:
                labels = segmenter.predict(image).labels  # not timed: memory is planned when a size first comes
                runs = [sum(segmenter.predict(image).timings_ms.values()) for _ in range(arguments.runs)]
        except DeepLabError as error:
            print(f"{backend}: {error}")
            continue
        first = labels if first is None else first
        differing = float((labels != first).mean())
        worst = max(worst, differing)
        print(f"{backend}: {median(runs):.1f} ms, labels differ from the first on {differing:.4%} of the pixels")
    if first is None:
        print("no installed runtime could run this file")
        return 2
    return 1 if worst > arguments.tolerate else 0


if __name__ == "__main__":
    raise SystemExit(main())
