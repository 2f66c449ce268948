# SPDX-License-Identifier: Apache-2.0
"""mmsegmentation's training pipelines and ours on the same random numbers, pixel for pixel."""

from pathlib import Path

import numpy as np
import pytest
import torch

from deeplab_infer.configs import list_configs, load_config
from deeplab_infer.data.recipes import Augmentation, base_scale, named_augmentation
from deeplab_infer.data.transforms import augment

pytestmark = pytest.mark.peer

CONFIGS = [
    "deeplabv3plus_r50-d8_4xb2-40k_cityscapes-512x1024",
    "deeplabv3plus_r50-d8_4xb2-40k_cityscapes-769x769",
    "deeplabv3plus_r50-d8_4xb4-80k_ade20k-512x512",
    "deeplabv3plus_r50-d8_4xb4-20k_voc12aug-512x512",
    "deeplabv3plus_r101-d8_4xb4-40k_pascal-context-480x480",
    "deeplabv3plus_r50-d8_4xb4-80k_loveda-512x512",
    "deeplabv3plus_r50-d8_4xb4-80k_potsdam-512x512",
]


class Tape:
    """Numbers in 0..1 on a tape, read through numpy's new interface and through its old one."""

    def __init__(self, seed):
        self.numbers = np.random.Generator(np.random.PCG64(seed))
        self.read = 0

    def random(self):
        self.read += 1
        return float(self.numbers.random())

    random_sample = random

    def uniform(self, low, high):
        return low + (high - low) * self.random()

    def integers(self, low, high):
        return low + int((high - low) * self.random())

    def randint(self, low, high=None):
        if high is None:
            assert low == 2  # a coin, which ours throws as random() < 0.5
            return int(self.random() < 0.5)
        return self.integers(low, high)

    def choice(self, options, p):
        assert len(options) == 2 and options[1] is None
        return options[int(self.random() >= p[0])]


@pytest.fixture
def peer_numbers(monkeypatch):
    """Puts a tape into numpy's global generator."""

    def put(tape):
        for name in ("random_sample", "uniform", "randint", "choice"):
            monkeypatch.setattr(np.random, name, getattr(tape, name))

    return put


@pytest.fixture
def peer(mmseg_models, peer_numbers):
    """Runs the random part of a config's training pipeline, and the padding of its batches."""
    import mmseg.datasets  # noqa: F401
    from mmengine import Config
    from mmengine.registry import TRANSFORMS

    folder = Path(mmseg_models.__file__).parents[1] / ".mim" / "configs" / "deeplabv3plus"

    def steps(name):
        return [step for step in Config.fromfile(folder / f"{name}.py").train_pipeline if "Load" not in step.type]

    def run(steps, image, labels, tape):
        peer_numbers(tape)
        data = {"img": image[..., ::-1].copy(), "gt_seg_map": labels.copy(), "seg_fields": ["gt_seg_map"]}
        data |= {"img_shape": labels.shape, "ori_shape": labels.shape}
        for step in steps:
            if step["type"] not in ("PackSegInputs", "Pad"):
                data = TRANSFORMS.build(step)(data)
        return data["img"][..., ::-1], data["gt_seg_map"]

    run.steps = steps
    return run


