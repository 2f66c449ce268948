# SPDX-License-Identifier: Apache-2.0
"""The training loop: repeatability, resuming, precisions, normalisation modes, what ends it."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from deeplab_infer.data.loading import Batch
from deeplab_infer.data.scenes import StreetScenes
from deeplab_infer.errors import CheckpointError, DataError
from deeplab_infer.training import TrainOptions, check_same_run, read_state, save_state, train
from deeplab_infer.training.failures import Diverged, OutOfMemory, save_batch
from deeplab_infer.training.inputs import to_input
from deeplab_infer.training.step import TrainingStep

from ..networks import make_network
from .runs import SMALL, losses_of, make_model, make_training, same_tensors


def test_training_learns_and_repeats_to_the_bit():
    first, again = make_training(iterations=8), make_training(iterations=8)
    losses = losses_of(first)
    assert losses == losses_of(again)
    assert losses[-1] < losses[0]
    assert same_tensors(first.step.model.state_dict(), again.step.model.state_dict())


def test_the_short_form():
    model, seen = make_model(), []
    train(model, StreetScenes(3, 64, 96), TrainOptions(**SMALL, ema=0.5), lambda step, loss: seen.append(step))
    assert seen == [1, 2, 3, 4, 5, 6]
    assert not model.training


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": "sgd", "lr": 0.05, "nesterov": True},
        {"ema": 0.9, "amp": "bf16"},
        {"accumulate": 2, "ohem_kept": 500},
        {"optimizer": "sgd", "lr": 0.01, "amp": "fp16"},
    ],
    ids=["sgd", "ema-bf16", "accumulate", "fp16"],
)
def test_a_resumed_run_is_bit_equal(tmp_path, options):
    whole = make_training(**options)
    losses = losses_of(whole)
    first = make_training(**options)
    begun = losses_of(first, until=3)
    first.progress.best = 0.25
    save_state(tmp_path / "state.pt", first.step, first.average, first.progress)
    # Other weights and another random state: all that counts comes from the file.
    state = read_state(tmp_path / "state.pt")
    second = make_training(make_model(seed=5), state=state, **options)
    assert second.progress.step == 3 and second.progress.best == 0.25
    assert begun + losses_of(second) == losses
    assert same_tensors(second.step.model.state_dict(), whole.step.model.state_dict())
    assert same_tensors(second.network().state_dict(), whole.network().state_dict())
    for mine, theirs in zip(
        second.step.optimizer.state_dict()["state"].values(),
        whole.step.optimizer.state_dict()["state"].values(),
        strict=True,
    ):
        assert all(
            torch.equal(torch.as_tensor(mine[k]), torch.as_tensor(theirs[k])) for k in mine if mine[k] is not None
        )


def test_the_state_of_another_run_is_refused(tmp_path):
    training = make_training()
    training.progress.data = {"dataset": "a", "images": 3}
    save_state(tmp_path / "state.pt", training.step, None, training.progress)
    content = read_state(tmp_path / "state.pt")
    config, options = training.step.model.config, training.options
    check_same_run(content, config, options, {"dataset": "a", "images": 3}, "state.pt")
    with pytest.raises(CheckpointError, match=r"lr 0\.5, was 0\.001"):
        check_same_run(content, config, TrainOptions(**{**SMALL, "lr": 0.5}), {"dataset": "a", "images": 3}, "x")
    with pytest.raises(CheckpointError, match="config dropout 0.5, was 0.1"):
        check_same_run(content, config.replace(dropout=0.5), options, {"dataset": "a", "images": 3}, "x")
    with pytest.raises(CheckpointError, match="images 4, was 3"):
        check_same_run(content, config, options, {"dataset": "a", "images": 4}, "x")
    # How it is computed may change.
    check_same_run(content, config, TrainOptions(**SMALL, fused=False, workers=3), {}, "x")


def test_damaged_states(tmp_path):
    with pytest.raises(CheckpointError, match="no such file"):
        read_state(tmp_path / "state.pt")
    (tmp_path / "state.pt").write_bytes(b"PK\x03\x04 no")
    with pytest.raises(CheckpointError, match="damaged, or not the state of a run"):
        read_state(tmp_path / "state.pt")
    torch.save({"model": {}}, tmp_path / "state.pt")
    with pytest.raises(CheckpointError, match="--init takes weights"):
        read_state(tmp_path / "state.pt")

    class Hostile:
        def __reduce__(self):
            return (exec, ("raise SystemExit('ran')",))

    torch.save({"version": Hostile()}, tmp_path / "state.pt")
    with pytest.raises(CheckpointError, match="damaged, or not the state of a run"):
        read_state(tmp_path / "state.pt")


def test_training_runs_fused_unless_told_otherwise():
    losses = {}
    for fused in (True, False):
        training = make_training(make_model(["dropout=0"]), iterations=2, fused=fused, lr=1e-4)
        losses[fused] = losses_of(training)
        assert any(getattr(module, "fused", False) for module in training.step.model.modules()) is fused
    assert losses[True] == pytest.approx(losses[False], rel=1e-3)


@pytest.mark.parametrize("recompute", ["activations", "units"])
@pytest.mark.parametrize("amp", ["off", "bf16"])
def test_recomputing_gives_the_same_bits(recompute, amp):
    plain, again = make_training(amp=amp), make_training(amp=amp, recompute=recompute)
    assert losses_of(plain) == losses_of(again)
    assert same_tensors(plain.step.model.state_dict(), again.step.model.state_dict())


@pytest.mark.parametrize("name", ["deeplabv3plus_r18-d8_4xb4-80k_potsdam-512x512", "deeplabv3plus_xception65"])
def test_recomputing_other_backbones(name):
    results = []
    for recompute in ("none", "units"):
        model = make_model(["num_classes=10", "dataset=synthetic_streets"], name=name)
        training = make_training(model, iterations=1, batch=2, crop=(64, 64), recompute=recompute, fused=False)
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, kept=kept: kept.append(t.nbytes) or t, lambda t: t):
            loss = training.step.loss(training.first_batch())
        loss.backward()
        gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        results.append((loss.item(), gradients, sum(kept)))
    assert results[0][0] == results[1][0]
    assert same_tensors(results[0][1], results[1][1])
    assert results[1][2] < 0.6 * results[0][2]


def test_accumulated_batches_are_one_large_batch_without_batch_statistics():
    results = []
    for options in ({"batch": 4}, {"batch": 2, "accumulate": 2}):
        training = make_training(
            make_model(["dropout=0"]), iterations=2, batchnorm="frozen", loss_average="all", warmup=0, **options
        )
        results.append((losses_of(training), training.step.model.state_dict()))
    # float32 sums of a few thousand terms in another order, through two steps.
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-4)
    for key, value in results[0][1].items():
        assert torch.allclose(value, results[1][1][key], atol=1e-3), key


@pytest.mark.parametrize("mode", ["train", "statistics", "frozen", "sync"])
def test_batch_normalisation_modes(mode):
    model = make_model()
    before = copy.deepcopy(model.state_dict())
    training = make_training(model, batchnorm=mode, iterations=2)
    losses_of(training)
    after = model.state_dict()
    moved = {key for key in after if not torch.equal(after[key], before[key])}
    norms = [name for name, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    for name in norms:
        assert (f"{name}.running_mean" in moved) == (mode in ("train", "sync"))
        assert (f"{name}.num_batches_tracked" in moved) == (mode in ("train", "sync"))
    affine = {key for name in norms for key in (f"{name}.weight", f"{name}.bias")} & moved
    assert bool(affine) == (mode != "frozen")
    assert "classifier.weight" in moved


def test_the_running_average():
    training = make_training(ema=0.5, iterations=3)
    expected, history = None, []

    def after_step(result):
        nonlocal expected
        weights = training.step.model.classifier.weight.detach().double()
        decay = min(0.5, (1 + training.progress.step) / (10 + training.progress.step))
        expected = (
            start * decay + weights * (1 - decay) if expected is None else expected * decay + weights * (1 - decay)
        )
        history.append(decay)

    start = training.step.model.classifier.weight.detach().double().clone()
    training.run(after_step)
    assert history == [2 / 11, 3 / 12, 4 / 13]
    found = training.network()
    # Three float32 interpolations of values below 1.
    assert torch.allclose(found.classifier.weight.double(), expected, atol=1e-6)
    name = "backbone.features.0.1.running_mean"
    assert torch.equal(found.state_dict()[name], training.step.model.state_dict()[name])
    assert not found.training and found.checkpoint_source == "step 3 of a training run"


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_half_precision_is_near_float32(amp):
    plain = losses_of(make_training(make_model(["dropout=0"]), iterations=1))
    half = losses_of(make_training(make_model(["dropout=0"]), iterations=1, amp=amp))
    # Some 60 layers in sequence, each with a relative rounding of eps, which add up at worst.
    eps = torch.finfo(torch.bfloat16 if amp == "bf16" else torch.float16).eps
    assert half != plain
    assert half == pytest.approx(plain, rel=60 * eps)


def test_an_overflow_in_fp16_leaves_the_update_out():
    training = make_training(amp="fp16", optimizer="sgd", lr=0.01, iterations=1)
    training.step.scaler.load_state_dict({**training.step.scaler.state_dict(), "scale": 1e38})
    before = copy.deepcopy(dict(training.step.model.named_parameters()))
    results = []
    training.run(results.append)
    assert results[0].skipped
    assert all(torch.equal(before[name], p) for name, p in training.step.model.named_parameters())


def test_compiled(monkeypatch):
    asked = []
    monkeypatch.setattr(torch, "compile", lambda network: asked.append(network) or network)
    training = make_training(compiled=True, iterations=1)
    losses_of(training)
    assert asked == [training.step.model]


def test_divergence_is_noticed_before_the_weights_are_touched(tmp_path):
    training = make_training(optimizer="sgd", lr=1e30, clip=0.0, warmup=0)
    with pytest.raises(Diverged, match="training has diverged; try a lower learning rate") as caught:
        training.run()
    assert all(torch.isfinite(p).all() for p in training.step.model.parameters()) or training.progress.step > 0
    path = save_batch(tmp_path / "bad.npz", caught.value.batch)
    with np.load(path) as saved:
        assert saved["images"].shape == (2, 64, 64, 3) and saved["labels"].dtype == np.uint8
        assert saved["names"][0].startswith("scene ")


def test_fp16_divergence_recommends_bf16():
    training = make_training(amp="fp16", optimizer="sgd", lr=1e30, clip=0.0, warmup=0)
    with pytest.raises(Diverged, match="bf16 instead of fp16"):
        training.run()


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        MemoryError(),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:75] DefaultCPUAllocator: can't allocate memory: you tried to allocate"
        ),
    ],
)
def test_full_memory_comes_with_advice(monkeypatch, error):
    training = make_training(iterations=2, batch=4)

    def full(*arguments):
        raise error

    monkeypatch.setattr(TrainingStep, "__call__", full)
    with pytest.raises(OutOfMemory) as caught:
        training.run()
    text = str(caught.value)
    assert (
        "--amp bf16" in text and "--recompute" in text and "--batch 2 --accumulate 2" in text and "--crop 48x48" in text
    )


def test_other_errors_are_not_taken_for_full_memory(monkeypatch):
    training = make_training(iterations=2)

    def broken(*arguments):
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(TrainingStep, "__call__", broken)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        training.run()


def test_classes_must_agree():
    with pytest.raises(DataError, match="use --set num_classes=10"):
        make_training(make_model(["num_classes=3"]))
    with pytest.raises(DataError, match="class_weights has 2 values for 10 classes"):
        make_training(class_weights=(1.0, 2.0))


def test_devices():
    with pytest.raises(DataError, match="is not auto, cpu, cuda"):
        make_training(device="tpu")
    if not torch.cuda.is_available():
        with pytest.raises(DataError, match="no CUDA GPU that torch can use; train with --device cpu"):
            make_training(device="cuda")


def test_padding_is_the_mean_colour():
    model = make_model()
    images = torch.full((2, 5, 6, 3), 200, dtype=torch.uint8)
    x = to_input(images, model.config, torch.tensor([[5, 6], [3, 4]]))
    expected = (200 - np.array(model.config.mean)) / np.array(model.config.std)
    assert x.shape == (2, 3, 5, 6) and x.is_contiguous(memory_format=torch.channels_last)
    assert np.allclose(x[0].numpy(), expected[:, None, None], atol=1e-6)
    assert np.allclose(x[1, :, :3, :4].numpy(), expected[:, None, None], atol=1e-6)
    assert not x[1, :, 3:].any() and not x[1, :, :, 4:].any()
    swapped = model.config.replace(channel_order="bgr", mean=(1.0, 2.0, 3.0), std=(1.0, 1.0, 1.0))
    assert to_input(torch.tensor([[[[10, 20, 30]]]], dtype=torch.uint8), swapped).flatten().tolist() == [29, 18, 7]


def test_one_step_against_plain_torch():
    """SGD with momentum on the gradient of the reference loss, written out."""
    model = make_network(overrides=["dropout=0"])
    twin = copy.deepcopy(model).double()
    options = TrainOptions(
        **{**SMALL, "warmup": 0, "lr": 0.1},
        optimizer="sgd",
        decay="all",
        weight_decay=0.01,
        clip=0.0,
        fused=False,
        batchnorm="statistics",
    )
    rng = np.random.default_rng(0)
    batch = Batch(
        torch.from_numpy(rng.integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)),
        torch.from_numpy(rng.integers(0, 10, (2, 64, 64), dtype=np.uint8)),
        torch.tensor([[64, 64], [64, 64]]),
        ("a", "b"),
    )
    result = TrainingStep(model, options, torch.device("cpu"))([batch], 0)
    x = to_input(batch.images, twin.config).double()
    full = nn.functional.interpolate(twin(x), (64, 64), mode="bilinear")
    loss = nn.functional.cross_entropy(full, batch.labels.long())
    loss.backward()
    assert result.loss == pytest.approx(loss.item(), rel=1e-5)
    gradients = torch.cat([p.grad.flatten().double() for p in model.parameters()])
    assert result.gradient_norm == pytest.approx(gradients.norm().item(), rel=1e-5)
    # Some 120 roundings forward and back, each of 6e-8, in sums whose terms partly cancel.
    reference = torch.cat([p.grad.flatten() for p in twin.parameters()])
    assert (gradients - reference).norm() <= 1e-4 * reference.norm()
    for (name, mine), start in zip(model.named_parameters(), twin.parameters(), strict=True):
        expected = start.detach() - 0.1 * (mine.grad.double() + 0.01 * start.detach())
        assert (mine.double() - expected).abs().max() <= 1e-6 * (1 + expected.abs().max()), name
