# SPDX-License-Identifier: Apache-2.0
"""``deeplab-export``: a checkpoint to a verified ONNX file, TensorRT engine, OpenVINO file or Triton repository."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deeplab_infer.commands.cli import make_console, run_command
from deeplab_infer.configs import list_configs, load_config
from deeplab_infer.engine_manifest import Profile, manifest_path
from deeplab_infer.errors import BackendError, ExportError
from deeplab_infer.files import atomic_write, require_writable_dir, umask

from .options import PROG, build_parser

if TYPE_CHECKING:
    from rich.console import Console

    from deeplab_infer.manifest import Manifest
    from deeplab_infer.models import DeepLab

    from .engine import EngineOptions
    from .graph import Signature
    from .onnx_export import TracedNetwork
    from .precision import Precision
    from .triton import ModelFolder, Stage, TritonOptions
    from .verify import Sample, Thresholds, VerificationReport

_log = logging.getLogger(__name__)
_SUFFIXES = {"onnx": (".onnx",), "engine": (".onnx", ".engine"), "openvino": (".xml",)}
# What a Triton model is made from, by its backend.
_TRITON_FORMATS = {"onnxruntime": "onnx", "tensorrt": "engine", "openvino": "openvino"}


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    return run_command(PROG, build_parser(), lambda arguments: _run(arguments, words), argv)


def _run(arguments: argparse.Namespace, words: Sequence[str]) -> int:
    # A default in the parser would hide that two options of the group were given.
    arguments.precision = arguments.precision or "fp32"
    arguments.output = arguments.output or ("labels" if arguments.format == "triton" else "logits")
    if arguments.list:
        print("\n".join(list_configs()))
        return 0
    if arguments.config is None and arguments.checkpoint is None:
        raise ExportError("give --config NAME, --checkpoint FILE, or both (--list shows the names)")
    if arguments.explain:
        return _explain(arguments)
    job = _Job(arguments, words)
    if arguments.save_command:
        return job.save_command()
    folder = require_writable_dir(arguments.output_dir)
    return job.list_layers() if arguments.list_layers else job.run(folder)


def _explain(arguments: argparse.Namespace) -> int:
    """Print what the rewrites and the output strides do; no file is written but that of --json."""
    from .explain import explain

    if arguments.json not in (None, "-"):
        require_writable_dir(Path(arguments.json).parent)
    console = make_console(stderr=True, quiet=arguments.quiet)
    with console.status("loading"):
        model, trained_stride = _load_trained(arguments)
    samples = _given_samples(arguments, model)
    with _bar(console, arguments.quiet) as update:
        found = explain(
            model,
            _signature(arguments, "engine"),
            output_stride=arguments.output_stride,
            trained_stride=trained_stride,
            precision=arguments.precision,
            rewrites=not arguments.no_rewrites,
            samples=samples,
            progress=update,
        )
    if arguments.json != "-":
        found.print(make_console())
    _write_json(arguments.json, json.dumps(found.to_dict(), indent=1))
    return 0


class _Job:
    """One run of the command."""

    def __init__(self, arguments: argparse.Namespace, words: Sequence[str]) -> None:
        from .precision import choose_precision
        from .triton.arguments import triton_engine_options, triton_options

        self._arguments = arguments
        self._command = shlex.join([PROG, *words])
        self._console: Console = make_console(stderr=True, quiet=arguments.quiet)
        self._triton = triton_options(arguments)
        self._format = _TRITON_FORMATS[self._triton.backend] if self._triton else _choose_format(arguments)
        self._given: list[Sample] | None = None  # images to verify with, where not the default ones
        rest = arguments.rest or ("fp16" if self._format == "engine" else "fp32")
        self._precision: Precision = choose_precision(arguments.precision, rest)
        self._options = _engine_options(arguments) if self._format == "engine" else None
        if self._triton is not None and self._options is not None:
            self._options = triton_engine_options(self._options)
        if arguments.check_server:
            from .triton.server import find_server

            find_server()
        if self._options is not None and not arguments.save_command:
            from .engine import require_builder

            require_builder(self._options)

    def run(self, folder: Path) -> int:
        """Write, verify, report."""
        model = _load_model(self._arguments)
        if self._triton is not None:
            return self._write_repository(model, folder, self._triton)
        stem = self._stem(model)
        targets = [folder / f"{stem}{suffix}" for suffix in _SUFFIXES[self._format]]
        if (found := next((target for target in targets if target.exists()), None)) and not self._arguments.force:
            raise ExportError(f"{found} exists; choose another --output-dir or --name, or replace it with --force")
        traced, write = self._traced(model), self._writer()
        # What is not finished lies in a folder of its own, which disappears with an error or Ctrl-C.
        with tempfile.TemporaryDirectory(prefix=".deeplab-export-", dir=folder) as name:
            work = Path(name)
            reports = [self._verified(traced, work / targets[0].name, write)]
            if targets[0].suffix == ".xml":  # goes first and comes last: with it the pair is complete
                targets[0].unlink(missing_ok=True)
                _publish(work / targets[0].with_suffix(".bin").name, folder)
            for old in targets[1:]:  # an engine of an earlier file
                old.unlink(missing_ok=True)
                manifest_path(old).unlink(missing_ok=True)
            _publish(work / targets[0].name, folder)
            if reports[0] is not None and not reports[0].passed and self._format == "engine":
                _log.warning("no engine is built from a file that failed its verification")
            elif self._format == "engine":
                reports += self._engine(model, targets[0], work / targets[1].name)
                _publish(manifest_path(work / targets[1].name), folder)
                _publish(work / targets[1].name, folder)
        named = dict(zip(("file", "engine"), reports, strict=False))
        return self._conclude(named, targets, targets[0].with_suffix(".report.json"))

    def list_layers(self) -> int:
        """Print the layers that --keep takes."""
        from .quantize import layers, quantisable

        with self._console.status("tracing"):
            traced = self._trace(_load_model(self._arguments))
        eight_bit = set(quantisable(traced.graph))
        for name in layers(traced.graph):
            print(name if name in eight_bit else f"{name}  (never in eight bits)")
        return 0

    def save_command(self) -> int:
        """Print what builds the same engine with NVIDIA's tool."""
        from deeplab_infer.runtime.tensorrt_flavour import load_flavour

        from .engine import resolve_options
        from .trtexec import trtexec_command

        if self._options is None:
            raise ExportError("--save-command is for engines: add --format engine")
        arguments = self._arguments
        onnx_path = Path(arguments.output_dir) / f"{self._stem(None)}.onnx"
        from .onnx_export import promised_manifest

        config = (
            load_config(arguments.config, arguments.overrides) if arguments.config else _load_model(arguments).config
        )
        manifest = promised_manifest(config, _signature(arguments, self._format), self._precision)
        flavour = load_flavour(self._options.flavour)
        options = resolve_options(self._options, manifest, flavour)
        print(trtexec_command(manifest, str(onnx_path), str(onnx_path.with_suffix(".engine")), options, flavour))
        return 0

    # -- steps

    def _traced(self, model: DeepLab) -> TracedNetwork:
        """The network's graph, after the images to verify with were found."""
        if not self._arguments.no_verify:
            self._given = self._samples(model)
        with self._console.status(f"tracing {model.config.name}"):
            traced = self._trace(model)
        self._say_rewrites(model)
        return traced

    def _writer(self) -> Callable[[TracedNetwork, Path, Sequence[str]], None]:
        return self._write_openvino if self._format == "openvino" else self._write_onnx

    def _trace(self, model: DeepLab) -> TracedNetwork:
        from .calibration import Calibration
        from .onnx_export import TracedNetwork

        arguments = self._arguments
        calibration = Calibration(
            tuple(arguments.calibration),
            arguments.calibration_images,
            arguments.calibration_method,
            arguments.calibration_percentile,
        )
        return TracedNetwork(
            model,
            _signature(arguments, self._format),
            arguments.opset,
            calibration,
            custom_ops=arguments.custom_ops,
            rewrites=not arguments.no_rewrites,
        )

    def _verified(
        self, traced: TracedNetwork, target: Path, write: Callable[[TracedNetwork, Path, Sequence[str]], None]
    ) -> VerificationReport | None:
        """Write the file and check it; where it fails, look for the layers to keep and write it again."""
        keep = list(self._arguments.keep)
        if self._precision.eight_bits is not None and self._format != "openvino":
            self._calibrate(traced)
        with self._console.status(f"writing {target.name}"):
            write(traced, target, keep)
        if self._arguments.no_verify:
            return None
        report = self._verify(traced.model, target)
        low = self._precision.half is not None or self._precision.eight_bits is not None
        if report.passed or not low or self._arguments.no_search or self._format == "openvino":
            return _finished(target, report)
        self._show(report)
        self._console.print("thresholds missed: looking for the layers to keep in higher precision")
        found = self._search(traced, report.thresholds, report.judged_labels)
        if not self._arguments.quiet:
            self._console.print(found.table())
        if found.passed and found.kept:
            keep = list(dict.fromkeys([*keep, *found.kept]))
            self._console.print(
                f"keeping {len(found.kept)} of {len(found.layers)} layers in higher precision ({found.cost:.1%} of the "
                f"multiply-adds): {', '.join(found.kept)}",
                soft_wrap=True,
            )
            write(traced, target, keep)
            report = self._verify(traced.model, target)
        return _finished(target, replace(report, search=found.to_dict()))

    def _calibrate(self, traced: TracedNetwork) -> None:
        with self._console.status("preparing calibration images"):
            count = len(traced.calibration_inputs)
        with _bar(self._console, self._arguments.quiet) as update:
            traced.magnitudes(lambda done: update("calibrating", done, count))

    def _write_onnx(self, traced: TracedNetwork, target: Path, keep: Sequence[str]) -> None:
        traced.write(target, self._precision, keep)

    def _write_openvino(self, traced: TracedNetwork, target: Path, keep: Sequence[str]) -> None:
        from .openvino_export import export_openvino

        export_openvino(traced, target, self._precision, keep)

    def _verify(self, model: DeepLab, target: Path) -> VerificationReport:
        from .verify import verify

        with self._console.status("verifying"):
            report = verify(
                model,
                target,
                samples=self._given,
                runtimes=self._arguments.runtime or ("onnxruntime",),
                thresholds=self._thresholds(),
            )
        return replace(report, file=target.name)

    def _search(self, traced: TracedNetwork, thresholds: Thresholds, judged_labels: bool) -> Any:
        from .sensitivity import search
        from .verify import default_samples, fit_samples

        manifest = traced.manifest(self._precision, (), self._arguments.opset)
        samples = default_samples(manifest) if self._given is None else fit_samples(self._given, manifest)
        with _bar(self._console, self._arguments.quiet) as update:
            return search(
                traced,
                self._precision,
                samples,
                thresholds,
                judged_labels=judged_labels,
                progress=lambda done, planned: update("running with single layers", done, planned),
            )

    def _thresholds(self) -> Thresholds:
        from .verify import THRESHOLDS

        limits = THRESHOLDS[self._arguments.precision]
        if self._arguments.min_agreement is not None:
            limits = replace(limits, agreement=self._arguments.min_agreement)
        if self._arguments.max_drop is not None:
            limits = replace(limits, miou_drop=self._arguments.max_drop)
        return limits

    def _samples(self, model: DeepLab) -> list[Sample] | None:
        from .verify import Sample

        arguments = self._arguments
        if (given := _given_samples(arguments, model)) is not None:
            return given
        if model.config.dataset.name != "synthetic_streets" or arguments.height or arguments.width:
            return None
        from deeplab_infer.data.synthetic_streets import generate_street

        # The bundled model knows these scenes, so its mIoU can be judged too; for eight bits over more of them, because
        # rare classes decide it.
        sizes = ((512, 1024), (257, 513), (384, 256)) * (4 if self._precision.eight_bits is not None else 1)
        return [Sample(f"street {i}", *generate_street(1_000_000 + i, *size)) for i, size in enumerate(sizes)]

    def _engine(
        self, model: DeepLab, onnx_path: Path, target: Path, cache_folder: Path | None = None
    ) -> list[VerificationReport]:
        """Build the engine, and run it where there is a GPU."""
        from .engine import build_engine
        from .engine_layers import layers_table

        assert self._options is not None
        with _bar(self._console, self._arguments.quiet) as update:
            engine = build_engine(
                onnx_path,
                target,
                self._options,
                command=self._command,
                cache_folder=cache_folder or onnx_path.parent,
                progress=update,
            )
        found = engine.manifest
        types = ", ".join(f"{count} {kind}" for kind, count in found.layers.items())
        self._console.print(
            f"{target.name}: {found.flavour} {found.version}, {target.stat().st_size / 1e6:.0f} MB; layers: {types} "
            f"({found.layers_from}); batch x height x width: {'; '.join(map(str, found.profiles))}",
            soft_wrap=True,
        )
        if self._arguments.layers:
            make_console().print(layers_table(engine.layers, f"layers of {target.name} ({found.layers_from})"))
        if self._arguments.no_verify:
            return []
        if found.gpu is None:
            _log.warning("%s was built but not run: there is no GPU here; run deeplab-eval where one is", target.name)
            return []
        return [self._verify(model, target)]

    # -- Triton

    def _write_repository(self, model: DeepLab, folder: Path, options: TritonOptions) -> int:
        """One version of a model in a Triton repository; what fails its verification does not get there."""
        from .triton import ModelFolder

        place = ModelFolder(folder, self._stem(model), options.version, options.backend)
        texts = self._triton_texts(model, place.name, options)
        place.check(texts, force=self._arguments.force)
        if model.config.test_mode == "slide":
            _log.warning("the config's test mode is windows; a Triton model runs the whole images that it is sent")
        if options.backend == "openvino" and self._precision.name != "bf16":
            _log.warning("on CPUs with bfloat16 Triton's openvino backend computes in it, whatever the file says")
        traced = self._traced(model)
        with place.stage(texts) as stage:
            reports = self._stage_model(traced, place, stage)
            passed = _all_passed(reports)
            if passed:
                place.publish(stage, texts)
            else:
                _log.warning("%s is left as it was: the model failed its verification", place.path)
        files = [place.model_file, *(place.path / name for name in texts)] if passed else []
        return self._conclude(reports, files, folder / f"{place.name}.{place.version}.report.json")

    def _triton_texts(self, model: DeepLab, name: str, options: TritonOptions) -> dict[str, str]:
        """config.pbtxt and labels.txt of the file that is going to be written."""
        from .onnx_export import promised_manifest
        from .triton import config_text, label_text, shared_files
        from .triton.arguments import serving_profiles

        manifest = promised_manifest(model.config, _signature(self._arguments, self._format), self._precision)
        profiles = serving_profiles(self._arguments, manifest)
        if self._options is not None:
            self._options = replace(self._options, profiles=profiles)
        return shared_files(config_text(name, manifest, options, profiles), label_text(manifest))

    def _stage_model(
        self, traced: TracedNetwork, place: ModelFolder, stage: Stage
    ) -> dict[str, VerificationReport | None]:
        """The model file with its manifest, verified; an engine is built from an ONNX file that is not kept."""
        from deeplab_infer.runtime import read_manifest

        target = stage.version / place.model_file.name
        source = target if self._options is None else stage.root / "model.onnx"
        reports: dict[str, VerificationReport | None] = {"file": self._verified(traced, source, self._writer())}
        if self._options is not None and _all_passed(reports):
            for report in self._engine(traced.model, source, target, cache_folder=place.root):
                reports["engine"] = report
        if not target.exists():  # no engine is built from a file that failed
            return reports
        manifest = read_manifest(target)
        (stage.version / "manifest.json").write_text(json.dumps(json.loads(manifest.to_json()), indent=1) + "\n")
        if self._arguments.check_server and _all_passed(reports):
            reports["server"] = self._on_server(traced.model, place.name, manifest, stage.root)
        return reports

    def _on_server(self, model: DeepLab, name: str, manifest: Manifest, root: Path) -> VerificationReport:
        from .triton.server import check_on_server
        from .verify import default_samples, fit_samples

        samples = default_samples(manifest) if self._given is None else fit_samples(self._given, manifest)
        with self._console.status("verifying on tritonserver"):
            return check_on_server(model, root, name, manifest, samples, self._thresholds())

    # -- saying

    def _conclude(self, reports: dict[str, VerificationReport | None], files: list[Path], report_path: Path) -> int:
        """Show and write the reports, print the files that are there; returns the exit code."""
        found = {name: report for name, report in reports.items() if report is not None}
        for report in found.values():
            self._show(report)
        if reports["file"] is None:
            print(f"WARNING: {files[0]} was NOT verified (--no-verify)", file=sys.stderr)
        self._write_report(report_path, found)
        for file in files:
            if file.exists():
                print(file)
        return 0 if _all_passed(reports) else 1

    def _say_rewrites(self, model: DeepLab) -> None:
        """One line: the exact rewrites in the file, and what they save."""
        from .explain import ELEMENT_BYTES, counted_size, difference, rewrite_steps

        signature = _signature(self._arguments, self._format)
        size, _ = counted_size(model.config, signature)
        element_bytes = ELEMENT_BYTES[self._arguments.precision]
        rewrites = not self._arguments.no_rewrites
        steps = rewrite_steps(model.config, size, signature.fixed_size, element_bytes, rewrites)
        names = ", ".join(step.rewrite.name for step in steps if step.rewrite.applied)
        saved = difference(steps[0].before, steps[-1].after)
        text = f"rewrites: {names}; at {size[0]}x{size[1]} {saved} (--explain shows each)"
        self._console.print(text, soft_wrap=True, highlight=False)

    def _show(self, report: VerificationReport) -> None:
        console = make_console(stderr=True)
        if not self._arguments.quiet:
            console.print(report.table())
            if not report.judged_labels:
                console.print("random weights: label agreement is shown but does not decide")
        verdict = "PASSED" if report.passed else "FAILED"
        console.print(f"{verdict}: {report.file} ({report.precision})", soft_wrap=True)

    def _write_report(self, path: Path, reports: dict[str, VerificationReport]) -> None:
        if not reports:
            return
        first, *others = (report.to_dict() for report in reports.values())
        text = json.dumps(first | dict(zip(list(reports)[1:], others, strict=True)), indent=1)
        with atomic_write(path, "w") as stream:
            stream.write(text + "\n")
        _write_json(self._arguments.json, text)

    def _stem(self, model: DeepLab | None) -> str:
        arguments = self._arguments
        suffix = "" if arguments.precision == "fp32" else f"_{arguments.precision}"
        if arguments.name:
            return str(arguments.name)
        if model is not None:
            return model.config.name + suffix
        name = load_config(arguments.config).name if arguments.config else Path(arguments.checkpoint).stem
        return name + suffix


