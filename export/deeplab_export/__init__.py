# SPDX-License-Identifier: Apache-2.0
"""From a trained network to files that other runtimes execute, each verified against the network.

>>> from deeplab_export import export_onnx, verify
>>> manifest = export_onnx(model, "model.onnx", precision="fp16")
>>> assert verify(model, "model.onnx").passed
"""

from .graph import DeploymentGraph, Signature
from .onnx_export import export_onnx
from .verify import VerificationReport, verify

__all__ = ["DeploymentGraph", "Signature", "VerificationReport", "export_onnx", "verify"]
