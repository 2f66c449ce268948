# SPDX-License-Identifier: Apache-2.0
"""Multiply-adds and bytes against torch's own counter, the papers, and per-stage figures made elsewhere."""

import json
from collections import Counter
from dataclasses import replace

import pytest
import torch
from deeplab_bench import command
from deeplab_bench.records import read_record
from deeplab_bench.work import command as macs
from deeplab_bench.work import paper
from deeplab_bench.work.counting import count, profiler_ops, space_to_batch, space_to_batch_size
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from deeplab_infer.configs import load_config, reference_rows
from deeplab_infer.models import build_model
from deeplab_infer.preprocess import network_size
from deeplab_infer.runtime.windows import place_windows

STREETS = "deeplabv3plus_mobilenetv2_streets"


def main(*arguments):
    return command.main(["-q", "macs", *arguments])


def test_a_convolution_as_the_papers_count_it():
    (conv, *_) = count(nn.Conv2d(3, 4, 3, 2, 1, bias=False), 8, 8).operations
    assert space_to_batch(conv) == conv.dense == 64 * 3 * 9
    assert profiler_ops(conv) == 0
    counted = count(nn.Conv2d(3, 4, 3, 2, 1), 8, 8)
    assert profiler_ops(counted.operations[0]) == 64
    assert counted.profiler_graph == 108 * 5 / 2


def test_an_addition_and_pooling_as_the_papers_count_them():
    class Network(nn.Module):
        def forward(self, x):
            return nn.functional.max_pool2d(x + x, 3, 2, 1).mean((2, 3))

    counted = count(Network(), 8, 8)
    assert [profiler_ops(op) for op in counted.operations] == [3 * 64, 3 * 16 * 9, 3 * 16]
    assert counted.space_to_batch == counted.dense == 0


def test_space_to_batch():
    assert [space_to_batch_size(65, 3, rate) for rate in (12, 24, 36)] == [72, 72, 72]
    (conv,) = count(nn.Conv2d(3, 3, 3, padding=2, dilation=2, groups=3, bias=False), 9, 11).operations
    assert conv.grouped
    assert conv.dense == 3 * 9 * 11 * 9
    assert space_to_batch(conv) == 3 * 10 * 12 * 9


@pytest.mark.parametrize(
    "name",
    [
        STREETS,
        "deeplabv3plus_xception65",
        "deeplabv3plus_resnet50-beta_dense",
        "deeplabv3_mobilenetv2_no-aspp",
        "deeplabv3_resnet50-beta_block7",
        "deeplabv3plus_r18b-d8_4xb2-80k_cityscapes-769x769",
        "deeplabv3_r50-d8_4xb4-80k_ade20k-512x512",
    ],
)
def test_agrees_with_torchs_counter_and_names_every_part(name):
    counted = count(name, 65, 97)
    with torch.device("meta"):
        model = build_model(name).eval()
        image = torch.empty(1, 3, 65, 97)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(image)
    assert 2 * counted.dense == counter.get_total_flops()
    stages = counted.stages()
    assert stages[0].name == "stem"
    assert stages[-1].name == "classifier"
    assert len({stage.name for stage in stages}) == len(stages)
    for total in ("dense", "bytes_eager", "bytes_fused", "weights"):
        assert sum(getattr(stage, total) for stage in stages) == getattr(counted, total)
    kernels = [m.weight.numel() for key, m in model.named_modules() if isinstance(m, nn.Conv2d) and "auxil" not in key]
    assert counted.weights == sum(kernels)


# Multiply-adds (1e9), MB with every operation a kernel of its own, MB fused; at 1024x2048 and two bytes a number, from
# an independent description of the networks. There the pooled image is copied to the map's size before the concat;
# here the concat reads it where it is.
STAGES = {
    "r50": {
        "stem": (14.95, 835, 298),
        "layer1": (27.92, 2584, 839),
        "layer2": (42.95, 1915, 674),
        "layer3": (231.93, 5047, 1692),
        "layer4": (489.63, 5264, 1775),
        "ASPP 1x1": (34.36, 304, 170),
        "ASPP depthwise": (1.81, 2416, 805),
        "ASPP pointwise": (103.08, 912, 510),
        "image pool": (0.00, 170 - 33.6, 170 - 33.6),
        "ASPP concat": (0.00, 336 - 33.6, 336 - 33.6),
        "projection": (386.55, 359, 225),
        "low-level": (1.61, 130, 80),
        "upsample + concat": (0.00, 461, 461),
        "decoder depthwise": (1.26, 1686, 562),
        "decoder pointwise": (71.94, 1624, 551),
        "classifier": (1.28, 139, 139),
        "resize + argmax": (0.00, 346, 346),
    },
    "r18": {
        "stem": (14.95, 835, 298),
        "layer1": (19.33, 504, 168),
        "layer2": (17.18, 290, 106),
        "layer3": (68.72, 558, 189),
        "layer4": (274.88, 1124, 386),
        "ASPP 1x1": (2.15, 76, 42),
        "ASPP depthwise": (0.45, 604, 201),
        "ASPP pointwise": (6.44, 227, 126),
        "image pool": (0.00, 42 - 8.4, 42 - 8.4),
        "ASPP concat": (0.00, 84 - 8.4, 84 - 8.4),
        "projection": (24.16, 85, 52),
        "low-level": (0.10, 33, 20),
        "upsample + concat": (0.00, 115, 115),
        "decoder depthwise": (0.32, 422, 141),
        "decoder pointwise": (4.50, 406, 137),
        "classifier": (0.32, 39, 39),
        "resize + argmax": (0.00, 346, 346),
    },
}


