# SPDX-License-Identifier: Apache-2.0
"""Recognising origins, fitting weights to configs, and our own format."""

import dataclasses
import json
import logging

import pytest
import torch
from safetensors import safe_open

from deeplab_infer import checkpoints
from deeplab_infer.checkpoints import mmseg
from deeplab_infer.configs import load_config
from deeplab_infer.errors import CheckpointError, DeepLabError

from ..networks import STREETS, make_network

R18 = "deeplabv3plus_r18-d8_4xb2-80k_cityscapes-512x1024"
MMSEG_TEXT = """
norm_cfg = dict(type='SyncBN', requires_grad=True)
model = dict(type='EncoderDecoder',
    backbone=dict(type='ResNetV1c', depth=18, strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4), contract_dilation=True),
    decode_head=dict(type='DepthwiseSeparableASPPHead', in_channels=512, channels=128, dilations=(1, 12, 24, 36),
        c1_in_channels=64, c1_channels=12, num_classes=19, align_corners=False, dropout_ratio=0.1),
    auxiliary_head=dict(type='FCNHead', channels=64, num_convs=1), test_cfg=dict(mode='whole'))
img_norm_cfg = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)
"""


def mmseg_names(state):
    """Our names back to mmsegmentation's, by hand, for DeepLabV3+ on a ResNet."""
    pairs = [
        ("aspp.image_pool.", "decode_head.image_pool.1."),
        *[(f"aspp.branches.{i}.depthwise.", f"decode_head.aspp_modules.{i}.depthwise_conv.") for i in (1, 2, 3)],
        *[(f"aspp.branches.{i}.pointwise.", f"decode_head.aspp_modules.{i}.pointwise_conv.") for i in (1, 2, 3)],
        ("aspp.branches.0.", "decode_head.aspp_modules.0."),
        ("aspp.project.", "decode_head.bottleneck."),
        ("decoder.low_level.", "decode_head.c1_bottleneck."),
        *[(f"decoder.convs.{i}.{half}.", f"decode_head.sep_bottleneck.{i}.{half}_conv.")
          for i in (0, 1) for half in ("depthwise", "pointwise")],
        ("auxiliary.block.", "auxiliary_head.convs.0."),
        ("auxiliary.classifier.", "auxiliary_head.conv_seg."),
        ("classifier.", "decode_head.conv_seg."),
    ]  # fmt: skip
    renamed = {}
    for key, value in state.items():
        ours, theirs = next(((a, b) for a, b in pairs if key.startswith(a)), ("", ""))
        renamed[theirs + key[len(ours) :]] = value
    return renamed


def same_weights(first, second):
    a, b = first.state_dict(), second.state_dict()
    return all(torch.equal(a[k], b[k]) for k in a if not k.endswith("num_batches_tracked"))


@pytest.mark.parametrize("era", ["0.x", "1.x"])
def test_mmsegmentation_files_bring_config_classes_and_palette(tmp_path, era):
    model = make_network(R18)
    classes, palette = [f"c{i}" for i in range(19)], [[i, i, i] for i in range(19)]
    meta = (
        {"config": MMSEG_TEXT, "CLASSES": tuple(classes), "PALETTE": palette}
        if era == "0.x"
        else {"cfg": MMSEG_TEXT, "dataset_meta": {"classes": classes, "palette": palette}}
    )
    torch.save({"meta": meta, "state_dict": mmseg_names(model.state_dict())}, tmp_path / "m.pth")
    loaded = checkpoints.load(tmp_path / "m.pth")
    assert same_weights(model, loaded)
    assert not loaded.training
    assert loaded.config.classes == tuple(classes)
    assert loaded.config.palette[3] == (3, 3, 3)
    expected = load_config(R18)
    for name in ("depth", "stem", "output_stride", "aspp_rates", "aspp_channels", "low_level_channels", "mean"):
        assert getattr(loaded.config, name) == getattr(expected, name)