def _choose_format(arguments: argparse.Namespace) -> str:
    """An engine where one can be built here, else an ONNX file; what was chosen is said."""
    if arguments.format != "auto":
        return str(arguments.format)
    from deeplab_infer.runtime.tensorrt_flavour import load_flavour

    from .engine import gpu_name

    try:
        flavour = load_flavour(arguments.flavour)
    except BackendError as error:
        if arguments.flavour != "auto" or arguments.save_command:
            raise
        _log.info("writing ONNX only: %s", error)
        return "onnx"
    if not flavour.supports("building without a GPU") and gpu_name() is None:
        _log.warning("writing ONNX only: %s needs an NVIDIA GPU to build engines, and none was found", flavour.name)
        return "onnx"
    return "engine"


def _signature(arguments: argparse.Namespace, kind: str) -> Signature:
    from .graph import Signature

    sizes = {name: getattr(arguments, name) for name in ("batch", "height", "width") if getattr(arguments, name)}
    for profile in arguments.profile if kind == "engine" else ():
        for name in ("batch", "height", "width"):
            sizes[name] = _union(sizes.get(name), getattr(profile, name))
    return Signature(arguments.input, arguments.output, **sizes)


def _union(one: tuple[int, int, int] | None, other: tuple[int, int, int]) -> tuple[int, int, int]:
    return other if one is None else (min(one[0], other[0]), one[1], max(one[2], other[2]))


