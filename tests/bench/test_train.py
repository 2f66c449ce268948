# SPDX-License-Identifier: Apache-2.0
"""``deeplab-bench train``: the ways of training agree, what is counted is right, and what is said of it."""

import json
import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from deeplab_bench import command
from deeplab_bench.measuring.rounds import combine_rounds
from deeplab_bench.records import read_record, write_record
from deeplab_bench.reports import training as report
from deeplab_bench.training import command as train
from deeplab_bench.training import worker
from deeplab_bench.training.saved import LOSS, count_saved, saved_by_part
from deeplab_bench.training.steps import make_step, random_batch
from deeplab_bench.training.variants import BASELINE, VARIANTS
from torch import nn

from deeplab_infer.data.loading import Batch
from deeplab_infer.optimize import fuse
from deeplab_infer.training.options import AMP, BATCHNORM_MODES
from tests.bench.test_records import check

from .records import counted_record, train_record, training_step

STREETS = "deeplabv3plus_mobilenetv2_streets"
EAGER = [name for name, variant in VARIANTS.items() if not variant.compiled]
EPSILON = {"off": torch.finfo(torch.float32).eps, "bf16": torch.finfo(torch.bfloat16).eps}


def job(variant, **more):
    made = {
        "name": STREETS, "variant": variant, "batch": 2, "crop": [64, 64], "device": "cpu", "threads": 1, "amp": "off",
        "batchnorm": "train", "seconds": None, "reference": False, "saved": True, "count_only": False,
    }  # fmt: skip
    return {**made, **more}


def run(*arguments):
    return command.main(["-q", "train", "--device", "cpu", *arguments])


def tiny(*arguments):
    return run(STREETS, "--crop", "64x64", "--threads", "1", "--seconds", "0.01", *arguments)


@pytest.fixture
def made_up(monkeypatch):
    """Measuring processes that answer at once; figures are made up."""
    jobs = []

    def answer(module, job, *, limit_s=None):
        jobs.append(job)
        faster = 1.0 if job["variant"] == BASELINE else 0.8
        made = training_step(job["variant"], 100 * faster, 1000 * faster)
        names = ("steps", "peak_mb", "first_loss", "notes", *(("saved_mb", "saved_parts_mb") if job["saved"] else ()))
        return {name: made[name] for name in names}

    monkeypatch.setattr(train, "in_own_process", answer)
    return jobs


# -- the steps


@pytest.mark.parametrize("amp", ["off", "bf16"])
def test_all_ways_begin_with_the_same_loss(amp):
    """Each layer rounds once a value, in float32 also once a product; independent errors add up like a root."""
    losses = {}
    for variant in EAGER:
        step = make_step(job(variant, amp=amp))
        losses[variant] = float(step.loss(random_batch(job(variant))).detach())
    layers = [m for m in step.model.modules() if isinstance(m, nn.Conv2d)]
    products = max(m.weight[0].numel() for m in layers) if amp == "off" else 1
    bound = 4 * math.sqrt(2 * len(layers) * products) * EPSILON[amp] / 2
    for loss in losses.values():
        assert abs(loss - losses[BASELINE]) <= bound * losses[BASELINE]
    assert losses["fused+activations"] == losses["fused+units"] == losses["fused"]


def test_plain_is_plain_and_ours_is_fused():
    kinds = {name: make_step(job(name)) for name in EAGER}
    fused = {name: [m for m in step.model.modules() if getattr(m, "fused", False)] for name, step in kinds.items()}
    assert not fused[BASELINE]
    assert fused["fused"]
    assert type(kinds[BASELINE]) is not type(kinds["fused"])
    assert all(type(step.optimizer) is torch.optim.SGD for step in kinds.values())


def test_options_that_are_offered_exist():
    assert set(train._PRECISIONS) == set(AMP)
    parser = command.build_parser()
    for mode in set(BATCHNORM_MODES) - {"sync"}:
        assert parser.parse_args(["train", "--bn", mode]).bn == mode


# -- what is counted


class _Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential()
        self.backbone.add_module("stem", nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU()))
        self.classifier = nn.Conv2d(4, 5, 1)

    def forward(self, x):
        return self.classifier(self.backbone(x))


def test_saved_bytes_of_a_network_that_is_counted_by_hand():
    model, labels = _Tiny(), torch.zeros(2, 8, 8, dtype=torch.int64)

    def loss(batch):
        return F.cross_entropy(model(batch.images.permute(0, 3, 1, 2).contiguous()), labels)

    # In float32 already: converting is `to_input`'s.
    batch = Batch(torch.zeros(2, 8, 8, 3), labels, torch.tensor([[8, 8]] * 2), ("", ""))
    step = SimpleNamespace(model=model, options=SimpleNamespace(compiled=False), loss=loss)
    relu = 2 * 4 * 8 * 8 * 4  # both its result and the classifier's input
    log_softmax, total_weight, value = 2 * 5 * 8 * 8 * 4, 4, 4  # the labels were there before
    assert saved_by_part(step, batch) == {"stem": relu, LOSS: log_softmax + total_weight + value}
    assert not model.backbone.stem._forward_hooks


