# SPDX-License-Identifier: Apache-2.0
"""The operators' benchmark: shapes that the published configs produce, and what each implementation runs.

An implementation is a function of no arguments that runs the operator once. ``eager`` and ``compile`` are the plain
torch composition of the same operator; ``onnxruntime`` and ``openvino`` run its ONNX export.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deeplab_infer.ops import tensors
from deeplab_infer.ops.functional import upsample_argmax
from deeplab_infer.runtime.windows import place_windows

Run = Callable[[], Any]


@dataclass(frozen=True)
class KernelCase:
    """One operator at one shape.

    Attributes:
        name: unique.
        operator: key of `MODULES`.
        channels, height, width: of the input that is convolved or resized.
        low_channels, size: of the low-level features or of the labels.
        rates: atrous rates.
        channels_last: layout of the images.
    """

    name: str
    operator: str
    channels: int
    height: int
    width: int
    low_channels: int = 0
    size: tuple[int, int] = (0, 0)
    rates: tuple[int, ...] = (1,)
    channels_last: bool = True
    window: tuple[int, int] = (0, 0)
    stride: tuple[int, int] = (0, 0)

    @property
    def batch(self) -> int:
        """Images, or the windows that cover the map."""
        return len(place_windows(*self.size, self.window, self.stride)) if self.operator == "merge_windows" else 1

    def bytes_moved(self, element: int) -> int:
        """Bytes that must move: every input once, every output once."""
        pixels, large = self.height * self.width, self.size[0] * self.size[1]
        inputs = self.channels * pixels * element
        if self.operator == "depthwise":
            return inputs * (1 + len(self.rates))
        if self.operator == "depthwise_backward":
            return inputs * (2 + 2 * len(self.rates))  # x, dy and dconv (written, read), dx
        if self.operator in ("upsample_concat", "upsample_concat_depthwise"):
            return inputs + (self.low_channels + self.channels + self.low_channels) * large * element
        if self.operator == "upsample_argmax":
            return inputs + large
        if self.operator == "merge_windows":
            return self.batch * inputs + self.channels * large * 4
        return pixels * 3 + large * 3 * element  # preprocess: uint8 in


def _shapes(suffix: str, wide: int, height: int, width: int, layout: bool) -> list[KernelCase]:
    """The head of R-50-D8 (wide 2048) or R-18-D8 (512) at stride 8; its decoder at stride 4."""
    tag = f"{suffix} {'NHWC' if layout else 'NCHW'}"
    large = (2 * height, 2 * width)
    dec = 512 if wide == 2048 else 128
    low = 48 if wide == 2048 else 12
    return [
        *(
            KernelCase(f"depthwise rate {r}, {tag}", "depthwise", wide, height, width, rates=(r,), channels_last=layout)
            for r in (1, 12, 24, 36)
        ),
        KernelCase(f"aspp_depthwise 12 24 36, {tag}", "depthwise", wide, height, width, rates=(12, 24, 36),
                   channels_last=layout),
        KernelCase(f"upsample_concat, {tag}", "upsample_concat", dec, height, width, low, large, channels_last=layout),
        KernelCase(f"upsample_concat_depthwise, {tag}", "upsample_concat_depthwise", dec, height, width, low, large,
                   channels_last=layout),
        KernelCase(f"upsample_argmax 19, {tag}", "upsample_argmax", 19, *large, size=(8 * height, 8 * width),
                   channels_last=layout),
        KernelCase(f"backward aspp 12 24 36, {tag}", "depthwise_backward", wide, height, width, rates=(12, 24, 36),
                   channels_last=layout),
    ]  # fmt: skip


SUITES: dict[str, list[KernelCase]] = {
    # What a GPU runs: R-50-D8 Cityscapes 1024x2048, ADE20K logits, and preprocessing.
    "full": [
        *_shapes("R-50-D8 1024x2048", 2048, 128, 256, True),
        *_shapes("R-50-D8 1024x2048", 2048, 128, 256, False),
        KernelCase("upsample_argmax 150, ADE20K 512x683", "upsample_argmax", 150, 128, 171, size=(512, 683)),
        KernelCase(
            "merge_windows 8 of 769x769, 1025x2049",
            "merge_windows",
            19,
            193,
            193,
            size=(1025, 2049),
            channels_last=False,
            window=(769, 769),
            stride=(513, 513),
        ),
        KernelCase("preprocess 1024x2048", "preprocess", 3, 1024, 2048, size=(1024, 2048)),
        KernelCase("preprocess 1080x1920 to 1024x2048", "preprocess", 3, 1080, 1920, size=(1024, 2048)),
    ],
    # The same for a CPU: R-18-D8 at 512x1024.
    "small": [
        *_shapes("R-18-D8 512x1024", 512, 64, 128, True),
        *_shapes("R-18-D8 512x1024", 512, 64, 128, False),
        KernelCase("upsample_argmax 150, 512x683", "upsample_argmax", 150, 128, 171, size=(512, 683)),
        KernelCase(
            "merge_windows 8 of 385x385, 513x1025",
            "merge_windows",
            19,
            97,
            97,
            size=(513, 1025),
            channels_last=False,
            window=(385, 385),
            stride=(257, 257),
        ),
        KernelCase("preprocess 512x1024", "preprocess", 3, 512, 1024, size=(512, 1024)),
        KernelCase("preprocess 720x1280 to 512x1024", "preprocess", 3, 720, 1280, size=(512, 1024)),
    ],
    # Whether everything runs.
    "tiny": [
        *(case for case in _shapes("tiny", 512, 8, 16, True) if "rate 1," not in case.name),
        KernelCase(
            "merge_windows tiny",
            "merge_windows",
            5,
            9,
            9,
            size=(50, 70),
            channels_last=False,
            window=(33, 33),
            stride=(20, 20),
        ),
        KernelCase("preprocess tiny", "preprocess", 3, 32, 64, size=(64, 128)),
    ],
}


class Depthwise(nn.Module):
    """Convolution, batch normalisation, ReLU, one branch a rate."""

    def __init__(self, channels: int, rates: tuple[int, ...]) -> None:
        super().__init__()
        self.pairs: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = []
        for r in rates:
            conv, bn = nn.Conv2d(channels, channels, 3, 1, r, r, channels, bias=False), nn.BatchNorm2d(channels)
            nn.init.uniform_(bn.weight, 0.5, 1.5)
            nn.init.normal_(bn.bias)
            assert bn.running_var is not None
            bn.running_var.uniform_(0.5, 2)
            self.pairs.append((conv, bn))
        self.layers = nn.ModuleList(nn.ModuleList(pair) for pair in self.pairs)

    def forward(self, x: Tensor) -> Any:
        outputs = tuple(F.relu(bn(conv(x))) for conv, bn in self.pairs)
        return outputs[0] if len(outputs) == 1 else outputs

    def parameters_of_kernel(self) -> tuple[Tensor, Tensor, Tensor]:
        """Weight [R, C, 3, 3], scale and shift [R, C], float32."""
        weight = torch.stack([conv.weight for conv, _ in self.pairs]).squeeze(2)
        scales, shifts = [], []
        for _, bn in self.pairs:
            assert bn.running_mean is not None and bn.running_var is not None
            scales.append(bn.weight * torch.rsqrt(bn.running_var + bn.eps))
            shifts.append(bn.bias - bn.running_mean * scales[-1])
        return weight.float().detach(), torch.stack(scales).float().detach(), torch.stack(shifts).float().detach()


class UpsampleConcat(nn.Module):
    """``concat(interpolate(x), low)``"""

    def forward(self, x: Tensor, low: Tensor) -> Tensor:
        return torch.cat([F.interpolate(x, low.shape[2:], mode="bilinear", align_corners=False), low], 1)


class UpsampleConcatDepthwise(nn.Module):
    """The above into `Depthwise`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.concat = UpsampleConcat()
        self.depthwise = Depthwise(channels, (1,))

    def forward(self, x: Tensor, low: Tensor) -> Any:
        return self.depthwise(self.concat(x, low))