def _engine_options(arguments: argparse.Namespace) -> EngineOptions:
    from .engine import EngineOptions, plugin_library

    plugins = list(arguments.plugin)
    if arguments.custom_ops:
        plugins.insert(0, str(plugin_library()))
    return EngineOptions(
        flavour=arguments.flavour,
        profiles=tuple(arguments.profile) or _profile_of_sizes(arguments),
        workspace=arguments.workspace,
        optimisation_level=arguments.optimization_level,
        hardware_compatibility=arguments.hardware_compatibility,
        version_compatible=arguments.version_compatible,
        strip_weights=arguments.strip_weights,
        refit=arguments.refit,
        compute_capabilities=tuple(arguments.compute_capability),
        timing_cache=not arguments.no_timing_cache,
        plugins=tuple(plugins),
    )


def _profile_of_sizes(arguments: argparse.Namespace) -> tuple[Profile, ...]:
    """The profile that --height and --width say; the batch is 1 unless it was given."""
    if arguments.height is None or arguments.width is None:
        return ()
    return (Profile(arguments.batch or (1, 1, 1), arguments.height, arguments.width),)


def _load_model(arguments: argparse.Namespace) -> DeepLab:
    """The network that is exported."""
    from deeplab_infer import checkpoints

    model, _ = _load_trained(arguments)
    if arguments.output_stride is not None:
        model = checkpoints.with_config(model, model.config.with_output_stride(arguments.output_stride))
    return model


