# SPDX-License-Identifier: Apache-2.0
"""Tiny data sets on disk, in the folder trees of the real ones.

Each maker draws class maps first and writes what the real data set would store for them, and returns what it drew:
``{split: {image path below the data set: labels}}``, labels uint8 with 255 for ignored pixels.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from deeplab_infer.data.synthetic_streets import generate_street

Expected = dict[str, dict[str, np.ndarray]]
SIZE = (24, 32)
# (label id, train id) of Cityscapes, written out of its label table; 255: not evaluated.
CITYSCAPES_IDS = [
    (0, 255), (1, 255), (2, 255), (3, 255), (4, 255), (5, 255), (6, 255), (7, 0), (8, 1), (9, 255), (10, 255), (11, 2),
    (12, 3), (13, 4), (14, 255), (15, 255), (16, 255), (17, 5), (18, 255), (19, 6), (20, 7), (21, 8), (22, 9), (23, 10),
    (24, 11), (25, 12), (26, 13), (27, 14), (28, 15), (29, 255), (30, 255), (31, 16), (32, 17), (33, 18),
]  # fmt: skip


def draw_labels(rng: np.random.Generator, size: tuple[int, int], classes: int, ignored: bool = True) -> np.ndarray:
    """Blocks of 4 x 4 pixels; some are 255."""
    blocks = rng.integers(0, classes, (-(-size[0] // 4), -(-size[1] // 4)), dtype=np.uint8)
    if ignored:
        blocks[rng.random(blocks.shape) < 0.1] = 255
    return blocks.repeat(4, 0).repeat(4, 1)[: size[0], : size[1]].copy()


def draw_image(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    return rng.integers(0, 256, (*size, 3), dtype=np.uint8)


def write_image(path: Path, array: np.ndarray) -> None:
    """Grey or RGB, as the suffix says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def voc_colormap() -> list[tuple[int, int, int]]:
    """VOC's 256 colours: the bits of the index dealt out to red, green and blue, highest first."""
    colours = []
    for index in range(256):
        r = g = b = 0
        for place in range(8):
            bits = index >> (3 * place)
            r |= (bits & 1) << (7 - place)
            g |= (bits >> 1 & 1) << (7 - place)
            b |= (bits >> 2 & 1) << (7 - place)
        colours.append((r, g, b))
    return colours