def test_a_loss_made_image_by_image_keeps_its_gradient_alone():
    made = job("fused")
    step = make_step(made)
    classes, divisor = step.model.config.num_classes, 8
    kept = saved_by_part(step, random_batch(made))[LOSS]
    logits = 2 * classes * 16 * 16 * 4
    assert logits <= kept <= logits + divisor  # the streets config has no auxiliary head


@pytest.mark.parametrize("variant", EAGER)
def test_counting_without_data_equals_counting_with_it(variant):
    made = job(variant)
    step = make_step(made)
    if VARIANTS[variant].fused:
        fuse(step.model)
    assert count_saved(made) == saved_by_part(step, random_batch(made))


def test_in_low_precision_it_equals_but_for_the_batch_statistics():
    made = job(BASELINE, amp="bf16")
    step = make_step(made)
    with_data = sum(saved_by_part(step, random_batch(made)).values())
    statistics = 2 * sum(m.num_features for m in step.model.modules() if isinstance(m, nn.BatchNorm2d))
    assert 0 <= with_data - sum(count_saved(made).values()) <= 2 * statistics


def test_ours_keeps_less_and_recomputing_less_again():
    plain, fused, activations, units = (sum(count_saved(job(variant)).values()) for variant in EAGER)
    assert units < activations < fused < plain


def test_a_compiled_network_is_not_counted():
    with pytest.raises(ValueError, match="compiled"):
        count_saved(job("fused+compiled"))
    assert run("--count", "--compile") == 2
    assert run("--count", "--variant", "plain+compiled") == 2


# -- measuring


def test_the_command_measures_and_writes_a_record(tmp_path, capsys):
    path = tmp_path / "a.json"
    assert tiny("--rounds", "1", "--variant", "plain", "--variant", "fused", "--json", str(path), "--markdown") == 0
    check(json.loads(path.read_text()))
    plain, fused = read_record(path).results
    assert (plain["path"], fused["path"]) == ("plain", "fused")
    for result in (plain, fused):
        assert result["rounds"] == len(result["steps"]["train"]["round_medians_ms"]) == 1
        assert len(result["steps"]["train"]["samples_ms"]) >= 5
        assert result["peak_mb"] > result["saved_mb"] > 1
        assert sum(result["saved_parts_mb"].values()) == pytest.approx(result["saved_mb"])
    assert fused["saved_mb"] < plain["saved_mb"]
    output = capsys.readouterr().out
    assert f"| {STREETS} | plain | fp32 | 2 x 64 x 64 | 1.000x | 1.000x | 1.000x |" in output
    assert "images/s" not in output


def test_counting_alone_needs_no_gpu_and_writes_a_record(tmp_path, capsys):
    path = tmp_path / "a.json"
    arguments = [STREETS, "--crop", "512x1024", "--batch", "8", "--count", "--variant", "plain"]
    assert run(*arguments, "--json", str(path), "--markdown") == 0
    content = json.loads(path.read_text())
    check(content)
    (result,) = content["results"]
    assert (result["path"], result["precision"], result["device"]) == ("plain", "bf16", "counted")
    assert "steps" not in result
    assert "| all |" in capsys.readouterr().out


def test_rounds_alternate_and_the_worst_peak_counts(made_up, tmp_path, capsys):
    path = tmp_path / "a.json"
    assert run(STREETS, "--crop", "64x64", "--batch", "1", "--batch", "2", "--json", str(path)) == 0
    order = [(job["batch"], job["variant"], job["saved"]) for job in made_up]
    first = [(batch, variant, True) for batch in (1, 2) for variant in EAGER]
    assert order == first + [(batch, variant, False) for batch, variant, _ in first]
    assert len(read_record(path).results) == 2 * len(EAGER)
    rounds = [training_step("fused", 3.0, 100.0), {**training_step("fused", 2.0, 1.0), "peak_mb": 500.0}]
    (one,) = combine_rounds(rounds, largest=("peak_mb",))
    assert (one["peak_mb"], one["saved_mb"]) == (500.0, 100.0)
    assert len(one["steps"]["train"]["round_medians_ms"]) == 2


def test_defaults_of_a_gpu(made_up, monkeypatch, capsys):
    monkeypatch.setattr(train, "resolve_device", lambda text: "cuda")
    assert command.main(["-q", "train", "--rounds", "1", "--compile"]) == 0
    assert {job["batch"] for job in made_up} == {2, 4, 8, 16}
    assert {(job["name"], tuple(job["crop"]), job["amp"]) for job in made_up} == {
        ("deeplabv3plus_r50-d8_4xb2-40k_cityscapes-512x1024", (512, 1024), "bf16")
    }
    assert list(dict.fromkeys(job["variant"] for job in made_up)) == list(VARIANTS)
    assert "images/s" in capsys.readouterr().out


