# SPDX-License-Identifier: Apache-2.0
"""Options and recipes: refusals, and the published numbers."""

import pytest

from deeplab_infer.configs import list_configs, load_config, reference_rows
from deeplab_infer.errors import DataError
from deeplab_infer.training import RECIPES, TrainOptions, recipe_options, train_options_note
from deeplab_infer.training.options import default_recipe
from deeplab_infer.training.schedule import learning_rate, make_optimizer, parameter_groups

from .runs import make_model


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"iterations": 0}, "iterations must be at least 1"),
        ({"batch": 0}, "batch must be at least 1"),
        ({"accumulate": 0}, "accumulate must be at least 1"),
        ({"crop": (31, 64)}, "at least 32 x 32"),
        ({"batch": 1, "crop": (32, 32)}, "more than one value a channel"),
        ({"optimizer": "adam"}, "'sgd', 'adamw'"),
        ({"lr": 0.0}, "lr must be positive"),
        ({"lr": float("nan")}, "lr must be positive"),
        ({"weight_decay": -1.0}, "weight_decay must not be negative"),
        ({"ema": 1.0}, "ema must be in 0..1"),
        ({"label_smoothing": 1.5}, "label_smoothing must be in 0..1"),
        ({"batchnorm": "eval"}, "batchnorm 'eval' is not one of"),
        ({"amp": "fp8"}, "amp 'fp8' is not one of"),
        ({"augmentation": "strong"}, "augmentation 'strong' is not one of"),
        ({"ohem_threshold": 0.7}, "needs ohem_kept"),
        ({"ohem_kept": 5, "ohem_threshold": 1.7}, "is a probability"),
        ({"class_weights": (1.0, -1.0)}, "must not be negative"),
        ({"recompute": "all"}, "recompute 'all' is not one of"),
        ({"recompute": "activations", "compiled": True}, "a compiled network decides itself"),
        ({"seed": -1}, "seed must not be negative"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(DataError, match=message):
        TrainOptions(**options)


def test_one_crop_is_enough_where_statistics_are_not_the_batch_s():
    TrainOptions(batch=1, crop=(32, 32), batchnorm="frozen")


def test_learning_rate_rises_then_falls():
    options = TrainOptions(iterations=100, lr=1.0, warmup=10)
    assert learning_rate(options, 0) == pytest.approx(0.1)
    assert learning_rate(options, 9) == pytest.approx((1 - 9 / 100) ** 0.9)
    assert learning_rate(options, 50) == pytest.approx(0.5**0.9)
    assert learning_rate(options, 99) == pytest.approx(0.01**0.9)
    floor = TrainOptions(iterations=100, lr=1.0, min_lr=0.25, power=2.0, warmup=0)
    assert learning_rate(floor, 0) == 1.0
    assert learning_rate(floor, 50) == pytest.approx(0.25 + 0.75 * 0.25)


@pytest.mark.parametrize("name", list_configs())
def test_every_config_has_a_recipe(name):
    config = load_config(name)
    options = TrainOptions(**recipe_options(config))
    assert default_recipe(config) == ("streets" if "streets" in name else "reference" if "xb" in name else "paper")
    assert options.loss_average in ("all", "labelled")


def test_the_reference_s_numbers_row_by_row():
    for row in reference_rows():
        options = TrainOptions(**recipe_options(load_config(row.name)))
        context = row.dataset.startswith("pascal_context")
        assert (options.lr, options.weight_decay) == ((0.004, 1e-4) if context else (0.01, 5e-4))
        assert (options.min_lr, options.power, options.momentum, options.warmup) == (1e-4, 0.9, 0.9, 0)
        assert (options.iterations, options.batch, options.crop) == (row.schedule, row.images_per_gpu, row.crop)
        assert options.ohem_kept == (100_000 if row.multi_grid else 0)
        assert (options.amp == "fp16") == row.fp16
        assert options.decay == "all" and options.clip == 0 and options.optimizer == "sgd"


def test_the_papers_two_phases():
    config = load_config("deeplabv3plus_xception65")
    first = TrainOptions(**recipe_options(config, "paper"))
    second = TrainOptions(**recipe_options(config, "paper-os8"))
    assert (first.lr, first.iterations, first.batch, first.crop) == (0.007, 30_000, 16, (513, 513))
    assert (second.lr, second.batchnorm) == (0.001, "frozen")
    assert first.weight_decay == 4e-5
    assert recipe_options(load_config("deeplabv3plus_resnet101-beta"), "paper")["weight_decay"] == 1e-4


def test_an_unknown_recipe_is_suggested():
    with pytest.raises(DataError, match="unknown recipe 'refrence'.*reference"):
        recipe_options(load_config("deeplabv3plus_xception65"), "refrence")
    assert set(RECIPES) == {"reference", "paper", "paper-os8", "finetune", "streets"}


def test_another_total_batch_than_published_is_said():
    config = load_config("deeplabv3plus_r50-d8_4xb2-40k_cityscapes-512x1024")
    options = TrainOptions(**recipe_options(config))
    assert "had 8 crops a step (4 GPUs), this one has 2" in train_options_note(config, options, 1)[0]
    assert train_options_note(config, options, 4) == []


def test_what_decays_and_what_learns_faster():
    model = make_model()
    names = {id(p): name for name, p in model.named_parameters()}

    def decayed(**options):
        groups = parameter_groups(model, TrainOptions(weight_decay=0.1, **options))
        return {names[id(p)]: (g["factor"], g["weight_decay"]) for g in groups for p in g["params"]}

    every = decayed(decay="all", head_lr=10.0)
    assert len(every) == len(names) and {d for _, d in every.values()} == {0.1}
    assert all(f == (1.0 if name.startswith("backbone.") else 10.0) for name, (f, _) in every.items())
    weights, dense = decayed(decay="weights"), decayed(decay="dense")
    depthwise = [name for name, p in model.named_parameters() if p.ndim == 4 and p.shape[1] == 1]
    assert len(depthwise) > 10
    for name, parameter in model.named_parameters():
        assert (weights[name][1] > 0) == (parameter.ndim == 4)
        assert (dense[name][1] > 0) == (parameter.ndim == 4 and name not in depthwise)


def test_the_optimizer_s_groups_follow_the_schedule():
    model = make_model()
    options = TrainOptions(optimizer="sgd", head_lr=2.0, lr=0.5)
    optimizer = make_optimizer(model, options)
    from deeplab_infer.training.schedule import set_learning_rate

    set_learning_rate(optimizer, 0.25)
    assert {group["lr"] for group in optimizer.param_groups} == {0.25, 0.5}