def test_mmsegmentation_weights_need_a_config_from_somewhere(tmp_path):
    model = make_network(R18)
    torch.save({"module." + k: v for k, v in mmseg_names(model.state_dict()).items()}, tmp_path / "m.pth")
    with pytest.raises(CheckpointError, match="pass the config it was trained with"):
        checkpoints.load(tmp_path / "m.pth")
    loaded = checkpoints.load(tmp_path / "m.pth", load_config(R18))
    assert same_weights(model, loaded)
    assert loaded.checkpoint_sha256
    assert loaded.checkpoint_source.endswith("m.pth")


def test_a_missing_auxiliary_head_is_fine(tmp_path):
    state = {k: v for k, v in mmseg_names(make_network(R18).state_dict()).items() if not k.startswith("auxiliary")}
    torch.save(state, tmp_path / "m.pth")
    checkpoints.load(tmp_path / "m.pth", load_config(R18))
    torch.save(mmseg_names(make_network(R18).state_dict()), tmp_path / "m.pth")
    checkpoints.load(tmp_path / "m.pth", load_config(R18, ["auxiliary=false"]))


def test_unreadable_config_in_the_file(tmp_path):
    state = mmseg_names(make_network(R18).state_dict())
    torch.save({"meta": {"config": "import os\nmodel = os.system('true')"}, "state_dict": state}, tmp_path / "m.pth")
    with pytest.raises(CheckpointError, match="line 2.*pass --config"):
        checkpoints.load(tmp_path / "m.pth")


def test_mismatches_are_reported_by_name(tmp_path):
    state = make_network().state_dict()
    del state["aspp.project.conv.weight"]
    state["aspp.surprise"] = torch.zeros(1)
    state["decoder.low_level.bn.bias"] = torch.zeros(3)
    torch.save(state, tmp_path / "m.pth")
    with pytest.raises(CheckpointError) as error:
        checkpoints.load(tmp_path / "m.pth", load_config(STREETS))
    for part in ("1 missing: aspp.project.conv.weight", "1 unexpected: aspp.surprise",
                 "decoder.low_level.bn.bias [3] instead of [32]"):  # fmt: skip
        assert part in str(error.value)


def test_checkpoint_of_another_architecture(tmp_path):
    torch.save(mmseg_names(make_network(R18).state_dict()), tmp_path / "m.pth")
    with pytest.raises(CheckpointError, match=r"missing: .* and \d+ more"):
        checkpoints.load(tmp_path / "m.pth", load_config("deeplabv3plus_r50-d8_4xb2-40k_cityscapes-512x1024"))


def test_wrong_class_count(tmp_path):
    checkpoints.save(make_network(), tmp_path / "m.safetensors")
    with pytest.raises(CheckpointError, match=r"has 10 classes.*has 8; use --set num_classes=10"):
        checkpoints.load(tmp_path / "m.safetensors", load_config(STREETS, ["num_classes=8"]))


def test_unknown_origin(tmp_path):
    torch.save({"foo.weight": torch.zeros(1)}, tmp_path / "m.pth")
    with pytest.raises(CheckpointError, match="known origin.*foo.weight"):
        checkpoints.load(tmp_path / "m.pth")


def test_sources_that_name_nothing():
    with pytest.raises(CheckpointError, match="give a config too"):
        checkpoints.load("auto")
    with pytest.raises(CheckpointError, match="has no official weights"):
        checkpoints.load("auto", load_config("deeplabv3plus_xception65"))
    with pytest.raises(DeepLabError, match="no bundled file 'x'"):
        checkpoints.load("asset:x")


def test_our_format_round_trips(tmp_path):
    model = make_network()
    checkpoints.save(model, tmp_path / "m.safetensors", record={"seed": 3})
    loaded = checkpoints.load(tmp_path / "m.safetensors")
    assert same_weights(model, loaded)
    assert loaded.config == model.config
    with safe_open(tmp_path / "m.safetensors", "pt") as reader:
        assert json.loads(reader.metadata()["deeplab_infer"])["record"] == {"seed": 3}
    with pytest.raises(CheckpointError, match="are .safetensors files"):
        checkpoints.save(model, tmp_path / "m.pth")


