# SPDX-License-Identifier: Apache-2.0
"""The reference's way of running, against an independent composition in float64."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from deeplab_bench.measuring.timing import measure_counted
from deeplab_bench.networks.load import random_network
from deeplab_bench.running import protocol
from deeplab_bench.table.rows import Workload, network_of, order_of_worth

from deeplab_infer.configs import load_config, reference_rows
from deeplab_infer.data.synthetic_streets import generate_street
from deeplab_infer.preprocess import network_size
from deeplab_infer.runtime.windows import place_windows
from tests.networks import make_network, random_images, reference_logits

R18 = "deeplabv3plus_r18-d8_4xb2-80k_cityscapes-512x1024"
SLIDE = "deeplabv3plus_r18-d8_4xb2-80k_cityscapes-769x769"


@pytest.mark.parametrize("overrides", [(), ("test_scale=[110,70]",), ("align_corners=true",)])
def test_whole_image_labels(overrides):
    model = make_network(overrides=("test_mode=whole", "test_scale=null", *overrides))
    image = random_images(1, 48, 80)[0]
    found = protocol.ReferenceProtocol(model, image, "cpu").run()
    assert found.dtype == np.int64
    assert found.shape == (48, 80)
    if overrides and overrides[0].startswith("test_scale"):
        return  # the resize of the image is OpenCV's; the next test covers a resized slide
    logits = torch.from_numpy(reference_logits(model, image[None], torch.float64))
    full = F.interpolate(logits, (48, 80), mode="bilinear", align_corners=model.config.align_corners)
    assert np.mean(full.argmax(1)[0].numpy() == found) > 0.999


def test_windows_are_averaged_and_counted():
    model = make_network(overrides=("test_mode=slide", "test_scale=null", "window=[33,33]", "window_stride=[20,20]"))
    image = random_images(1, 50, 70)[0]
    reference = protocol.ReferenceProtocol(model, image, "cpu")
    places = place_windows(50, 70, (33, 33), (20, 20))
    assert reference.windows == places
    total, visits = np.zeros((model.config.num_classes, 50, 70)), np.zeros((50, 70))
    for w in places:
        crop = image[None, w.top : w.bottom, w.left : w.right]
        logits = torch.from_numpy(reference_logits(model, crop, torch.float64))
        full = F.interpolate(logits, w.size, mode="bilinear", align_corners=model.config.align_corners)[0].numpy()
        total[:, w.top : w.bottom, w.left : w.right] += full
        visits[w.top : w.bottom, w.left : w.right] += 1
    assert np.mean((total / visits).argmax(0) == reference.run()) > 0.999


def test_true_float32_without_autotuning():
    """How the switches are set, on every torch, and put back is tested with the torch backend."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.benchmark
    cudnn.benchmark = True
    try:
        with protocol.reference_settings():
            assert not cudnn.benchmark
            assert not matmul.allow_tf32
            assert getattr(cudnn, "conv", None) is None or cudnn.conv.fp32_precision != "tf32"
        assert cudnn.benchmark
    finally:
        cudnn.benchmark = before


class Clock:
    def __init__(self, step):
        self.now, self.step, self.runs = 0.0, step, 0

    def __call__(self):
        return self.now

    def run(self):
        self.now += self.step
        self.runs += 1


@pytest.mark.parametrize(("step", "warmup", "samples"), [(0.01, 5, 195), (0.5, 4, 16), (100.0, 1, 5)])
def test_five_warm_up_runs_and_195_samples_where_time_allows(step, warmup, samples):
    clock = Clock(step)
    timing = measure_counted(clock.run, protocol.WARMUP, protocol.SAMPLES, 10.0, clock)
    assert (timing.warmup, len(timing.samples_ms)) == (warmup, samples)
    assert timing.median_ms == pytest.approx(step * 1e3)


# windows of one image, by dataset and mode (facts of the reference's test pipeline)
WINDOWS = {("cityscapes", "whole"): 1, ("cityscapes", "slide"): 8, ("pascal_context", "slide"): 2,
           ("pascal_context_59", "slide"): 2}  # fmt: skip


@pytest.mark.parametrize("row", reference_rows(), ids=lambda row: row.name)
def test_sizes_and_windows_of_every_row(row, tmp_path):
    work = Workload(row, 1.0, tmp_path)
    assert work.input_size == row.network_input
    assert work.windows == WINDOWS.get((row.dataset, row.test_mode), 1)


@pytest.mark.parametrize("row", {network_of(row): row for row in reference_rows()}.values(), ids=lambda row: row.name)
def test_a_quarter_has_as_many_windows(row, tmp_path):
    small, full = Workload(row, 0.25, tmp_path), Workload(row, 1.0, tmp_path)
    assert small.windows == full.windows
    assert small.input_size[0] == pytest.approx(full.input_size[0] / 4, rel=0.03)
    if row.align_corners:
        assert all(side % 2 == 1 for side in small.input_size)
    assert network_size(*small.image_size, small.config.test_scale)[0] <= full.input_size[0]


def test_rows_that_differ_in_the_schedule_share_a_measurement():
    rows = [row for row in reference_rows() if row.method == "DeepLabV3+"]
    networks = order_of_worth(rows)
    assert len(networks) == len({network_of(row) for row in rows}) < len(rows)
    assert sorted(row.backbone for row in networks[:3]) == ["R-101-D8", "R-18-D8", "R-50-D8"]
    assert all(row.network_input == (1024, 2048) and not row.fp16 for row in networks[:3])
    printed = [row.fps is not None for row in networks]
    assert printed == sorted(printed, reverse=True)


def test_random_networks_are_the_same_every_time_and_keep_their_scale():
    config = load_config(R18)
    image, labels = generate_street(7, 64, 128)
    one, other = (random_network(config, image, labels) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))
    logits = torch.from_numpy(reference_logits(one, image[None]))
    assert 0.1 < logits.std() < 100
    found = F.interpolate(logits, labels.shape, mode="bilinear").argmax(1)[0].numpy()
    assert np.mean(found == labels) > 0.5