def _load_trained(arguments: argparse.Namespace) -> tuple[DeepLab, int]:
    """The network before --output-stride, and the output stride that its config without --set says."""
    from deeplab_infer import checkpoints
    from deeplab_infer.models import build_model

    config = load_config(arguments.config, arguments.overrides) if arguments.config else None
    source = arguments.checkpoint or "auto"
    if source == "random":
        if config is None:
            raise ExportError("--checkpoint random needs --config")
        import torch

        torch.manual_seed(0)
        _log.warning("random weights: the file has the right shape and speed, but its labels mean nothing")
        model = build_model(config).eval()
    else:
        model = checkpoints.load(source, config, trust=arguments.trust_checkpoint, progress=not arguments.quiet)
    if config is not None:
        return model, load_config(arguments.config).output_stride
    trained_stride = model.config.output_stride
    if arguments.overrides:
        from deeplab_infer.configs import apply_overrides

        model = checkpoints.with_config(model, apply_overrides(model.config, arguments.overrides))
    return model, trained_stride


def _given_samples(arguments: argparse.Namespace, model: DeepLab) -> list[Sample] | None:
    """The images of --images with the masks of --labels; None without."""
    from deeplab_infer.images import list_images, read_image

    from .verify import Sample

    if not arguments.images:
        if arguments.labels:
            raise ExportError("--labels are the masks of --images; give those images too")
        return None
    paths = list_images(arguments.images)
    return [Sample(path.name, read_image(path), _labels(path, arguments.labels, model)) for path in paths]


