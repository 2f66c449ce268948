# SPDX-License-Identifier: Apache-2.0
"""Roofs of the machine: their form, and times computed from given ones. No rate is asserted."""

import pytest
from deeplab_bench.measuring import ceilings

from deeplab_infer.errors import BackendError
from deeplab_infer.optimize.work import Count, Operation, count

GPU = {"device": "cuda", "copy_gb_s": 1000.0, "matmul_tflops": {"fp32": 1.0, "fp16": 10.0}}


def test_the_cpu_is_measured_in_its_own_process():
    measured = ceilings.measure_ceilings("cpu", 0.01, 1)
    assert measured["device"] == "cpu"
    assert measured["copy_gb_s"] > 0
    assert set(measured["matmul_tflops"]) in ({"fp32"}, {"fp32", "bf16"})
    assert all(rate > 0 for rate in measured["matmul_tflops"].values())


def test_wrong_devices():
    with pytest.raises(BackendError, match="on cpu or cuda, not on 'tpu'"):
        ceilings.measure_ceilings("tpu")


def test_a_failing_process_says_so(monkeypatch):
    monkeypatch.setattr(ceilings, "in_own_process", lambda *_: {"error": "out of memory"})
    with pytest.raises(BackendError, match="cannot measure what this machine reaches: out of memory"):
        ceilings.measure_ceilings("cpu")


def test_the_longer_of_computing_and_moving():
    # 5e9 multiply-adds at 10 TFLOP/s take 1 ms, 2e9 bytes at 1000 GB/s take 2 ms.
    assert ceilings.operation_floor_ms(5_000_000_000, 0, GPU, "fp16") == pytest.approx(1.0)
    assert ceilings.operation_floor_ms(5_000_000_000, 2_000_000_000, GPU, "fp16") == pytest.approx(2.0)
    assert ceilings.operation_floor_ms(5_000_000_000, 0, GPU, "fp16", grouped=True) == pytest.approx(10.0)
    assert ceilings.operation_floor_ms(5_000_000_000, 0, GPU, "int8") is None
    assert ceilings.operation_floor_ms(0, 1_000_000, GPU, "int8") == pytest.approx(0.001)


def test_a_networks_floor_is_a_sum_over_its_operations():
    compute = Operation("a", "convolution", "s", (1,), dense=5_000_000_000, bytes_fused=1000)
    move = Operation("b", "concat", "s", (1,), bytes_fused=3_000_000_000)
    assert ceilings.floor_ms(Count((compute, move)), GPU, "fp16") == pytest.approx(4.0)
    assert ceilings.floor_ms(Count((compute, move)), GPU, "bf16") is None


def test_floors_of_the_published_networks():
    """Computed elsewhere for an H200: 790 TFLOP/s, 4.3 TB/s, 60 on the vector units."""
    h200 = {"device": "cuda", "copy_gb_s": 4300.0, "matmul_tflops": {"fp16": 790.0, "fp32": 60.0}}
    for depth, milliseconds in (("r18", 1.40), ("r50", 4.55)):
        counted = count(f"deeplabv3plus_{depth}-d8_4xb2-80k_cityscapes-512x1024", 1024, 2048, post=True)
        assert ceilings.floor_ms(counted, h200, "fp16") == pytest.approx(milliseconds, rel=0.01)
