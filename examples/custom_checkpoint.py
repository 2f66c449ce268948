# SPDX-License-Identifier: Apache-2.0
"""Your checkpoint to a verified ONNX file that carries your class names.

    python examples/custom_checkpoint.py my_model.pth --config my_config.py --classes classes.txt -o mine.onnx

The origin (mmsegmentation, torchvision, segmentation_models_pytorch, `deeplab-train`) is recognised from the tensors.
--config is needed where neither the file nor its origin says how the network was built.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from deeplab_export import export_onnx, verify

from deeplab_infer import checkpoints, load_config
from deeplab_infer.configs import generic_dataset
from deeplab_infer.errors import DeepLabError


def main() -> int:
    """Exit code 1 where the file misses the thresholds of its precision."""
    parser = argparse.ArgumentParser(description="export a checkpoint of your own")
    parser.add_argument("checkpoint")
    parser.add_argument("--config", help="a name, a .yaml, or mmsegmentation's .py (read, never run)")
    parser.add_argument("--classes", type=Path, help="one class name a line, in the order of their numbers")
    parser.add_argument("--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help="fix the size (default: open)")
    parser.add_argument("--fp16", action="store_true")
    parser.add_argument("-o", "--output", default="mine.onnx")
    arguments = parser.parse_args()
    try:
        config = None if arguments.config is None else load_config(arguments.config)
        model = checkpoints.load(arguments.checkpoint, config)
        if arguments.classes is not None:
            lines = arguments.classes.read_text(encoding="utf-8").splitlines()
            names = tuple(line.strip() for line in lines if line.strip())
            # The weights stay; names and colours are what changes. Another number of names is refused.
            dataset = generic_dataset(model.config.num_classes, names)
            model = checkpoints.with_config(model, model.config.replace(dataset=dataset))
        sizes = {} if arguments.size is None else dict(zip(("height", "width"), arguments.size, strict=True))
        export_onnx(model, arguments.output, precision="fp16" if arguments.fp16 else "fp32", **sizes)
        report = verify(model, arguments.output)
    except DeepLabError as error:
        print(error)
        return 2
    for case in report.cases:
        verdict = "; ".join(report.reasons(case)) or "passed"
        print(f"{case.runtime}, {case.image}: {case.agreement:.4%} of the labels are the same ({verdict})")
    print(f"{arguments.output}: {', '.join(model.config.classes)}")
    return 0 if report.passed else 1


if __name__ == "__main__":
    raise SystemExit(main())