class Labels(nn.Module):
    """Full-size logits and their argmax."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, self.size, mode="bilinear", align_corners=False).argmax(1).to(torch.uint8)


class MergeWindows(nn.Module):
    """Each window's logits upsampled to the window, summed, divided by the visits."""

    visits: Tensor

    def __init__(self, case: KernelCase) -> None:
        super().__init__()
        self.size, self.window = case.size, case.window
        self.places = place_windows(*case.size, case.window, case.stride)
        visits = torch.zeros(case.size)
        for w in self.places:
            visits[w.top : w.bottom, w.left : w.right] += 1
        self.register_buffer("visits", visits)

    def forward(self, x: Tensor) -> Tensor:
        full = F.interpolate(x.float(), self.window, mode="bilinear", align_corners=True)
        total = full.new_zeros(full.shape[1], *self.size)
        for w, logits in zip(self.places, full, strict=True):
            total[:, w.top : w.bottom, w.left : w.right] += logits
        return total / self.visits


class Preprocess(nn.Module):
    """Cast, resize where needed, normalise."""

    mean: Tensor
    std: Tensor

    def __init__(self, size: tuple[int, int], dtype: torch.dtype) -> None:
        super().__init__()
        self.size, self.dtype = size, dtype
        self.register_buffer("mean", torch.tensor([123.675, 116.28, 103.53]).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor([58.395, 57.12, 57.375]).view(1, 3, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        x = pixels.permute(0, 3, 1, 2).float()
        if tuple(x.shape[2:]) != self.size:
            x = F.interpolate(x, self.size, mode="bilinear", align_corners=False)
        return ((x - self.mean) / self.std).to(self.dtype)


class Problem:
    """One case on one device: its inputs, and what runs it."""

    def __init__(self, case: KernelCase, device: str, dtype: str, threads: int) -> None:
        torch.manual_seed(0)
        self.case, self.device, self.dtype, self.threads = case, device, getattr(torch, dtype), threads
        self.module = self._module().to(device).eval()
        # Normalisation stays in float32, as autocast and mmsegmentation have it; convolutions take the images' type.
        for conv in self.module.modules():
            if isinstance(conv, nn.Conv2d):
                conv.to(self.dtype)
        self.inputs = self._inputs()

    def _module(self) -> nn.Module:
        case = self.case
        if case.operator in ("depthwise", "depthwise_backward"):
            return Depthwise(case.channels, case.rates)
        if case.operator == "upsample_concat":
            return UpsampleConcat()
        if case.operator == "upsample_concat_depthwise":
            return UpsampleConcatDepthwise(case.channels + case.low_channels)
        if case.operator == "upsample_argmax":
            return Labels(case.size)
        if case.operator == "merge_windows":
            return MergeWindows(case)
        return Preprocess(case.size, self.dtype)

    def _image(self, channels: int, height: int, width: int) -> Tensor:
        made = torch.randn(self.case.batch, channels, height, width, device=self.device).to(self.dtype)
        return made.contiguous(memory_format=torch.channels_last) if self.case.channels_last else made

    def _inputs(self) -> list[Tensor]:
        case = self.case
        if case.operator == "preprocess":
            return [torch.randint(0, 256, (1, case.height, case.width, 3), dtype=torch.uint8, device=self.device)]
        inputs = [self._image(case.channels, case.height, case.width)]
        if case.low_channels:
            inputs.append(self._image(case.low_channels, *case.size))
        return inputs

    # -- implementations

    def ours(self) -> Run:
        case, inputs = self.case, self.inputs
        if case.operator == "depthwise":
            assert isinstance(self.module, Depthwise)
            kernels, scales, shifts = self.module.parameters_of_kernel()
            return lambda: tensors.aspp_depthwise(inputs[0], kernels, scales, shifts, case.rates, "relu")
        if case.operator == "depthwise_backward":
            assert isinstance(self.module, Depthwise)
            leaves = [t.requires_grad_() for t in self.module.parameters_of_kernel()]
            x = inputs[0].detach().requires_grad_()
            y = tensors.aspp_depthwise(x, leaves[0], leaves[1], leaves[2], case.rates, "relu")
            dy = torch.randn_like(y)
            return lambda: torch.autograd.grad(y, [x, *leaves], dy, retain_graph=True)
        if case.operator == "upsample_concat":
            return lambda: tensors.upsample_concat(inputs[0], inputs[1], False)
        if case.operator == "upsample_concat_depthwise":
            assert isinstance(self.module, UpsampleConcatDepthwise)
            weight, scale, shift = self.module.depthwise.parameters_of_kernel()
            return lambda: tensors.upsample_concat_depthwise(inputs[0], inputs[1], weight, scale, shift, False)
        if case.operator == "upsample_argmax":
            if self.device == "cpu":
                logits = inputs[0].float().contiguous().numpy()
                return lambda: upsample_argmax(logits, case.size, align_corners=False, threads=self.threads)
            return lambda: tensors.upsample_argmax(inputs[0], case.size, False)
        if case.operator == "merge_windows":
            given = inputs[0].float() if self.device == "cpu" else inputs[0]
            return lambda: tensors.merge_windows(given, case.size, case.window, case.stride, True)
        mean, std = (b.flatten().tolist() for b in self.module.buffers())
        return lambda: tensors.preprocess(inputs[0], mean, std, size=case.size, dtype=self.dtype)

    def eager(self) -> Run:
        return self._torch(self.module)

    def compile(self) -> Run:
        return self._torch(torch.compile(self.module))

    def _torch(self, module: Any) -> Run:
        inputs = self.inputs
        if self.case.operator == "depthwise_backward":
            x = inputs[0].detach().requires_grad_()
            y = module(x)
            outputs = y if isinstance(y, tuple) else (y,)
            dy = [torch.randn_like(out) for out in outputs]
            leaves = [x, *self.module.parameters()]
            return lambda: torch.autograd.grad(outputs, leaves, dy, retain_graph=True)

        def run() -> Any:
            with torch.inference_mode():
                return module(*inputs)

        return run

    def _onnx(self) -> bytes:
        """The module as ONNX, its images contiguous: neither runtime takes another layout."""
        contiguous = tuple(t.contiguous() for t in self.inputs)
        program = torch.onnx.export(self.module, contiguous, dynamo=True, verbose=False)
        assert program is not None
        return program.model_proto.SerializeToString()

    def onnxruntime(self) -> Run:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        session = onnxruntime.InferenceSession(self._onnx(), options, providers=["CPUExecutionProvider"])
        binding = session.io_binding()
        self._kept = [t.contiguous().numpy() for t in self.inputs]
        for given, array in zip(session.get_inputs(), self._kept, strict=True):
            binding.bind_cpu_input(given.name, array)
        for output in session.get_outputs():
            binding.bind_output(output.name)
        return lambda: session.run_with_iobinding(binding)

    def openvino(self) -> Run:
        import openvino

        from deeplab_infer.runtime.openvino_core import shared_core

        core = shared_core()
        settings = {"INFERENCE_NUM_THREADS": self.threads, "INFERENCE_PRECISION_HINT": "f32"}
        request = core.compile_model(core.read_model(self._onnx()), "CPU", settings).create_infer_request()
        for index, t in enumerate(self.inputs):
            request.set_input_tensor(index, openvino.Tensor(np.ascontiguousarray(t.contiguous().numpy())))
        return lambda: request.infer()

    def error(self) -> float | None:
        """Norm of the difference to eager over the norm of eager; for labels the share that differs."""
        if self.case.operator == "depthwise_backward":
            return None  # gradients are compared in the tests
        got, want = self.ours()(), self.eager()()
        if self.case.operator == "upsample_argmax":
            return float((torch.as_tensor(got).cpu() != want.cpu().reshape(got.shape)).float().mean())
        wanted = torch.stack(want) if isinstance(want, tuple) else want
        got = got.float().reshape(wanted.shape)
        return float((got - wanted.float()).norm() / wanted.float().norm())


def implementations(case: KernelCase, device: str) -> list[str]:
    """Who is measured: runtimes only on the CPU and without gradients."""
    names = ["ours", "eager", "compile"]
    if device == "cpu" and case.operator != "depthwise_backward":
        names += ["onnxruntime", "openvino"]
    return names