def _labels(image: Path, folder: str | None, model: DeepLab) -> Any:
    """The mask of an image: a PNG of class numbers with the same name, palettised or grey."""
    if folder is None:
        return None
    import numpy as np
    from PIL import Image

    path = Path(folder) / f"{image.stem}.png"
    if not path.is_file():
        raise ExportError(f"{path}: no such mask; --labels needs a PNG of class numbers for every image")
    labels = np.asarray(Image.open(path))
    allowed = {*range(model.config.num_classes), model.config.dataset.ignore_index}
    if labels.ndim != 2 or not set(np.unique(labels).tolist()) <= allowed:
        raise ExportError(
            f"{path}: not a mask of class numbers 0..{model.config.num_classes - 1} "
            f"(or {model.config.dataset.ignore_index} for pixels to ignore)"
        )
    return labels


def _all_passed(reports: dict[str, VerificationReport | None]) -> bool:
    """What was verified passed; None was not."""
    return all(report is None or report.passed for report in reports.values())


def _write_json(target: str | None, text: str) -> None:
    """Where --json says: a file, ``-`` for stdout, or nowhere."""
    if target == "-":
        print(text)
    elif target:
        with atomic_write(target, "w") as stream:
            stream.write(text + "\n")


def _publish(path: Path, folder: Path) -> None:
    """Move a finished file to where it belongs."""
    os.chmod(path, 0o666 & ~umask())
    os.replace(path, folder / path.name)


