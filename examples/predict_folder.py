# SPDX-License-Identifier: Apache-2.0
"""A folder of pictures to masks, overlays and a table of class areas.

    python examples/predict_folder.py model.onnx photos -o predictions

`deeplab-predict` does the same with more options; this is how to do it in a program of your own.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

from deeplab_infer import Segmenter
from deeplab_infer.errors import DeepLabError, ImageError
from deeplab_infer.images import list_images


def main() -> int:
    """Exit code 1 where a picture could not be read, 2 where nothing could be done."""
    parser = argparse.ArgumentParser(description="segment a folder of pictures")
    parser.add_argument("model", help="an exported .onnx, .xml or .engine")
    parser.add_argument("folder", help="pictures; sub-folders are read too")
    parser.add_argument("-o", "--output", type=Path, default=Path("predictions"))
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    unreadable = 0
    try:
        pictures = list_images([arguments.folder], recursive=True)
        with Segmenter(arguments.model) as segmenter, open(arguments.output / "areas.csv", "w", newline="") as stream:
            table = csv.writer(stream)
            table.writerow(["picture", *segmenter.classes])
            for path in pictures:
                try:
                    result = segmenter.predict(path)
                except ImageError as error:
                    print(f"passed over: {error}")
                    unreadable += 1
                    continue
                # The suffix stays in the name: a.png and a.jpg are two pictures.
                result.save(arguments.output / f"{path.name}.mask.png")
                result.save(arguments.output / f"{path.name}.overlay.jpg")
                table.writerow([path, *(f"{share:.4f}" for share in result.areas().values())])
                print(result)
    except DeepLabError as error:
        print(error)
        return 2
    return 1 if unreadable else 0


if __name__ == "__main__":
    raise SystemExit(main())