@pytest.mark.parametrize(
    "error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)  # fmt: skip
def test_full_memory_is_an_answer(monkeypatch, error):
    def fail(job):
        raise error

    monkeypatch.setattr(worker, "make_step", fail)
    answer = worker.run_job(job("plain"))
    assert answer["out_of_memory"]
    assert answer["error"].startswith("out of memory: ")


def test_another_error_of_a_step_is_raised(monkeypatch):
    monkeypatch.setattr(worker, "make_step", lambda job: torch.zeros(2) @ torch.zeros(3))
    with pytest.raises(RuntimeError, match="size"):
        worker.run_job(job("plain"))


@pytest.mark.parametrize(("full", "code", "cell"), [(True, 0, "out of memory"), (False, 1, "failed")])
def test_what_fails_is_a_row_that_says_so(made_up, monkeypatch, tmp_path, capsys, full, code, cell):
    answer, path = train.in_own_process, tmp_path / "a.json"

    def fail(module, job, *, limit_s=None):
        if job["variant"] != BASELINE:
            return answer(module, job, limit_s=limit_s)
        return {"error": "why it failed", **({"out_of_memory": True} if full else {})}

    monkeypatch.setattr(train, "in_own_process", fail)
    assert tiny("--json", str(path), "--markdown") == code
    output = capsys.readouterr().out
    assert f"| plain | fp32 | 2 x 64 x 64 | {cell} |" in output
    assert "plain, batch 2: why it failed" in output
    check(json.loads(path.read_text()))


def test_a_budget_names_what_it_leaves_out(made_up, capsys):
    assert tiny("--budget", "1") == 0
    assert "would not fit into the budget of 1 s" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["deeplabv3plus_r50"], "deeplabv3plus_r50"),
        (["--crop", "64"], "not a size like"),
        (["--crop", "8x8"], "at least 32 x 32"),
        (["--batch", "0"], "batch must be at least 1"),
        (["--rounds", "0"], "--rounds must be at least 1"),
        (["--threads", "0"], "--threads must be at least 1"),
        (["--seconds", "0"], "--seconds must be positive"),
    ],
)
def test_wrong_use(made_up, capsys, arguments, message):
    assert run(*arguments) == 2
    assert message in capsys.readouterr().err
    assert not made_up


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_no_gpu(capsys):
    assert command.main(["train", "--device", "cuda"]) == 2
    assert "no CUDA GPU that torch can use; use --device cpu" in capsys.readouterr().err


@pytest.mark.slow
def test_compiled_networks_train_too(tmp_path):
    path = tmp_path / "a.json"
    assert tiny("--rounds", "1", "--variant", "plain+compiled", "--json", str(path)) == 0
    check(json.loads(path.read_text()))
    (result,) = read_record(path).results
    assert result["peak_mb"] > 1
    assert "saved_mb" not in result


# -- report and compare


@pytest.mark.parametrize("made", [train_record(), train_record("cpu"), counted_record()])
def test_made_up_records_are_records(made):
    check(made.to_dict())


def test_a_report_shows_ratios_and_on_a_gpu_times(tmp_path, capsys):
    for device, shown in (("cuda", True), ("cpu", False)):
        path = tmp_path / f"{device}.json"
        write_record(path, train_record(device))
        assert command.main(["-q", "report", str(path)]) == 0
        text = capsys.readouterr().out
        assert "Training" in text
        assert "1 network; fused: 1.25x plain torch's speed" in text
        assert "| r50 | plain+compiled | bf16 | 2 x 512 x 1024 | out of memory |" in text
        assert "| stem | 1000.0 | 750.0 | 25.0% |" in text
        assert ("images/s" in text) == shown


def test_a_plain_step_of_another_batch_is_no_baseline():
    made = train_record()
    made.results[0]["batch"] = 4
    (line,) = [line for line in report._lines(made) if line.result["path"] == "fused"]
    assert line.speed is None
    assert line.ratio("peak_mb") is None


def test_compare_tells_times_and_memory(tmp_path, capsys):
    paths = [tmp_path / name for name in ("a.json", "b.json")]
    after = train_record()
    after.results[1] = training_step("fused", 120.0, 2500.0, 9)
    for path, one in zip(paths, (train_record(), after), strict=True):
        write_record(path, one)
    assert command.main(["-q", "compare", *map(str, paths), "--markdown"]) == 0
    output = capsys.readouterr().out
    assert "1 faster, 0 slower, 1 same within noise" in output
    assert "saved 3000 to 2500 MB (-16.7%)" in output
    assert "fails in both: r50, plain+compiled" in output


def test_compare_of_what_was_only_counted_says_so(tmp_path, capsys):
    path = tmp_path / "a.json"
    write_record(path, counted_record())
    assert command.main(["-q", "compare", str(path), str(path)]) == 0
    assert "no row was timed in both files" in capsys.readouterr().out
    assert command.main(["-q", "compare", str(path), str(path), "--step", "train"]) == 0
