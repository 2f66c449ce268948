# SPDX-License-Identifier: Apache-2.0
"""The GPU code in the built module: registers never spill, the hot kernels load and store 16 bytes at a time."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

from deeplab_infer import _C

ARCHITECTURES = [part.removesuffix("-real") for part in _C.build_info()["cuda_architectures"].split()]
# Of the packages nvidia-cuda-cuobjdump and nvidia-cuda-nvdisasm.
TOOLS = Path(sysconfig.get_path("purelib"), "nvidia", "cu13", "bin")
PATH = os.pathsep.join([os.environ.get("PATH", ""), str(TOOLS)])
CUOBJDUMP = shutil.which("cuobjdump", path=PATH)

pytestmark = [
    pytest.mark.skipif(not _C.build_info()["cuda"], reason="this build has no CUDA kernels (no nvcc)"),
    pytest.mark.skipif(CUOBJDUMP is None, reason="cuobjdump is not installed (pip install nvidia-cuda-cuobjdump)"),
]


def cuobjdump(*arguments):
    command = [CUOBJDUMP, *arguments, str(_C.__file__)]
    environment = {**os.environ, "PATH": PATH}
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_no_kernel_uses_local_memory(architecture):
    usage = cuobjdump("-res-usage", "-arch", f"sm_{architecture}")
    found = re.findall(r"Function (\S+):\s+REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", usage)
    assert len(found) == usage.count("Function ") >= 90
    for name, registers, stack, local in found:
        assert (int(stack), int(local)) == (0, 0), name
        assert int(registers) < 255, f"{name} has no register to spare"


def test_hot_kernels_move_sixteen_bytes_at_a_time():
    architecture = "90" if "90" in ARCHITECTURES else ARCHITECTURES[0]
    instructions: dict[str, set[str]] = {}
    name = ""
    for line in cuobjdump("-sass", "-arch", f"sm_{architecture}").splitlines():
        if match := re.search(r"Function : (\S+)", line):
            name = match.group(1)
        elif match := re.search(r"\s(LDG|STG|LDL|STL)(\.[A-Z0-9.]+)?\s", line):
            instructions.setdefault(name, set()).add(match.group(1) + (match.group(2) or ""))
    wide = ("DepthwiseNhwcI6__halfLi8", "DepthwiseNchwI6__halfLi8", "DepthwiseNhwcIfLi4", "ConcatNhwcI6__halfLi8",
            "DepthwiseInputGradientI6__halfLi8")  # fmt: skip
    for kernel in wide:
        (found,) = [used for name, used in instructions.items() if kernel in name and "SidesE1" not in name]
        assert any(i.startswith("LDG") and ".128" in i for i in found), (kernel, found)
        assert any(i.startswith("STG") and ".128" in i for i in found), (kernel, found)
    for name, used in instructions.items():
        assert not [i for i in used if i.startswith(("LDL", "STL"))], name