def test_half_precision_storage_rounds_and_no_more(tmp_path):
    model = make_network()
    checkpoints.save(model, tmp_path / "m.safetensors", half=True)
    loaded = checkpoints.load(tmp_path / "m.safetensors").state_dict()
    for key, value in model.state_dict().items():
        if value.is_floating_point():
            assert loaded[key].dtype == torch.float32
            # Half the distance between two float16 neighbours: 2**-11 of the value; below 2**-14 they are 2**-24 apart.
            bound = 0 if key.endswith("running_var") else 2**-11 * value.abs() + 2**-25
            assert ((loaded[key] - value).abs() <= bound).all()


def test_safetensors_without_config(tmp_path):
    from safetensors.torch import save_file

    save_file(dict(make_network().state_dict()), tmp_path / "m.safetensors")
    with pytest.raises(CheckpointError, match="carries no config"):
        checkpoints.load(tmp_path / "m.safetensors")


def test_other_output_stride_keeps_the_weights():
    model = make_network()
    model.checkpoint_source = "x"
    other = checkpoints.with_config(model, model.config.with_output_stride(8))
    assert same_weights(model, other)
    assert other.config.aspp_rates == (12, 24, 36)
    assert other.checkpoint_source == "x"
    with pytest.raises(CheckpointError):
        checkpoints.with_config(model, model.config.replace(aspp_channels=64))


def test_imagenet_backbones_fill_only_the_backbone(tmp_path, caplog):
    model = make_network("deeplabv3plus_r18b-d8_4xb2-80k_cityscapes-512x1024")
    state = {k.removeprefix("backbone."): v for k, v in model.state_dict().items() if k.startswith("backbone.")}
    torch.save(state | {"fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}, tmp_path / "resnet18.pth")
    with caplog.at_level(logging.WARNING, "deeplab_infer"):
        loaded = checkpoints.load(tmp_path / "resnet18.pth")
    assert "ImageNet backbone" in caplog.text
    assert torch.equal(loaded.backbone.conv1.weight, model.backbone.conv1.weight)
    assert loaded.config.depth == 18


def test_bundled_weights_carry_their_record():
    model = checkpoints.load("auto", load_config(STREETS))
    assert model.config == load_config(STREETS)
    assert model.checkpoint_source.startswith("asset:")


def test_mobilenet_names_of_mmsegmentation():
    names = {
        "backbone.conv1.conv.weight": "backbone.features.0.0.weight",
        "backbone.conv1.bn.bias": "backbone.features.0.1.bias",
        "backbone.layer1.0.conv.0.conv.weight": "backbone.features.1.conv.0.0.weight",
        "backbone.layer1.0.conv.1.bn.weight": "backbone.features.1.conv.2.weight",
        "backbone.layer3.1.conv.2.bn.weight": "backbone.features.5.conv.3.weight",
        "backbone.layer7.0.conv.1.bn.running_var": "backbone.features.17.conv.1.1.running_var",
    }
    config = load_config("deeplabv3plus_mobilenetv2")
    assert list(mmseg.convert(dict.fromkeys(names), config)) == list(names.values())


def test_classifiers_of_other_classes_start_anew(tmp_path, caplog):
    caplog.set_level("INFO", "deeplab_infer")
    model = make_network()
    checkpoints.save(model, tmp_path / "m.safetensors")
    same = checkpoints.load(tmp_path / "m.safetensors", model.config, other_classes=True)
    assert torch.equal(same.classifier.weight, model.classifier.weight)
    renamed = dataclasses.replace(model.config.dataset, classes=tuple(f"thing {i}" for i in range(10)))
    other = checkpoints.load(tmp_path / "m.safetensors", model.config.replace(dataset=renamed), other_classes=True)
    assert not torch.equal(other.classifier.weight, model.classifier.weight)
    assert torch.equal(other.decoder.low_level.conv.weight, model.decoder.low_level.conv.weight)
    assert "has 10 classes (sky, building" in caplog.text
    fewer = checkpoints.load(tmp_path / "m.safetensors", model.config.replace(num_classes=4), other_classes=True)
    assert fewer.classifier.weight.shape[0] == 4
    with pytest.raises(CheckpointError, match="has 10 classes"):
        checkpoints.load(tmp_path / "m.safetensors", model.config.replace(num_classes=4))