@pytest.mark.parametrize("depth", STAGES)
def test_stages_of_the_published_networks(depth):
    counted = count(f"deeplabv3plus_{depth}-d8_4xb2-80k_cityscapes-512x1024", 1024, 2048, post=True)
    stages = {s.name: (s.dense / 1e9, s.bytes_eager / 1e6, s.bytes_fused / 1e6) for s in counted.stages()}
    assert list(stages) == list(STAGES[depth])
    for name, (dense, eager, fused) in STAGES[depth].items():
        assert stages[name][0] == pytest.approx(dense, abs=0.006), name
        assert stages[name][1:] == pytest.approx((eager, fused), abs=0.7), name


@pytest.mark.parametrize("row", reference_rows(), ids=lambda row: row.name)
def test_typical_images_give_the_published_input(row):
    config = load_config(row.name)
    size = network_size(*macs.typical_image(config), config.test_scale)
    sizes = [size]
    if config.test_mode == "slide":
        sizes = [w.size for w in place_windows(*size, config.window, config.window_stride)]
    assert set(sizes) == {row.network_input}


def test_windows_are_summed(capsys, tmp_path):
    name = "deeplabv3plus_r101-d8_4xb4-40k_pascal-context-480x480"
    assert main(name, "--json", str(tmp_path / "a.json")) == 0
    assert "2 windows of 390 x 480" in capsys.readouterr().out
    record = read_record(tmp_path / "a.json")
    assert record.kind == "macs"
    (result,) = record.results
    assert result["windows"] == 2
    assert abs(result["deviation"]) < 0.06
    single = count(name, 390, 480)
    assert result["dense_gmacs"] == pytest.approx(2 * single.dense / 1e9)
    assert result["weights_m"] == single.weights / 1e6
    assert sum(stage["gmacs"] for stage in result["stages"]) == pytest.approx(result["dense_gmacs"])


def test_stage_table(capsys):
    assert main(STREETS, "--size", "48x64", "--markdown") == 0
    output = capsys.readouterr().out
    assert f"{STREETS}, 48 x 64" in output
    assert "| stage | GMAC | share | MB eager | MB fused | weights, M |" in output
    assert "| inverted residual 7 |" in output
    assert "published" not in output


def test_a_deviating_row_fails(capsys, monkeypatch):
    row = next(row for row in reference_rows() if "r18-d8_4xb4-80k_potsdam" in row.name)
    monkeypatch.setattr(macs, "reference_rows", lambda: (replace(row, gmacs=55.0),))
    assert main() == 1
    assert ", published 55.0" in capsys.readouterr().out


def test_wrong_use(capsys):
    for arguments, words in (
        (["--paper", STREETS], "give it alone"),
        (["resnext"], "unknown config"),
        ([STREETS, "--size", "12"], "is not a size"),
    ):
        assert main(*arguments) == 2
        assert words in capsys.readouterr().err


def rows_of(backbone, source="TF zoo VOC"):
    return [row for row in paper.paper_rows() if row.backbone == backbone and row.source == source]


def test_rows_of_the_papers():
    rows = paper.paper_rows()
    assert len(rows) == 35
    assert sum(row.source.startswith("v3+") for row in rows) == 28
    multi = next(row for row in rows if len(row.scales) == 6)
    assert [size for size, _ in multi.sizes()] == [257, 385, 513, 641, 769, 897]


def test_small_rows_agree(capsys, monkeypatch, tmp_path):
    rows = [*rows_of("mobilenet_v2"), *rows_of("xception71", "TF zoo Cityscapes")]
    monkeypatch.setattr(paper, "paper_rows", lambda: rows)
    assert main("--paper", "--json", str(tmp_path / "a.json")) == 0
    assert "2 agrees, 0 misprint, 1 not one of our networks, 0 deviates" in capsys.readouterr().out
    results = json.loads((tmp_path / "a.json").read_text())["results"]
    assert [result["windows"] for result in results] == [1, 12, 1]
    assert results[2]["dense_gmacs"] is None


def test_a_misprint_is_what_its_own_multi_scale_row_contradicts(monkeypatch, capsys):
    single, flipped = rows_of("mobilenet_v2")
    single = replace(single, output_stride=8)
    several = replace(flipped, flip=False, scales=(0.5, 1.0), printed=0.0)
    (counted,) = paper.compare_papers([several])
    several = replace(several, printed=counted.profiler)
    wrong = replace(single, printed=9.99)
    judged = paper.compare_papers([wrong, several])
    assert [one.verdict for one in judged] == [paper.MISPRINT, paper.AGREES]
    assert "its own row of 2 scales" in judged[0].note
    assert paper.compare_papers([wrong])[0].verdict == paper.DEVIATES
    monkeypatch.setattr(paper, "paper_rows", lambda: [wrong])
    assert main("--paper") == 1
    assert "deviates: counted" in capsys.readouterr().out


@pytest.mark.slow
def test_all_rows_of_the_papers():
    judged = paper.compare_papers(paper.paper_rows())
    assert Counter(one.verdict for one in judged) == {paper.AGREES: 33, paper.MISPRINT: 1, paper.NOT_OURS: 1}
    misprint = next(one for one in judged if one.verdict == paper.MISPRINT)
    assert misprint.row.printed == 101.28
    assert misprint.profiler == pytest.approx(102.779, abs=0.001)
