# SPDX-License-Identifier: Apache-2.0
"""From a trained network to files that other runtimes execute, each verified against the network.

>>> from deeplab_export import export_onnx, verify
>>> manifest = export_onnx(model, "model.onnx", precision="fp16")
>>> assert verify(model, "model.onnx").passed
"""

from .calibration import Calibration
from .engine import EngineOptions, build_engine
from .graph import DeploymentGraph, Signature
from .onnx_export import TracedNetwork, export_onnx
from .verify import VerificationReport, verify

__all__ = [
    "Calibration",
    "DeploymentGraph",
    "EngineOptions",
    "Signature",
    "TracedNetwork",
    "VerificationReport",
    "build_engine",
    "export_onnx",
    "verify",
]
