# SPDX-License-Identifier: Apache-2.0
"""``deeplab-bench peers`` without the peers: what is asked of the two sides is answered by fakes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from deeplab_bench.measuring.rounds import combine_rounds
from deeplab_bench.peers import by_hand
from deeplab_bench.peers import command as peers
from deeplab_bench.peers import jobs as peer_jobs
from deeplab_bench.peers import measuring as peer_measuring
from deeplab_bench.peers import own_worker as peer_own_worker
from deeplab_bench.peers.models import PEERS

from deeplab_infer.commands.cli import make_parser, run_command

R18 = "deeplabv3plus_r18-d8_4xb2-80k_cityscapes-512x1024"
ON_CPU = ["peers", "--device", "cpu", "--size", "32x48", "--rounds", "2", "--ours", "torch:fp32", "--ours", "reference"]


def command(*arguments):
    parser = make_parser("deeplab-bench", "")
    peers.add_parser(parser.add_subparsers(dest="command", required=True))
    return run_command("deeplab-bench", parser, peers.run, ["-q", *arguments])


def timing(ms):
    return {"median_ms": ms, "p90_ms": ms, "p99_ms": ms, "spread": 0.0, "unsteady": False, "warmup": 1,
            "samples_ms": [ms] * 5}  # fmt: skip


class Answers:
    """Stands for `in_own_process`; made-up figures: the peer takes 40 ms, and 10 ms less in each later round."""

    def __init__(self, **changed):
        self.jobs = []
        self.environments = []
        self.pythons = []
        self.changed = changed

    def __call__(self, module, job, environment=None, *, python=sys.executable, limit_s=None):
        self.jobs.append(job)
        self.environments.append(environment)
        self.pythons.append(python)
        what = job["what"]
        if what in self.changed:
            return self.changed[what](job)
        if what == "look":
            return {"missing": {}, "python": "3", "versions": {"torch": "2"}, "torch_tensorrt": False}
        if what == "prepare":
            return {"view": [32, 48], "window": None, "classes_found": 5}
        if what == "export":
            return {"file": "x.onnx"}
        ms = {"peer": 40.0, "ours": 10.0}[job["side"]] - 10.0 * job["round"] * (job["side"] == "peer")
        return {
            "first_call_s": 0.1,
            "agreement": 1.0,
            "logits_difference": 1e-6,
            "steps": {"forward": timing(ms / 2), "end_to_end": timing(ms)},
            "memory": {"host_peak_mib": 1.0},
        }


@pytest.fixture
def answers(monkeypatch):
    def use(**changed):
        made = Answers(**changed)
        monkeypatch.setattr(peer_jobs, "in_own_process", made)
        return made

    return use


def test_rounds_alternate_and_the_best_is_shown(answers, tmp_path, capsys):
    asked = answers()
    arguments = [*ON_CPU, "--no-compile", "--markdown", "--json", str(tmp_path / "p.json"), "--threads", "2"]
    assert command(*arguments, "--python", "/other/python") == 0
    whats = [(job["what"], job.get("path")) for job in asked.jobs]
    paths = ("mmsegmentation fp32 eager", "mmsegmentation fp32 eager, default allocator", "torch fp32", "reference")
    one_round = [("measure", f"{path}") for path in paths]
    memory = [environment.get("MALLOC_TOP_PAD_") for environment in asked.environments]
    assert [path for (_, path), kept in zip(whats, memory, strict=True) if not kept] == [paths[1]] * 2
    assert whats == [("look", None), ("prepare", None), *one_round, *one_round]
    record = json.loads((tmp_path / "p.json").read_text())
    assert record["kind"] == "peers"
    assert record["complete"] is True
    assert "/other/python" not in json.dumps(record)
    assert record["protocol"]["environment"] == peer_jobs.KEEP_MEMORY
    first = record["results"][0]
    assert first["key"] == f"{R18}|mmsegmentation fp32 eager|cpu|fp32|1x32x48|whole"
    assert first["steps"]["end_to_end"]["round_medians_ms"] == [40.0, 30.0]
    assert first["steps"]["end_to_end"]["median_ms"] == 30.0
    assert first["published"]["miou"] == 76.89
    assert len(record["results"]) == 4
    output = capsys.readouterr().out
    assert "| mmsegmentation fp32 eager | 3.00 | 3.00 | 1.00x | 100.000% | 1.0e-06 | 2, 33% apart |" in output
    assert "| torch fp32 | 1.00 | 1.00 | 3.00x |" in output
    assert "ms" not in output.split("x our best")[0]  # a CPU gives ratios
    assert "rounds differ by 33%" in output


def test_the_peers_interpreter_sees_this_package_and_no_other(answers, monkeypatch):
    seen = []

    def look(job):
        path = asked.environments[-1]["PYTHONPATH"].split(os.pathsep)
        seen.append((os.listdir(path[0]), path[1:]))
        return {"error": "no torch"}

    monkeypatch.setenv("PYTHONPATH", "/site")
    asked = answers(look=look)
    assert command(*ON_CPU, "--python", "/other/python") == 2
    assert seen == [(["deeplab_bench"], ["/site"])]
    assert asked.pythons == ["/other/python"]


def test_modules_of_the_peers_side_do_without_the_toolkit():
    code = "import sys; sys.modules['deeplab_infer'] = None; import deeplab_bench.peers.worker, deeplab_bench.peers.models.base"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_table_on_a_gpu_has_times(answers):
    results = [
        {"path": path, "peer": "smp", "side": side, "precision": precision, "agreement": 0.99, "logits_difference": 0.1,
         "rounds": 1, "steps": {"forward": {**timing(ms), "round_medians_ms": [ms]},
                                "end_to_end": {**timing(ms), "round_medians_ms": [ms]}}}
        for path, side, precision, ms in (
            ("smp fp32 eager", "peer", "fp32", 8.0), ("smp bf16 eager", "peer", "bf16", 6.0),
            ("torch fp32", "ours", "fp32", 4.0), ("torch fp16", "ours", "fp16", 2.0))
    ]  # fmt: skip
    cells = [peers._cells(result, results, "cuda") for result in results]
    assert [line[1] for line in cells] == ["8.00", "6.00", "4.00", "2.00"]
    assert [line[4] for line in cells] == ["2.00", "3.00", "1.00", "1.00"]  # against ours in the same class
    assert [line[5] for line in cells] == ["1.00x", "1.33x", "2.00x", "4.00x"]
    assert all(len(line) == len(peers._headers("cuda", "smp")) for line in cells)


def test_a_way_that_fails_is_a_row_and_is_not_run_again(answers, capsys):
    def measure(job):
        if job["path"] == "reference":
            return {"error": "OutOfMemoryError: much", "agreement": 0.5}
        return Answers()("", job)

    asked = answers(measure=measure)
    assert command(*ON_CPU, "--no-compile", "--markdown") == 1
    assert "| reference | failed: OutOfMemoryError: much | - |" in capsys.readouterr().out
    assert [job.get("path") for job in asked.jobs].count("reference") == 1


def test_a_peer_whose_network_fails(answers, capsys):
    answers(prepare=lambda job: {"error": "RuntimeError: wrong input shape"})
    assert command(*ON_CPU, "--no-compile", "smp:DeepLabV3Plus:resnet18", "--markdown") == 1
    output = capsys.readouterr().out
    assert output.count("failed: the peer's network: RuntimeError: wrong input shape") == 4


def test_a_round_that_fails_later_is_noted():
    good = {"key": "k", "steps": {"end_to_end": timing(1.0)}, "notes": []}
    (made,) = combine_rounds([good, {"key": "k", "error": "took long", "notes": []}])
    assert made["notes"] == ["a round failed: took long"]
    assert made["rounds"] == 1


def test_ctrl_c_keeps_what_is_measured(answers, tmp_path, capsys):
    def measure(job):
        if job["round"] == 1:
            raise KeyboardInterrupt
        return Answers()("", job)

    answers(measure=measure)
    assert command(*ON_CPU, "--no-compile", "--json", str(tmp_path / "p.json")) == 130
    record = json.loads((tmp_path / "p.json").read_text())
    assert record["complete"] is False
    assert len(record["results"]) == 4
    assert "torch fp32" in capsys.readouterr().out


def test_a_budget_that_is_too_small_leaves_rows_out(answers, capsys):
    answers()
    assert command(*ON_CPU, "--no-compile", "--budget", "5") == 0
    assert "left out: " + R18 in capsys.readouterr().out


def test_missing_peers(answers, tmp_path, capsys):
    def look(job):
        missing = {"smp": "segmentation_models_pytorch is not installed in /p"}
        return {"missing": missing, "python": "3", "versions": {}, "torch_tensorrt": False}

    answers(look=look)
    assert command(*ON_CPU, "smp:DeepLabV3Plus:resnet18") == 2
    error = capsys.readouterr().err
    assert "segmentation_models_pytorch is not installed in /p" in error
    assert "make parity" in error
    assert "scripts/install_peers.sh" in error
    assert "--python" in error
    names = ["smp:DeepLabV3Plus:resnet18", "torchvision:deeplabv3_resnet50"]
    assert command(*ON_CPU, "--no-compile", *names, "--json", str(tmp_path / "p.json")) == 0
    record = json.loads((tmp_path / "p.json").read_text())
    assert {result["name"] for result in record["results"]} == {names[1]}
    assert record["left_out"][0] == {"name": names[0], "reason": "segmentation_models_pytorch is not installed in /p"}


def test_an_interpreter_that_is_none(capsys):
    assert command(*ON_CPU, "--python", "/no/such/python") == 2
    assert "--python /no/such/python: No such file or directory; give a Python interpreter" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--seconds", "0"], "--seconds must be positive"),
        (["--rounds", "0"], "--rounds at least 1"),
        (["--threads", "0"], "--threads must be at least 1"),
        (["--budget", "-1"], "--budget must be positive"),
        (["--device", "tpu"], "--device 'tpu' is not auto, cpu or cuda"),
        (["--size", "big"], "not a size"),
        (["--ours", "caffe"], "--ours 'caffe' is not BACKEND or BACKEND:PRECISION"),
        (["--ours", "torch:fp64"], "precisions: fp32, tf32"),
        (["--ours", "tensorrt:fp16", "--device", "cpu"], "tensorrt"),
        (["deeplabv9"], "no network 'deeplabv9'"),
        (["keras:deeplab"], "no network 'keras:deeplab'"),
        ([R18, "--peer", "smp"], "give either networks or --peer"),
    ],
)
def test_wrong_use(answers, arguments, words, capsys):
    answers()
    assert command("peers", *arguments) == 2
    assert words in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_no_gpu(capsys):
    assert command("peers", "--device", "cuda") == 2
    assert "no CUDA GPU that torch can use; use --device cpu" in capsys.readouterr().err


def test_networks_and_their_sizes():
    find = peer_jobs.find_network
    assert (find(R18, "cpu", None).height, find(R18, "cpu", None).width) == (256, 512)
    on_gpu = find(R18, "cuda", None)
    assert (on_gpu.height, on_gpu.width, on_gpu.mode) == (1024, 2048, "whole")
    slides = find("deeplabv3plus_r50-d8_769x769_40k_cityscapes", "cuda", None)  # its name of old
    assert slides.name == "deeplabv3plus_r50-d8_4xb2-40k_cityscapes-769x769"
    assert (slides.height, slides.width, slides.mode) == (1025, 2049, "slide")
    smp = find("smp:DeepLabV3Plus:tu-xception65", "cpu", (64, 96))
    assert (smp.peer, smp.network, smp.height, smp.width) == ("smp", "DeepLabV3Plus:tu-xception65", 64, 96)
    for device, by_peer in peer_jobs.DEFAULTS.items():
        assert set(by_peer) == set(PEERS)
        for names in by_peer.values():
            assert [find(name, device, None).name for name in names] == list(names)


def test_ways_of_both_sides():
    paths = [way.path for way in peer_jobs.peer_ways("smp", "cuda", compiled=True, torch_tensorrt=False)[0]]
    kinds = ("fp32 eager", "fp32 compiled", "fp16 eager", "bf16 eager", "fp16 compiled")
    assert paths == [f"smp {kind}" for kind in kinds]
    ways, left_out = peer_jobs.peer_ways("smp", "cuda", compiled=True, torch_tensorrt=True)
    assert [way.path for way in ways][-2:] == ["smp fp32 torch-tensorrt", "smp fp16 torch-tensorrt"]
    assert left_out == []
    paths = [way.path for way in peer_jobs.peer_ways("smp", "cpu", compiled=False, torch_tensorrt=False)[0]]
    assert paths == ["smp fp32 eager", "smp fp32 eager, default allocator"]
    ways, left_out = peer_jobs.own_ways([], "cpu", compiled=False)
    assert [way.path for way in ways][:2] == ["reference", "torch fp32"]
    assert {"name": "torch compiled fp32", "reason": "--no-compile"} in left_out
    asked, _ = peer_jobs.own_ways(["torch-compiled"], "cpu", compiled=False)  # asked for by name
    assert asked[0].options == {"fused": True, "compiled": True, "calibration": 8}


def test_ways_of_a_network_exported_by_hand(monkeypatch):
    monkeypatch.setattr(peer_jobs, "available_backends", lambda: ["openvino", "torch"])
    monkeypatch.setattr(peer_jobs, "_precision_unavailable", lambda _, precision: "no" if precision == "bf16" else None)
    ways, left_out = peer_jobs.by_hand_ways("smp", "whole")
    assert [way.path for way in ways] == ["smp fp32 by hand, openvino", "smp int8 by hand, openvino"]
    assert all(way.side == "peer" and way.options["by_hand"] for way in ways)
    assert [one["name"] for one in left_out] == ["smp fp32 by hand, onnxruntime", "smp bf16 by hand, openvino"]
    assert peer_jobs.by_hand_ways("smp", "slide")[0] == []


def test_a_network_exported_by_hand(answers, monkeypatch, tmp_path):
    """Traced once a network, converted once a way; where resize and argmax stand is found in the first round."""
    monkeypatch.setattr(peer_jobs, "_precision_unavailable", lambda *_: None)

    def measure(job):
        found = Answers()("", job)
        return {**found, "post": "numpy", "post_notes": ["numpy"]} if job.get("by_hand") else found

    colours = {"mean": [1.0], "std": [2.0], "swap": False, "channel_order": "bgr"}
    asked = answers(measure=measure, trace=lambda job: {"normalisation": colours}, convert=lambda job: {"files": []})
    arguments = [*ON_CPU, "--no-compile", "--by-hand", "--json", str(tmp_path / "p.json")]
    assert command(*arguments) == 0
    whats = [job["what"] for job in asked.jobs]
    assert (whats.count("trace"), whats.count("convert")) == (1, 4)
    runs = [job for job in asked.jobs if job["what"] == "measure" and job.get("by_hand")]
    assert [job.get("post") for job in runs] == [None] * 4 + ["numpy"] * 4
    assert all(job["normalisation"] == colours for job in runs)
    results = json.loads((tmp_path / "p.json").read_text())["results"]
    assert sum("by hand" in result["path"] for result in results) == 4
    asked = answers(trace=lambda job: {"error": "no"}, convert=lambda job: {"error": "never"})
    assert command(*arguments, "--rounds", "1") == 1
    assert "convert" not in [job["what"] for job in asked.jobs]


def test_by_hand_is_for_a_cpu(answers, capsys):
    answers()
    assert command("peers", "--device", "cuda", "--by-hand") == 2
    assert "--by-hand" in capsys.readouterr().err


@pytest.mark.parametrize("swap", [False, True])
def test_normalisation_by_hand(rng, swap):
    pixels = rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    mean, std = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
    found = by_hand.Normalisation(mean, std, swap)(pixels)
    wanted = ((pixels[..., ::-1] if swap else pixels) - np.array(mean)) / np.array(std)
    assert found.dtype == np.float32
    assert np.abs(found[0] - wanted.transpose(2, 0, 1)).max() < 1e-6


def test_resize_and_argmax_by_hand(rng):
    """Both ways on 150 classes; OpenCV's resize against torch's."""
    logits = rng.normal(size=(1, 150, 6, 9)).astype(np.float32)
    full = torch.nn.functional.interpolate(torch.from_numpy(logits), size=(24, 36), mode="bilinear")
    wanted = full.argmax(1).numpy()
    runs = {"logits": lambda x: logits, "labels": lambda x: wanted}
    side = by_hand.ByHandSide(runs, lambda pixels: pixels, "rgb", by_hand.POSTS[0])
    pixels = np.zeros((24, 36, 3), np.uint8)
    assert np.array_equal(side.labels(pixels), wanted[0])
    side.post = by_hand.POSTS[1]
    assert (side.labels(pixels) == wanted[0]).mean() > 0.999
    shares = by_hand._try_posts(side, pixels)
    assert set(shares) == set(by_hand.POSTS)
    assert min(shares.values()) == 1


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_by_hand_for_real(tmp_path, rng, backend):
    class Small(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 4, 3, stride=4, padding=1)

        def forward(self, x):
            logits = self.conv(x)
            full = torch.nn.functional.interpolate(logits, size=x.shape[2:], mode="bilinear")
            return logits, full.argmax(1)

    network = Small().eval()
    image = rng.integers(0, 256, (32, 48, 3), dtype=np.uint8)
    x = torch.from_numpy(image.transpose(2, 0, 1)[None].astype(np.float32))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.trace(network, x), str(tmp_path / "by_hand.pt"))
        logits, labels = (one[0].numpy() for one in network(x))
    for name, array in (("image", image), ("labels", labels), ("logits", logits)):
        np.save(tmp_path / f"{name}.npy", array)
    job = {"folder": str(tmp_path), "view": [32, 48], "exact": True, "seconds": 0.001, "threads": 1, "backend": backend,
           "precision": "fp32", "calibration": 1,
           "normalisation": {"mean": [0.0] * 3, "std": [1.0] * 3, "swap": False, "channel_order": "rgb"}}  # fmt: skip
    assert "by_hand_labels.onnx" in by_hand.run_job({**job, "what": "convert"})["files"]
    answer = by_hand.run_job({**job, "what": "measure"})
    assert answer["agreement"] > 0.999
    assert answer["post"] in by_hand.POSTS
    assert answer["steps"]["end_to_end"]["median_ms"] > 0


def test_comparison():
    labels, logits = np.zeros((100, 200), np.uint8), np.linspace(0, 10, 60, dtype=np.float32).reshape(3, 4, 5)
    assert peer_measuring.compare(labels, logits, labels.astype(np.int64), logits) == {
        "agreement": 1.0,
        "logits_difference": 0.0,
    }
    other = labels.copy()
    other[0, :3] = 1
    compared = peer_measuring.compare(other, logits + np.float32(0.1), labels, logits)
    assert compared["agreement"] == pytest.approx(1 - 3 / 20000)
    assert compared["logits_difference"] == pytest.approx(0.01, rel=1e-3)
    same = peer_measuring.same_outputs
    assert same({"agreement": 0.99991, "logits_difference": 1e-5})
    assert not same({"agreement": 0.9998, "logits_difference": 1e-5})
    assert not same({"agreement": 1.0, "logits_difference": 0.01})
    assert not same({"agreement": 1.0, "logits_difference": float("nan")})
    with pytest.raises(ValueError, match="instead of"):
        peer_measuring.compare(labels[:1], logits, labels, logits)


class FakeSide:
    channel_order = "bgr"

    def __init__(self, labels):
        self.given = labels
        self.seen = []

    def labels(self, pixels):
        self.seen.append(pixels)
        return self.given

    def logits(self, pixels):
        return pixels.transpose(2, 0, 1).astype(np.float32)


@pytest.mark.parametrize("exact", [True, False])
def test_what_differs_is_not_timed_where_it_must_not(tmp_path, rng, exact):
    image = rng.integers(0, 256, (8, 10, 3), dtype=np.uint8)
    np.save(tmp_path / "image.npy", image)
    np.save(tmp_path / "labels.npy", np.zeros((8, 10), np.int64))
    np.save(tmp_path / "logits.npy", image[:4, :5, ::-1].transpose(2, 0, 1).astype(np.float32))
    job = {"folder": str(tmp_path), "view": [4, 5], "exact": exact, "seconds": 0.001}
    good = peer_measuring.measure_side(FakeSide(np.zeros((8, 10), np.uint8)), job)
    assert good["agreement"] == 1.0
    assert set(good["steps"]) == {"forward", "end_to_end"}
    assert good["memory"]["host_peak_mib"] > 0
    wrong = FakeSide(np.eye(8, 10, dtype=np.uint8))
    answer = peer_measuring.measure_side(wrong, job)
    assert (wrong.seen[0] == image[..., ::-1]).all()
    if exact:
        assert answer["error"].startswith("not timed: 90.0000% of the labels agree with the reference")
        assert "steps" not in answer
        assert len(wrong.seen) == 1
    else:
        assert answer["agreement"] == pytest.approx(0.9)
        assert answer["steps"]["end_to_end"]["median_ms"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("slides", [False, True])
def test_our_side_for_real(tmp_path, slides, rng):
    """The worker's job on a checkpoint of ours, through torch and through an exported file."""
    from deeplab_infer import build_model, checkpoints, load_config

    torch.manual_seed(0)
    config = load_config("deeplabv3plus_mobilenetv2_streets")
    if slides:
        config = config.replace(test_mode="slide", window=(24, 24), window_stride=(16, 16))
    checkpoints.save(build_model(config).eval(), tmp_path / "own.safetensors")
    (tmp_path / "own.safetensors").rename(tmp_path / "checkpoint.pth")  # a file is known by its content
    view = [24, 24] if slides else [32, 48]
    np.save(tmp_path / "image.npy", rng.integers(0, 256, (32, 48, 3), dtype=np.uint8))
    np.save(tmp_path / "labels.npy", np.zeros((32, 48), np.int64))
    np.save(tmp_path / "logits.npy", np.zeros((config.num_classes, view[0] // 4, view[1] // 4)))
    job = {"what": "measure", "folder": str(tmp_path), "view": view, "exact": False, "seconds": 0.001, "threads": 1,
           "device": "cpu", "path": "torch fp32", "backend": "torch", "precision": "fp32", "fused": True,
           "compiled": False}  # fmt: skip
    answer = peer_own_worker.run_job(job)
    assert answer["described"]["backend"] == "torch"
    assert answer["described"]["mode"] == ("slide" if slides else "whole")
    assert answer["steps"]["forward"]["median_ms"] > 0
    exported = {**job, "backend": "onnxruntime", "path": "onnxruntime fp32"}
    assert peer_own_worker.run_job({**exported, "what": "export"}) == {"file": "ours_fp32.onnx"}
    other = peer_own_worker.run_job(exported)
    assert other["described"]["backend"] == "onnxruntime"
    assert other["logits_difference"] == pytest.approx(answer["logits_difference"], rel=1e-3)