def picture(size, seed):
    """Soft colours with noise, and labels in blocks with a border that is ignored."""
    rng = np.random.default_rng(seed)
    rows, columns = np.indices(size)
    waves = np.stack([np.sin(rows / 17 + c) + np.cos(columns / (11 + c)) for c in range(3)], 2)
    image = np.clip(128 + 60 * waves + rng.normal(0, 20, (*size, 3)), 0, 255).astype(np.uint8)
    labels = ((rows // 40) * 3 + columns // 57).astype(np.uint8) % 7
    labels[(rows + columns) % 61 < 4] = 255
    return image, labels


def pad_by_peer(image, labels, crop):
    """The batch of one that mmsegmentation's preprocessor makes, before any normalisation."""
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample
    from mmseg.utils import stack_batch

    sample = SegDataSample(gt_sem_seg=PixelData(data=torch.from_numpy(labels[None].copy())))
    images, samples = stack_batch(
        [torch.from_numpy(image.transpose(2, 0, 1).copy())], [sample], size=crop, pad_val=0, seg_pad_val=255
    )
    return images[0].permute(1, 2, 0).numpy(), samples[0].gt_sem_seg.data[0].numpy()


@pytest.mark.parametrize("name", CONFIGS)
def test_whole_pipeline(peer, name):
    config = load_config(name)
    recipe = named_augmentation("reference", config)
    padded = 0
    sizes = [(1024, 2048)] if config.dataset.name == "cityscapes" else [(375, 500), (500, 334), (256, 256)]
    for seed in range(12 // len(sizes)):
        for size in sizes:
            image, labels = picture(size, seed)
            ours_tape, peer_tape = Tape(seed), Tape(seed)
            ours = augment((image, labels), recipe, config.crop_size, ours_tape, 255)
            peer_image, peer_labels = peer(peer.steps(name), image, labels, peer_tape)
            assert ours.valid == peer_labels.shape
            peer_image, peer_labels = pad_by_peer(peer_image, peer_labels, config.crop_size)
            assert np.array_equal(ours.image, peer_image)
            assert np.array_equal(ours.labels, peer_labels)
            assert ours_tape.read == peer_tape.read
            padded += ours.valid != config.crop_size
    assert padded or config.dataset.name == "cityscapes"


@pytest.mark.parametrize("seed", range(40))
def test_colours(peer, seed):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (97, 131, 3), dtype=np.uint8)
    labels = np.zeros((97, 131), np.uint8)
    reference = named_augmentation("reference")
    colours = {key: getattr(reference, key) for key in ("distortion", "brightness", "contrast", "saturation", "hue")}
    ours = augment((image, labels), Augmentation(**colours), (97, 131), Tape(seed), 255)
    peer_image, _ = peer([{"type": "PhotoMetricDistortion"}], image, labels, Tape(seed))
    assert np.array_equal(ours.image, peer_image)


@pytest.mark.parametrize("share", [0.3, 0.75])
def test_crops_that_are_refused(peer, share):
    """Large areas of one class, and ignored ones: most crops are drawn several times."""
    reads = set()
    for seed in range(60):
        labels = np.zeros((90, 120), np.uint8)
        labels[:, 70:], labels[60:, :50], labels[10:30, 20:60] = 1, 255, 2
        image = np.random.default_rng(seed).integers(0, 256, (90, 120, 3), dtype=np.uint8)
        ours_tape, peer_tape = Tape(seed), Tape(seed)
        recipe = Augmentation(random_position=True, class_share=share)
        ours = augment((image, labels), recipe, (31, 40), ours_tape, 255)
        step = {"type": "RandomCrop", "crop_size": (31, 40), "cat_max_ratio": share}
        peer_image, peer_labels = peer([step], image, labels, peer_tape)
        assert np.array_equal(ours.image, peer_image)
        assert np.array_equal(ours.labels, peer_labels)
        assert ours_tape.read == peer_tape.read
        reads.add(ours_tape.read)
    assert {2, 4, 22} <= reads if share == 0.75 else 22 in reads


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (77, 3), (375, 500), (600, 3000)])
@pytest.mark.parametrize("scale", [(2048, 512), (520, 520), (2049, 1025)])
def test_resize(peer, size, scale):
    image, labels = picture(size, 0)
    step = {"type": "RandomResize", "scale": scale, "ratio_range": (0.5, 2.0), "keep_ratio": True}
    recipe = Augmentation(scales=(0.5, 2.0), base_scale=scale)
    for seed in range(3):
        peer_image, peer_labels = peer([step], image, labels, Tape(seed))
        ours = augment((image, labels), recipe, peer_labels.shape, Tape(seed), 255)
        assert ours.valid == peer_labels.shape
        assert np.array_equal(ours.image, peer_image)
        assert np.array_equal(ours.labels, peer_labels)


def test_base_scales_are_the_peers(mmseg_models):
    from mmengine import Config

    folder = Path(mmseg_models.__file__).parents[1] / ".mim" / "configs"
    compared = 0
    for name in list_configs():
        file = folder / name.partition("_")[0] / f"{name}.py"
        if file.exists():
            (step,) = [s for s in Config.fromfile(file).train_pipeline if s.type == "RandomResize"]
            config = load_config(name)
            assert base_scale(config) == tuple(step.scale)
            assert tuple(step.ratio_range) == named_augmentation("reference", config).scales
            compared += 1
    assert compared == 68
