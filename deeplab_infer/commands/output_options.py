# SPDX-License-Identifier: Apache-2.0
"""Options of what is written, the same in every command that segments many images."""

from __future__ import annotations

import argparse

from ..outputs.options import COCO, UNITS, OutputOptions


def add_output_options(parser: argparse.ArgumentParser) -> None:
    """Add the groups of options that `output_options` reads."""
    out = parser.add_argument_group("what to write (docs/outputs.md)")
    out.add_argument("--no-mask", action="store_true", help="no label PNGs")
    out.add_argument(
        "--overlay", action="store_true", help="also NAME_overlay.png: colours over the image, with a legend"
    )
    out.add_argument("--npz", action="store_true", help="also NAME.npz with labels and scores")
    out.add_argument("--json", action="store_true", help="also results.jsonl")
    out.add_argument("--coco", choices=COCO, help="also coco.json: every image as run lengths or as polygons")
    out.add_argument(
        "--coco-per",
        choices=UNITS,
        help="what an annotation of coco.json is (default: a class as rle, a connected region as polygons)",
    )
    out.add_argument("--labelme", action="store_true", help="also NAME.json for labelme: a polygon a region")
    out.add_argument("--cvat", action="store_true", help='also cvat.xml ("CVAT for images 1.1"): masks for CVAT')
    out.add_argument(
        "--geotiff", action="store_true", help="also NAME.tif with the georeference of the input (needs rasterio)"
    )
    out.add_argument("--alpha", type=float, default=0.55, help="opacity of the overlay, 0..1 (default: 0.55)")
    which = parser.add_argument_group("which pixels keep their class; the others are 255 in masks")
    which.add_argument("--classes", nargs="+", metavar="NAME", help="only these classes (default: all)")
    which.add_argument(
        "--threshold", type=float, metavar="P", help="only pixels whose softmax probability is at least P, 0..1"
    )
    which.add_argument(
        "--min-area",
        type=float,
        default=0.0,
        metavar="PIXELS",
        help="leave smaller regions out of --coco (per region), --labelme and --cvat, and fill smaller holes of "
        "polygons (default: 0)",
    )
    which.add_argument(
        "--tolerance",
        type=float,
        default=0.0,
        metavar="PIXELS",
        help="how far a polygon may leave its region, for fewer points (default: 0, exact)",
    )


def output_options(arguments: argparse.Namespace) -> OutputOptions:
    """Those options as `Outputs` takes them."""
    return OutputOptions(
        masks=not arguments.no_mask,
        overlay=arguments.overlay,
        npz=arguments.npz,
        json=arguments.json,
        alpha=arguments.alpha,
        coco=arguments.coco,
        coco_per=arguments.coco_per,
        labelme=arguments.labelme,
        cvat=arguments.cvat,
        geotiff=arguments.geotiff,
        classes=None if arguments.classes is None else tuple(arguments.classes),
        threshold=arguments.threshold,
        min_area=arguments.min_area,
        tolerance=arguments.tolerance,
    )
