# SPDX-License-Identifier: Apache-2.0
"""mmsegmentation configs are parsed, never executed."""

import pytest

from deeplab_infer.configs import load_config
from deeplab_infer.configs.mmseg_import import parse_mmseg_config, parse_mmseg_config_text
from deeplab_infer.configs.python_config import merge, read_python_text
from deeplab_infer.errors import ConfigError

MODEL = """
# a comment
norm_cfg = dict(type='SyncBN', requires_grad=True)
data_preprocessor = dict(mean=[1.0, 2, 3], std=[4.0, 5, 6], bgr_to_rgb=False)
model = dict(
    type='EncoderDecoder', data_preprocessor=data_preprocessor,
    backbone=dict(type='ResNetV1c', depth=50, dilations=(1, 1, 2, 4), strides=(1, 2, 1, 1), norm_cfg=norm_cfg,
                  contract_dilation=True, style='pytorch'),
    decode_head=dict(type='DepthwiseSeparableASPPHead', in_channels=2048, channels=512, dilations=(1, 12, 24, 36),
                     c1_in_channels=256, c1_channels=48, num_classes=19, align_corners=False),
    auxiliary_head=dict(type='FCNHead', channels=256, num_convs=1),
    test_cfg=dict(mode='whole'))
"""
DATASET = """
dataset_type = 'CityscapesDataset'
crop_size = (512, 1024)
ratios = [0.5, 1.0]
test_pipeline = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=(2048, 1024), keep_ratio=True)]
tta_pipeline = [[dict(type='Resize', scale_factor=r) for r in ratios]]
test_dataloader = dict(dataset=dict(type=dataset_type, pipeline=test_pipeline))
"""
CHILD = """
_base_ = ['model.py', 'dataset.py']
import os
work_dir = f'runs/{2 + 3}' + '/x'
model = dict(decode_head=dict(align_corners=True, num_classes=7), test_cfg=dict(_delete_=True, mode='slide',
             crop_size=(769, 769), stride=(513, 513)), data_preprocessor={{_base_.data_preprocessor}})
test_dataloader = dict(dataset=dict(metainfo=dict(classes=list(('a', 'b', 'c', 'd', 'e', 'f', 'g')))))
"""


@pytest.fixture
def tree(tmp_path):
    for name, text in (("model", MODEL), ("dataset", DATASET), ("child", CHILD)):
        (tmp_path / f"{name}.py").write_text(text)
    return tmp_path


def test_inheritance(tree):
    config = parse_mmseg_config(tree / "child.py")
    assert config == load_config(tree / "child.py")
    assert config.name == "child"
    assert (config.test_mode, config.window, config.window_stride) == ("slide", (769, 769), (513, 513))
    assert config.align_corners
    assert config.classes == tuple("abcdefg")
    assert (config.mean, config.channel_order) == ((1.0, 2.0, 3.0), "bgr")
    assert (config.test_scale, config.crop_size) == ((2048, 1024), (512, 1024))


def test_old_style_config():
    text = MODEL.replace("data_preprocessor=data_preprocessor,", "").replace(
        "data_preprocessor = dict", "unused = dict"
    )
    text += """
img_norm_cfg = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)
data = dict(test=dict(type='CityscapesDataset', pipeline=[dict(type='MultiScaleFlipAug', img_scale=(2048, 1024),
    flip=False, transforms=[dict(type='Resize', keep_ratio=True), dict(type='Normalize', **img_norm_cfg)])]))
"""
    config = parse_mmseg_config_text(text, "old")
    assert config.dataset.name == "cityscapes"
    assert config.test_scale == (2048, 1024)
    assert config.channel_order == "rgb"


@pytest.mark.parametrize(
    "line",
    [
        "x = __import__('os').system('touch /tmp/executed')",
        "x = open('/etc/passwd').read()",
        "x = (lambda: 1)()",
        "x = eval('1')",
        "for i in range(3): x = i",
        "def f(): return 1",
        "class A: pass",
        "with open('x') as f: y = f",
        "x = [i for i in range(10)]",
        "x = undefined_name",
        "x = 'a' * 1000000000",
        "x = [0] * 100000 * 100000",
        "x = 1 / 0",
        "x = {}['missing']",
        "a.b = 3",
        "x = 1 if True else 2",
    ],
)
def test_code_is_refused_with_its_line(line):
    with pytest.raises(ConfigError, match=r"mine, line 3: .*never executed"):
        read_python_text(f"a = 1\n\n{line}\n", "mine")


def test_plain_arithmetic_and_builders():
    values = read_python_text("a = [1, 2] * 2\nb = dict(x=-3, **dict(y=a[1] + 0.5))\nc = {'k': (1, b['x'])}\ndel a\n")
    assert values == {"b": {"x": -3, "y": 2.5}, "c": {"k": (1, -3)}}


def test_merge_rules():
    assert merge({"a": {"x": 1, "y": 2}}, {"a": {"x": 3}}) == {"a": {"x": 3, "y": 2}}
    assert merge({"a": {"x": 1}}, {"a": {"_delete_": True, "z": 3}}) == {"a": {"z": 3}}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("type='ResNetV1c'", "type='HRNet'", "backbone 'HRNet' is not supported"),
        ("DepthwiseSeparableASPPHead", "UPerHead", "decode head 'UPerHead' is not supported"),
        ("dilations=(1, 1, 2, 4)", "dilations=(1, 1, 1, 4)", "are not an output stride of"),
        ("style='pytorch'", "avg_down=True", "avg_down=True is not supported"),
        ("'EncoderDecoder'", "'Cascade'", "only 'EncoderDecoder'"),
        ("dilations=(1, 12, 24, 36)", "dilations=(6, 12)", "must start with 1"),
        ("data_preprocessor=data_preprocessor,", "", None),
        ("channels=512", "channels='many'", "unexpected form"),
    ],
)
def test_models_that_are_not_ours(old, new, message):
    text = MODEL.replace(old, new)
    if message is None:
        parse_mmseg_config_text(text)
        return
    with pytest.raises(ConfigError, match=message):
        parse_mmseg_config_text(text)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(ConfigError, match="no such config file"):
        parse_mmseg_config(tmp_path / "missing.py")
    (tmp_path / "a.py").write_text("_base_ = './a.py'\n")
    with pytest.raises(ConfigError, match="include each other"):
        parse_mmseg_config(tmp_path / "a.py")
    (tmp_path / "b.py").write_text("_base_ = './missing.py'\n")
    with pytest.raises(ConfigError, match=r"missing\.py: no such"):
        parse_mmseg_config(tmp_path / "b.py")
    (tmp_path / "c.py").write_text("this = is = not = ")
    with pytest.raises(ConfigError, match="not a Python config"):
        parse_mmseg_config(tmp_path / "c.py")
    (tmp_path / "d.py").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="text file"):
        parse_mmseg_config(tmp_path / "d.py")
    (tmp_path / "e.py").write_text("model = dict(type='EncoderDecoder', decode_head={{_base_.nothing}})\n")
    with pytest.raises(ConfigError, match="do not define"):
        parse_mmseg_config(tmp_path / "e.py")
