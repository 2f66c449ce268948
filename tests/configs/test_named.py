# SPDX-License-Identifier: Apache-2.0
"""The table of named configs."""

import pytest

from deeplab_infer.configs import (
    ModelConfig,
    dataset_names,
    dataset_spec,
    generic_dataset,
    list_configs,
    named_config,
    reference_row,
    reference_rows,
)
from deeplab_infer.errors import ConfigError


def test_every_published_row_is_a_config():
    plus = [row for row in reference_rows() if row.method == "DeepLabV3+"]
    assert len(plus) == 37
    assert sum(row.fps is not None for row in plus) == 25
    for row in reference_rows():
        config = named_config(row.name)
        assert named_config(row.legacy_name) == config
        assert named_config(row.name + ".py") == config
        assert config.checkpoint_sha256 == config.checkpoint.rsplit("-", 1)[1].removesuffix(".pth")


def test_every_deeplabv3plus_table_has_its_sister_datasets():
    # LoveDA and Potsdam have no DeepLabV3 rows upstream; every other dataset has.
    sisters = {row.dataset for row in reference_rows() if row.method == "DeepLabV3"}
    assert sisters == {"cityscapes", "ade20k", "voc12aug", "pascal_context", "pascal_context_59"}


@pytest.mark.parametrize("name", list_configs())
def test_configs_survive_a_round_trip(name):
    config = named_config(name)
    assert ModelConfig.from_dict(config.to_dict()) == config
    assert len(config.classes) == len(config.palette) == config.num_classes


def test_reference_settings_that_are_easy_to_get_wrong():
    slide = named_config("deeplabv3plus_r50-d8_4xb2-40k_cityscapes-769x769")
    assert slide.align_corners and slide.test_mode == "slide"
    assert slide.window == (769, 769) and slide.window_stride == (513, 513) and slide.test_scale == (2049, 1025)
    whole = named_config("deeplabv3plus_r50-d8_4xb2-40k_cityscapes-512x1024")
    assert whole.test_mode == "whole" and whole.test_scale == (2048, 1024) and whole.crop_size == (512, 1024)
    multi_grid = named_config("deeplabv3plus_r101-d16-mg124_4xb2-40k_cityscapes-512x1024")
    assert multi_grid.multi_grid == (1, 2, 4) and multi_grid.multi_grid_absolute and multi_grid.output_stride == 16
    assert multi_grid.aspp_rates == (6, 12, 18)
    context = named_config("deeplabv3plus_r101-d8_4xb4-40k_pascal-context-59-480x480")
    assert context.num_classes == 59 and context.window_stride == (320, 320)
    assert all(named_config(row.name).projection_kernel == 3 for row in reference_rows())


def test_published_figures():
    row = reference_row("deeplabv3plus_r101-d8_fp16_512x1024_80k_cityscapes")
    assert (row.fps, row.fp16, row.memory_gb, row.miou) == (7.87, True, 6.35, 80.46)
    with pytest.raises(ConfigError, match="no row 'deeplabv3plus_xception65'"):
        reference_row("deeplabv3plus_xception65")


def test_near_misses_are_suggested():
    with pytest.raises(ConfigError, match=r"unknown config .*did you mean 'deeplabv3plus_xception65'"):
        named_config("deeplabv3plus_xeption65")
    with pytest.raises(ConfigError, match="deeplab-export --list"):
        named_config("zzz")
    with pytest.raises(ConfigError, match="did you mean 'cityscapes'"):
        dataset_spec("cityscape")


def test_datasets():
    counts = {name: len(dataset_spec(name).classes) for name in dataset_names()}
    assert counts == {
        "cityscapes": 19,
        "ade20k": 150,
        "voc12aug": 21,
        "pascal_context": 60,
        "pascal_context_59": 59,
        "loveda": 7,
        "potsdam": 6,
        "synthetic_streets": 10,
    }
    assert dataset_spec("ade") == dataset_spec("ade20k")
    assert "bed" in dataset_spec("ade20k").classes


def test_generic_datasets_have_distinct_colours():
    spec = generic_dataset(300)
    assert len(set(spec.palette)) > 290
    assert generic_dataset(2, ("crack", "sound")).classes == ("crack", "sound")
    with pytest.raises(ConfigError):
        generic_dataset(0)
