# SPDX-License-Identifier: Apache-2.0
"""What the driver tells about power, clocks and memory while something is measured."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

_RAPL = Path("/sys/class/powercap")
_LOAD_LIMIT = 0.5  # processes besides ours, a CPU, above which a CPU's figures are doubtful
_CLOCK_DROP = 0.9  # share of the first clock below which a clock has dropped
# NVML's reasons why a GPU does not run at its highest clock, those that spoil a measurement.
_THROTTLING = {
    0x4: "power cap",
    0x8: "slowdown",
    0x20: "thermal (software)",
    0x40: "thermal (hardware)",
    0x80: "power brake",
}


class Meter(Protocol):
    """One device's driver."""

    def energy_j(self) -> float | None:
        """Joules since any moment, or None where the driver does not tell."""
        ...

    def memory_mib(self) -> float | None:
        """Device memory in use by everyone, or None."""
        ...

    def state(self) -> dict[str, Any]:
        """Clocks and load at this moment; JSON-able."""
        ...


class CpuMeter:
    """The processor packages."""

    def energy_j(self) -> float | None:
        """Sum of the packages' counters, which wrap after hours; readable by root only on most systems."""
        try:
            values = [int(counter.read_text()) for counter in sorted(_RAPL.glob("intel-rapl:?/energy_uj"))]
        except OSError:
            return None
        return sum(values) / 1e6 if values else None

    def memory_mib(self) -> float | None:
        """None: host memory is measured for the process."""
        return None

    def state(self) -> dict[str, Any]:
        """Mean clock of the processors, and how busy the machine was in the last minute."""
        with contextlib.suppress(OSError):
            lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
            clocks = [float(line.partition(":")[2]) for line in lines if line.startswith("cpu MHz")]
            if clocks:
                return {"cpu_mhz": round(sum(clocks) / len(clocks)), "load": os.getloadavg()[0]}
        return {"load": os.getloadavg()[0]}


class NvidiaMeter:
    """One NVIDIA GPU through NVML."""

    def __init__(self, index: int = 0) -> None:
        """Open the driver's library.

        Raises:
            OSError: nvidia-ml-py, the driver or the GPU is not there.
        """
        try:
            import pynvml

            pynvml.nvmlInit()
            self._device = pynvml.nvmlDeviceGetHandleByIndex(_physical(index))
        except ImportError as error:
            raise OSError("nvidia-ml-py is not installed") from error
        except pynvml.NVMLError as error:
            raise OSError(f"NVML: {error}") from error
        self._nvml = pynvml

    def energy_j(self) -> float | None:
        """The GPU's counter since the driver was loaded (Volta and newer)."""
        value = self._ask(self._nvml.nvmlDeviceGetTotalEnergyConsumption)
        return None if value is None else value / 1e3

    def memory_mib(self) -> float | None:
        """Of the whole GPU: CUDA contexts, engines and allocators alike."""
        info = self._ask(self._nvml.nvmlDeviceGetMemoryInfo)
        return None if info is None else info.used / 2**20

    def state(self) -> dict[str, Any]:
        """Clocks, temperature, power, and what holds the clocks down."""
        nvml = self._nvml
        reasons = self._ask(nvml.nvmlDeviceGetCurrentClocksThrottleReasons) or 0
        power = self._ask(nvml.nvmlDeviceGetPowerUsage)
        return {
            "sm_mhz": self._ask(nvml.nvmlDeviceGetClockInfo, nvml.NVML_CLOCK_SM),
            "memory_mhz": self._ask(nvml.nvmlDeviceGetClockInfo, nvml.NVML_CLOCK_MEM),
            "celsius": self._ask(nvml.nvmlDeviceGetTemperature, nvml.NVML_TEMPERATURE_GPU),
            "watts": None if power is None else power / 1e3,
            "held_down_by": [name for bit, name in _THROTTLING.items() if reasons & bit],
        }

    def _ask(self, question: Any, *arguments: Any) -> Any:
        try:
            return question(self._device, *arguments)
        except self._nvml.NVMLError:
            return None  # this GPU or driver does not tell


def open_meter(device: str) -> Meter:
    """The meter of ``"cpu"``, ``"cuda"`` or ``"cuda:1"``.

    Raises:
        OSError: NVML cannot be opened.
    """
    kind, _, index = device.partition(":")
    return NvidiaMeter(int(index or 0)) if kind == "cuda" else CpuMeter()


def unsteadiness(before: dict[str, Any], after: dict[str, Any], cpus: int) -> list[str]:
    """Why figures taken between two states are doubtful; empty when nothing speaks against them."""
    said = []
    for name in ("sm_mhz", "memory_mhz", "cpu_mhz"):
        first, last = before.get(name), after.get(name)
        # A GPU's clocks rise at the first work: only a fall says anything.
        if first and last and last < _CLOCK_DROP * first:
            said.append(f"{name.replace('_mhz', '')} clock fell from {first} to {last} MHz")
    if after.get("held_down_by"):
        said.append(f"clocks held down by {', '.join(after['held_down_by'])}")
    load = before.get("load", 0.0)
    if load > _LOAD_LIMIT * cpus:
        said.append(f"the machine was busy before (load {load:.1f} on {cpus} CPUs)")
    return said


class EnergyCount:
    """Joules of a stretch of work; None where the driver does not tell, or it was too short for its counter."""

    def __init__(self) -> None:
        self.joules: float | None = None


@contextlib.contextmanager
def counted_energy(meter: Meter) -> Iterator[EnergyCount]:
    """Count the device's energy inside the block."""
    count = EnergyCount()
    before = meter.energy_j()
    yield count
    after = meter.energy_j()
    if before is not None and after is not None and after > before:
        count.joules = after - before


def _physical(index: int) -> int:
    """NVML numbers all GPUs, CUDA only the visible ones."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    numbers = [part.strip() for part in visible.split(",") if part.strip()]
    if index < len(numbers) and numbers[index].isdigit():
        return int(numbers[index])
    return index
