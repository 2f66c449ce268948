# SPDX-License-Identifier: Apache-2.0
"""YAML files, overrides and the validation of configs."""

import pytest

from deeplab_infer.configs import ModelConfig, apply_overrides, load_config, save_yaml
from deeplab_infer.errors import ConfigError

NAME = "deeplabv3plus_r50-d8_4xb2-40k_cityscapes-512x1024"


def test_yaml_round_trip(tmp_path):
    config = load_config("deeplabv3plus_r101-d16-mg124_4xb2-40k_cityscapes-512x1024")
    save_yaml(config, tmp_path / "model.yaml")
    assert load_config(tmp_path / "model.yaml") == config


def test_yaml_may_start_from_a_base(tmp_path):
    (tmp_path / "mine.yaml").write_text(f"base: {NAME}\nnum_classes: 3\noutput_stride: 16\n")
    config = load_config(tmp_path / "mine.yaml", ["name=other"])
    assert config.num_classes == 3 and config.classes == ("class_0", "class_1", "class_2")
    assert config.name == "other" and config.depth == 50


def test_yaml_with_own_classes(tmp_path):
    (tmp_path / "mine.yaml").write_text(
        "dataset: {name: cracks, classes: [ok, crack], palette: [[0, 0, 0], [255, 0, 0]]}\naspp_rates: [6, 12]\n"
    )
    config = load_config(tmp_path / "mine.yaml")
    assert config.name == "mine" and config.classes == ("ok", "crack") and config.aspp_rates == (6, 12)


def test_output_stride_moves_the_rates():
    config = load_config(NAME)
    assert apply_overrides(config, ["output_stride=16"]).aspp_rates == (6, 12, 18)
    assert apply_overrides(config, ["output_stride=32"]).aspp_rates == (3, 6, 9)
    assert apply_overrides(config, ["output_stride=16", "aspp_rates=[1, 2, 3]"]).aspp_rates == (1, 2, 3)
    absolute = load_config("deeplabv3plus_r101-d16-mg124_4xb2-40k_cityscapes-512x1024")
    assert absolute.with_output_stride(8).multi_grid == (2, 4, 8)
    relative = load_config("deeplabv3plus_resnet101-beta")
    assert relative.with_output_stride(8).multi_grid == (1, 2, 4)
    assert relative.with_output_stride(8).with_output_stride(16) == relative


def test_overrides():
    config = load_config(
        NAME,
        [
            "dataset=ade20k",
            "window=[769, 769]",
            "window_stride=[513, 513]",
            "test_mode=slide",
            "mean=[1, 2, 3]",
        ],
    )
    assert config.num_classes == 150 and config.window == (769, 769) and config.mean == (1.0, 2.0, 3.0)
    assert load_config(NAME, ["test_scale=null"]).test_scale is None


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("num_classes", "not of the form key=value"),
        ("num_clases=8", "did you mean 'num_classes'"),
        ("num_classes=eight", "num_classes: expected int"),
        ("num_classes=true", "num_classes: expected int"),
        ("num_classes=0", "at least 1"),
        ("output_stride=4", "not one of 8, 16, 32"),
        ("backbone=vgg", "not one of 'resnet'"),
        ("depth=51", "depth 51 is not one of"),
        ("aspp_rates=3", "aspp_rates: expected a list"),
        ("aspp_rates=[0]", "aspp_rates must be positive"),
        ("projection_kernel=5", "projection_kernel must be 1 or 3"),
        ("test_mode=slide", "needs window and window_stride"),
        ("std=[0, 1, 1]", "std must be positive"),
        ("cascade_blocks=4", "cascade_blocks must be 0 to 3"),
        ("aspp=false", "needs aspp"),
        ("mean=[1, 2", "not valid YAML"),
        ("dataset=towns", "unknown dataset 'towns'"),
        ("dataset={name: a, classes: [x], palette: [[1, 2]]}", "palette colour"),
        ("dataset={name: a, classes: [x]}", "missing palette"),
        ("dataset={name: a, classes: [x], palette: [[1, 2, 3]], colour: 1}", "unknown field 'colour'"),
        ("window=[0, 3]", "window must be two positive sizes"),
        ("dropout=1.0", "dropout"),
        ("bn_eps=0.0", "bn_eps"),
    ],
)
def test_bad_overrides(override, message):
    with pytest.raises(ConfigError, match=message):
        load_config(NAME, [override])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a\n- b\n", "expected `field: value` lines"),
        ("base: nothing_like_it\n", "unknown config 'nothing_like_it'"),
        ("depth: 50\n", "needs 'dataset'"),
        ("dataset: cityscapes\ndepht: 50\n", "did you mean 'depth'"),
        (f"base: {NAME}\ndepht: 50\n", "did you mean 'depth'"),
        ("dataset: [\n", "not valid YAML"),
    ],
)
def test_bad_yaml(tmp_path, text, message):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as error:
        load_config(path)
    assert "bad.yaml" in str(error.value)


def test_unreadable_yaml(tmp_path):
    with pytest.raises(ConfigError, match="no such config file"):
        load_config(tmp_path / "missing.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read as a text file"):
        load_config(tmp_path / "binary.yaml")
    (tmp_path / "huge.yaml").write_bytes(b"#" * (1 << 21))
    with pytest.raises(ConfigError, match="not a model config"):
        load_config(tmp_path / "huge.yaml")


def test_yaml_cannot_run_code(tmp_path):
    (tmp_path / "evil.yaml").write_text("dataset: !!python/object/apply:os.system ['touch /tmp/evil']\n")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_config(tmp_path / "evil.yaml")


def test_classes_and_count_must_agree():
    config = load_config(NAME)
    with pytest.raises(ConfigError, match="num_classes is 5 but dataset 'cityscapes' has 19"):
        config.replace(num_classes=5, dataset=config.dataset)
    with pytest.raises(ConfigError, match="unknown config field 'colour'"):
        config.replace(colour=1)
    with pytest.raises(ConfigError, match="must be a mapping"):
        ModelConfig.from_dict([1, 2])
