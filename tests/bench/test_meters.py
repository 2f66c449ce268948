# SPDX-License-Identifier: Apache-2.0
"""Clocks, power and memory from drivers, some of them made up."""

import sys
import types

import pytest
from deeplab_bench.measuring import meters
from deeplab_bench.measuring.meters import CpuMeter, NvidiaMeter, counted_energy, open_meter, unsteadiness


class Counter:
    def __init__(self, values):
        self.values = iter(values)

    def energy_j(self):
        return next(self.values)


@pytest.mark.parametrize(
    ("values", "joules"), [((5.0, 8.5), 3.5), ((None, None), None), ((5.0, 5.0), None), ((9.0, 1.0), None)]
)
def test_energy_of_a_block(values, joules):
    """A counter that stands still was read too soon; one that falls has wrapped."""
    with counted_energy(Counter(values)) as count:
        pass
    assert count.joules == joules


def test_packages_of_a_cpu(tmp_path, monkeypatch):
    for index, value in enumerate((2_000_000, 3_500_000)):
        (tmp_path / f"intel-rapl:{index}").mkdir()
        (tmp_path / f"intel-rapl:{index}" / "energy_uj").write_text(f"{value}\n")
    monkeypatch.setattr(meters, "_RAPL", tmp_path)
    assert CpuMeter().energy_j() == 5.5
    monkeypatch.setattr(meters, "_RAPL", tmp_path / "nothing")
    assert CpuMeter().energy_j() is None
    assert CpuMeter().state()["load"] >= 0


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ({"sm_mhz": 1980, "load": 0.1}, {"sm_mhz": 1980}, []),
        ({"sm_mhz": 345}, {"sm_mhz": 1980}, []),
        ({"sm_mhz": 1980}, {"sm_mhz": 1500}, ["sm clock fell from 1980 to 1500 MHz"]),
        ({}, {"held_down_by": ["power cap"]}, ["clocks held down by power cap"]),
        ({"load": 3.0}, {}, ["the machine was busy before (load 3.0 on 2 CPUs)"]),
    ],
)
def test_what_makes_figures_doubtful(before, after, said):
    assert unsteadiness(before, after, 2) == said


class FakeNvml(types.ModuleType):
    """The functions of nvidia-ml-py that the meter calls; one of them refuses."""

    class NVMLError(Exception):
        pass

    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0

    def __init__(self, gpus=2):
        super().__init__("pynvml")
        self.gpus, self.opened = gpus, None

    def nvmlInit(self):
        if not self.gpus:
            raise self.NVMLError("driver not loaded")

    def nvmlDeviceGetHandleByIndex(self, index):
        self.opened = index
        return f"gpu {index}"

    def nvmlDeviceGetTotalEnergyConsumption(self, device):
        return 12_500

    def nvmlDeviceGetMemoryInfo(self, device):
        return types.SimpleNamespace(used=3 << 20)

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, device):
        return 0x4 | 0x40

    def nvmlDeviceGetPowerUsage(self, device):
        raise self.NVMLError("not supported")

    def nvmlDeviceGetClockInfo(self, device, clock):
        return 1000 * clock

    def nvmlDeviceGetTemperature(self, device, sensor):
        return 40


def test_an_nvidia_gpu(monkeypatch):
    nvml = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    meter = open_meter("cuda")
    assert isinstance(meter, NvidiaMeter)
    assert (meter.energy_j(), meter.memory_mib()) == (12.5, 3.0)
    assert meter.state() == {
        "sm_mhz": 1000, "memory_mhz": 2000, "celsius": 40, "watts": None,
        "held_down_by": ["power cap", "thermal (hardware)"],
    }  # fmt: skip


@pytest.mark.parametrize(("visible", "device", "physical"), [("1", "cuda", 1), ("3,1", "cuda:1", 1), ("", "cuda:1", 1)])
def test_the_gpu_that_cuda_means(monkeypatch, visible, device, physical):
    nvml = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    open_meter(device)
    assert nvml.opened == physical


def test_no_driver(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(gpus=0))
    with pytest.raises(OSError, match="driver not loaded"):
        open_meter("cuda")
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(OSError, match="nvidia-ml-py is not installed"):
        open_meter("cuda")