def _finished(path: Path, report: VerificationReport) -> VerificationReport:
    """The report of a file that carries its summary."""
    import onnx

    from deeplab_infer.manifest import read_onnx_manifest

    from .onnx_export import write_onnx

    if path.suffix == ".onnx":
        write_onnx(onnx.load(str(path)), path, replace(read_onnx_manifest(path), report=_summary(report)))
    return report


def _summary(report: VerificationReport) -> dict[str, object]:
    errors = [case.logits_error for case in report.cases if case.logits_error is not None]
    return {
        "passed": report.passed,
        "runtimes": sorted({case.runtime for case in report.cases}),
        "max_logits_error": max(errors, default=None),
        "min_label_agreement": min(case.agreement for case in report.cases),
    }


@contextlib.contextmanager
def _bar(console: Console, quiet: bool) -> Iterator[Callable[[str, int, int], None]]:
    """Progress bars by phase; a finished phase disappears."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=quiet, transient=True) as progress:
        tasks: dict[str, Any] = {}

        def update(phase: str, done: int, total: int) -> None:
            if phase not in tasks:
                tasks[phase] = progress.add_task(phase, total=total)
            progress.update(tasks[phase], completed=done, visible=done < total)

        yield update


if __name__ == "__main__":
    sys.exit(main())