def write_palettised(path: Path, indices: np.ndarray, colours: list[tuple[int, int, int]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(indices)
    picture.putpalette([value for colour in colours for value in colour])
    picture.save(path)


def make_cityscapes(
    root: Path,
    count: int = 3,
    size: tuple[int, int] = SIZE,
    rng: np.random.Generator | None = None,
    files: tuple[str, ...] = ("labelIds",),
) -> Expected:
    """``files``: which of labelIds and labelTrainIds are written; images go to two cities in turn."""
    rng = rng or np.random.default_rng(0)
    expected: Expected = {}
    for split, cities in (("train", ("aachen", "zurich")), ("val", ("lindau", "munster"))):
        expected[split] = {}
        for number in range(count):
            city = cities[number % 2]
            stem = f"{city}_{number:06d}_000019"
            ids = draw_labels(rng, size, 34, ignored=False)
            train_ids = np.zeros_like(ids)
            for label_id, train_id in CITYSCAPES_IDS:
                train_ids[ids == label_id] = train_id
            image = f"leftImg8bit/{split}/{city}/{stem}_leftImg8bit.png"
            write_image(root / image, draw_image(rng, size))
            for kind in files:
                stored = ids if kind == "labelIds" else train_ids
                write_image(root / f"gtFine/{split}/{city}/{stem}_gtFine_{kind}.png", stored)
            write_image(root / f"gtFine/{split}/{city}/{stem}_gtFine_instanceIds.png", ids)
            (root / f"gtFine/{split}/{city}/{stem}_gtFine_polygons.json").write_text("{}")
            expected[split][image] = train_ids
        expected[split] = dict(sorted(expected[split].items()))
    return expected


def make_zero_label(
    root: Path,
    classes: int,
    image: str,
    labels: str,
    folders: dict[str, str],
    count: int = 3,
    size: tuple[int, int] = SIZE,
    rng: np.random.Generator | None = None,
) -> Expected:
    """Files that store 0 for "ignored" and k + 1 for class k; templates with {split} and {stem}."""
    rng = rng or np.random.default_rng(0)
    expected: Expected = {}
    for split, folder in folders.items():
        expected[split] = {}
        for number in range(count):
            stem = f"item_{split}_{number:08d}"
            drawn = draw_labels(rng, size, classes)
            name = image.format(split=folder, stem=stem)
            write_image(root / name, draw_image(rng, size))
            stored = np.where(drawn == 255, 0, drawn + 1).astype(np.uint8)
            write_image(root / labels.format(split=folder, stem=stem), stored)
            expected[split][name] = drawn
    return expected


def make_ade20k(root: Path, **options: Any) -> Expected:
    folders = {"train": "training", "val": "validation"}
    return make_zero_label(root, 150, "images/{split}/{stem}.jpg", "annotations/{split}/{stem}.png", folders, **options)


def make_loveda(root: Path, native: bool = False, **options: Any) -> Expected:
    """``native``: as its archives unpack, in Rural and Urban."""
    if not native:
        folders = {"train": "train", "val": "val"}
        return make_zero_label(root, 7, "img_dir/{split}/{stem}.png", "ann_dir/{split}/{stem}.png", folders, **options)
    folders = {"train": "Train/Rural", "val": "Val/Urban"}
    return make_zero_label(root, 7, "{split}/images_png/{stem}.png", "{split}/masks_png/{stem}.png", folders, **options)


def make_potsdam(root: Path, **options: Any) -> Expected:
    folders = {"train": "train", "val": "val"}
    return make_zero_label(root, 6, "img_dir/{split}/{stem}.png", "ann_dir/{split}/{stem}.png", folders, **options)


def make_voc(
    root: Path, count: int = 3, size: tuple[int, int] = SIZE, rng: np.random.Generator | None = None
) -> dict[str, Expected]:
    """``{"VOC": {split: ...}, "Aug": {split: ...}}``: the two label folders hold different labels.

    SegmentationClassAug has all but the last of train, all of aug, and (as SBD does) those of val.
    """
    rng = rng or np.random.default_rng(0)
    expected: dict[str, Expected] = {"VOC": {}, "Aug": {}}
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for year, split in enumerate(("train", "aug", "val"), 2007):
        stems = [f"{year}_{number:06d}" for number in range(count)]
        (lists / f"{split}.txt").write_text("\n".join(stems) + "\n")
        expected["VOC"][split], expected["Aug"][split] = {}, {}
        for number, stem in enumerate(stems):
            name = f"JPEGImages/{stem}.jpg"
            write_image(root / name, draw_image(rng, size))
            for kind, folder in (("VOC", "SegmentationClass"), ("Aug", "SegmentationClassAug")):
                if (kind, split) == ("VOC", "aug") or (kind, split, number) == ("Aug", "train", count - 1):
                    continue
                labels = draw_labels(rng, size, 21)
                labels[0] = labels[:, 0] = 255
                write_palettised(root / folder / f"{stem}.png", labels, voc_colormap())
                expected[kind][split][name] = labels
    return expected


def make_pascal_context(
    root: Path, count: int = 3, size: tuple[int, int] = SIZE, rng: np.random.Generator | None = None
) -> Expected:
    """Labels of the 60-class reading: 0 is background."""
    rng = rng or np.random.default_rng(0)
    lists = root / "ImageSets" / "SegmentationContext"
    lists.mkdir(parents=True)
    expected: Expected = {}
    for year, split in enumerate(("train", "val"), 2008):
        stems = [f"{year}_{number:06d}" for number in range(count)]
        (lists / f"{split}.txt").write_text("\n".join(stems))
        expected[split] = {}
        for stem in stems:
            labels = draw_labels(rng, size, 60, ignored=False)
            write_image(root / f"JPEGImages/{stem}.jpg", draw_image(rng, size))
            write_palettised(root / f"SegmentationClassContext/{stem}.png", labels, voc_colormap())
            expected[split][f"JPEGImages/{stem}.jpg"] = labels
    return expected


def make_folder(
    root: Path,
    train: int = 6,
    val: int = 3,
    size: tuple[int, int] = SIZE,
    rng: np.random.Generator | None = None,
    *,
    classes: tuple[str, ...] = ("road", "traffic light", "sky"),
    colours: tuple[tuple[int, int, int], ...] | None = None,
    split: str = "folders",
    masks: str = "grey",
) -> Expected:
    """The plain folder format.

    ``split``: "folders" (images/train), "outer" (train/images), "lists" (train.txt) or "none".
    ``masks``: "grey", "palette" or "colours"; colours draw no ignored pixels.
    """
    rng = rng or np.random.default_rng(0)
    expected: Expected = {}
    shown = colours or tuple((40 * k, 255 - 30 * k, 7) for k in range(len(classes)))
    for part, count in (("train", train), ("val", val)):
        expected[part] = {}
        names = [f"{part}_{number:03d}" for number in range(count)]
        place = {"folders": f"{{}}/{part}", "outer": f"{part}/{{}}"}.get(split, "{}")
        for name in names:
            labels = draw_labels(rng, size, len(classes), ignored=masks != "colours")
            image = f"{place.format('images')}/{name}.png"
            write_image(root / image, draw_image(rng, size))
            mask = root / place.format("masks") / f"{name}.png"
            if masks == "grey":
                write_image(mask, labels)
            elif masks == "palette":
                write_palettised(mask, labels, [*shown, *[(1, 2, 3)] * (256 - len(shown))])
            else:
                write_image(mask, np.array(shown, np.uint8)[labels])
            expected[part][image] = labels
        if split == "lists":
            (root / f"{part}.txt").write_text("\n".join(names) + "\n")
    lines = [f"{name} {r} {g} {b}" for name, (r, g, b) in zip(classes, colours, strict=True)] if colours else classes
    (root / "classes.txt").write_text("# the classes\n" + "\n".join(lines) + "\n")
    return expected


def make_street_folder(root: Path, train: int = 8, val: int = 4, size: tuple[int, int] = (96, 128)) -> Expected:
    """Generated street scenes in the plain folder format, split into train/ and val/."""
    from deeplab_infer.configs import dataset_spec

    expected: Expected = {}
    for part, count, first in (("train", train, 0), ("val", val, 1_000_000)):
        expected[part] = {}
        for seed in range(first, first + count):
            image, labels = generate_street(seed, *size)
            name = f"images/{part}/street_{seed:07d}.png"
            write_image(root / name, image)
            write_image(root / f"masks/{part}/street_{seed:07d}.png", labels)
            expected[part][name] = labels
    spec = dataset_spec("synthetic_streets")
    lines = [f"{name},#{r:02x}{g:02x}{b:02x}" for name, (r, g, b) in zip(spec.classes, spec.palette, strict=True)]
    (root / "classes.txt").write_text("\n".join(lines) + "\n")
    return expected


def coco_tables(**changes: Any) -> dict[str, Any]:
    """One image of 20 x 30 and a square of class "cat" (id 7); ``changes`` replace tables."""
    tables = {
        "images": [{"id": 1, "file_name": "a.png", "height": 20, "width": 30}],
        "categories": [{"id": 9, "name": "dog"}, {"id": 7, "name": "cat"}],
        "annotations": [
            {"id": 5, "image_id": 1, "category_id": 7, "iscrowd": 0, "segmentation": [[2, 3, 12, 3, 12, 13, 2, 13]]}
        ],
    }
    return {**tables, **changes}


def make_coco(
    root: Path, tables: dict[str, Any], json_file: str = "annotations/instances_train.json", images: str = "images"
) -> None:
    """Writes the annotations and an image of the given size for each entry."""
    (root / json_file).parent.mkdir(parents=True, exist_ok=True)
    (root / json_file).write_text(json.dumps(tables))
    for row in tables["images"]:
        picture = np.full((row["height"], row["width"], 3), 99, np.uint8)
        write_image(root / images / row["file_name"], picture)
