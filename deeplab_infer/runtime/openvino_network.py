# SPDX-License-Identifier: Apache-2.0
"""A torch network on OpenVINO, converted in memory: no file, no ONNX."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import openvino
import torch
from numpy.typing import NDArray

from ..configs import ModelConfig
from ..models import DeepLab
from ..optimize import REWRITES, optimise, unfuse
from ..preprocess import normalise
from .openvino_core import shared_core
from .openvino_runner import (
    COMPUTE,
    OpenVinoRunner,
    compile_model,
    device_of,
    resolve_precision,
    rewrite_for_size,
    threads_of,
)
from .openvino_sizes import Shape, SizedModels
from .torch_runner import load_network, network_manifest

_log = logging.getLogger(__name__)
_TRACED_SIZE = (64, 96)


def open_model(
    model: Any, device: str, threads: int | None, precision: str | None, fused: bool = True
) -> OpenVinoRunner:
    """A runner of a network, a checkpoint file, or a config's name.

    Args:
        model: the network, which stays as it is, or where it is.
        device: ``"auto"`` (the CPU), ``"cpu"``, ``"gpu"`` or ``"npu"``.
        threads: CPU threads; None is one a physical core.
        precision: None or ``"fp32"``, ``"bf16"``, or ``"fastest"``: bf16 where the device computes in it.
        fused: compute wide float32 convolutions as `openvino_winograd` does.

    Raises:
        BackendError: not a network, no such device, or a precision that it does not have.
    """
    network = load_network(model)
    core = shared_core()
    wanted = device_of(core, device)
    label = network.config.name
    chosen = resolve_precision(core, wanted, precision, label)
    compute = COMPUTE[chosen]
    was_training = network.training
    try:
        graphs = _Graphs(network.eval(), fused)
    finally:
        network.train(was_training)
    models = SizedModels(lambda shape: graphs.compile(core, shape, wanted, compute, threads), by_size=wanted == "CPU")
    used = threads_of(models.compiled, wanted)
    tools = {"openvino": openvino.__version__, "torch": torch.__version__}
    manifest = network_manifest(network, chosen, graphs.report, tools)
    return OpenVinoRunner(
        models, manifest, wanted.lower(), compute, threads=used, prepare=_normaliser(network.config, used)
    )


class _Graphs:
    """OpenVINO graphs of one network, float32 [N, 3, H, W] to logits."""

    def __init__(self, network: DeepLab, fused: bool) -> None:
        """Rewrite and convert; the network itself stays as it is."""
        self._fused = fused
        self._network, self.report = optimise(network)
        unfuse(self._network).requires_grad_(False)
        self._open = convert(self._network)

    def compile(self, core: Any, shape: Shape | None, device: str, compute: str, threads: int | None) -> Any:
        """For inputs of any size, or of one with the rewrites that it allows; None where it allows none."""
        if shape is None:
            return compile_model(core, self._open.clone(), device, compute, threads)
        size = (shape[2], shape[3])
        by_size = [one for one in REWRITES if not one.why_not(self._network, size)]
        graph = convert(optimise(self._network, size=size)[0]) if by_size else self._open.clone()
        graph.reshape({0: list(shape)})
        rewritten = rewrite_for_size(graph, device, compute) if self._fused else []
        if not rewritten and not by_size:
            return None
        return compile_model(core, graph, device, compute, threads)


def convert(network: DeepLab) -> Any:
    """An OpenVINO graph of an eval-mode network, for inputs of any size.

    Args:
        network: without fused kernels; its weights are shared, not copied.

    Returns:
        An ``openvino.Model`` from float32 ``image`` [N, 3, H, W] to float32 ``logits``.
    """
    example = torch.zeros(1, 3, *_TRACED_SIZE)
    with torch.no_grad(), warnings.catch_warnings():
        # torch.jit.trace is announced to go; OpenVINO's converter itself still uses it for modules.
        warnings.simplefilter("ignore", DeprecationWarning)
        graph = openvino.convert_model(
            torch.jit.trace(network, example, check_trace=False),
            example_input=example,
            input=[openvino.PartialShape([-1, 3, -1, -1])],
        )
    graph.input(0).get_tensor().set_names({"image"})
    graph.output(0).get_tensor().set_names({"logits"})
    return graph


def _normaliser(config: ModelConfig, threads: int | None) -> Callable[[NDArray[Any]], NDArray[np.float32]]:
    return lambda batch: normalise(batch, config, threads)
