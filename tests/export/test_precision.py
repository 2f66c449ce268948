# SPDX-License-Identifier: Apache-2.0
"""Half-precision graphs: which type computes what, how far the results are off, what is refused."""

import copy

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch
from deeplab_export.convert import convert, emulate_bfloat16, emulate_half
from deeplab_export.onnx_export import opset_of
from deeplab_export.precision import PRECISIONS, Precision, choose_precision, kept_in_float32, to_half
from deeplab_export.quantize import layers, quantisable
from onnx import TensorProto, numpy_helper

from deeplab_infer.errors import ExportError
from deeplab_infer.runtime import open_runner
from deeplab_infer.runtime.onnxruntime_runner import open_bytes

from ..networks import make_network, random_images, reference_logits
from .conftest import FAMILIES, trace
from .tiny import DENSE, SIZE, constants, consumers, producers, relative_rms, run, session, types

HALVES = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
# Unit roundoff: 11 and 8 significant bits, rounded to nearest.
ROUNDOFF = {"fp16": 2.0**-11, "bf16": 2.0**-8}
FLOATING = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16}


def bound(precision, graph):
    """Every convolution rounds its weights and its result, each by at most one roundoff of the value.

    Roundings are independent, so their squares add. A layer whose terms cancel grows what comes in beside its result,
    here by no more than a factor of 4: the networks keep the scale of their activations.
    """
    return 4 * ROUNDOFF[precision] * np.sqrt(2 * len(layers(graph)))


@pytest.fixture(scope="session")
def images():
    return random_images(1, *SIZE)


def with_weight(model, layer, values):
    """The graph with other weights in one layer."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    name = layers(model)[layer].input[1]
    tensor = next(tensor for tensor in changed.graph.initializer if tensor.name == name)
    tensor.CopyFrom(numpy_helper.from_array(values(numpy_helper.to_array(tensor)).astype(np.float32), name))
    return changed


@pytest.mark.parametrize("family", ["mobilenet", "v3plus-r18", "v3-r18", "smp-like"])
def test_families_compute_in_the_half_type_between_float32_ends(family, images):
    traced = trace(make_network(*FAMILIES[family]))
    exact = reference_logits(traced.model, images, torch.float64)
    # As `bound`, with float32's 24 bits and sums of up to some thousand terms, whose roundings add like their root.
    assert relative_rms(run(traced.graph, images), exact) < 4 * 2.0**-24 * np.sqrt(2 * len(layers(traced.graph)) * 5000)
    assert traced.convert(PRECISIONS["tf32"]) == traced.convert(PRECISIONS["fp32"]) == traced.graph
    for precision, half in HALVES.items():
        graph = traced.convert(PRECISIONS[precision])
        known = types(graph)
        assert graph.graph.input[0] == traced.graph.graph.input[0]
        assert graph.graph.output[0] == traced.graph.graph.output[0]
        for node in graph.graph.node:
            if node.op_type == "Conv":
                assert {known[name] for name in (*node.input, *node.output)} == {half}, node.name
            elif node.op_type in ("Sub", "Div", "ReduceMean"):
                assert {known[name] for name in (*node.input, *node.output)} & FLOATING == {TensorProto.FLOAT}, (
                    node.name
                )
        # No weight is stored twice or unused.
        used = {name for node in graph.graph.node for name in node.input}
        assert {tensor.name for tensor in graph.graph.initializer} <= used
        assert all(array.dtype != np.float32 for array in constants(graph).values() if array.ndim == 4)
        assert relative_rms(run(emulate_half(graph, half), images), exact) < bound(precision, graph)
    # Eight bits in the same networks, on what they were calibrated for. A step of int8 is 1/127 of a peak of some four
    # standard deviations, of fp8 (4 significant bits) a sixteenth of the value; clipping and cancelling as in `bound`.
    images = traced.calibration_inputs[0]
    exact = reference_logits(traced.model, images, torch.float64)
    for precision, step in (("int8", 4 / 127), ("fp8", 2.0**-4)):
        graph = traced.convert(choose_precision(precision, "fp16"))
        count = sum(node.op_type == "DequantizeLinear" for node in graph.graph.node)
        assert count > len(quantisable(traced.graph))
        assert relative_rms(run(graph, images), exact) < 4 * step / np.sqrt(12) * np.sqrt(count)


@pytest.mark.parametrize("precision", HALVES)
def test_kept_layers_compute_in_float32(tiny, images, precision):
    kept = ("stem", "block.second", "classifier")
    graph = tiny.convert(PRECISIONS[precision], kept)
    known = types(graph)
    for node in graph.graph.node:
        if node.op_type == "Conv":
            layer = node.input[1].removeprefix("network.").partition(".weight")[0]
            wanted = TensorProto.FLOAT if layer in kept else HALVES[precision]
            assert {known[name] for name in (*node.input, *node.output)} == {wanted}, layer
    # The activation of a kept layer still sees all its digits.
    assert known["relu"] == TensorProto.FLOAT
    # A neighbour gets its half by one cast.
    assert sum(node.op_type == "Cast" for node in consumers(graph, "relu")) == 1


def test_keeping_every_layer_leaves_less_error(tiny, images):
    exact = reference_logits(tiny.model, images, torch.float64)
    errors = [
        relative_rms(run(emulate_bfloat16(tiny.convert(PRECISIONS["bf16"], keep)), images), exact)
        for keep in ((), tuple(layers(tiny.graph)))
    ]
    assert errors[1] < errors[0]


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_what_follows_the_logits_stays_float32(tiny_labels, images, precision):
    graph = tiny_labels.convert(PRECISIONS[precision])
    known, made_by = types(graph), producers(graph)
    assert known["labels"] == TensorProto.UINT8
    resize = next(node for node in graph.graph.node if node.op_type == "Resize")
    argmax = next(node for node in graph.graph.node if node.op_type == "ArgMax")
    assert known[resize.input[0]] == known[resize.output[0]] == known[argmax.input[0]] == TensorProto.FLOAT
    assert made_by[made_by[resize.input[0]].input[0]].op_type == "Conv"
    runnable = emulate_bfloat16(graph) if precision == "bf16" else graph
    found = run(runnable, images)
    assert found.dtype == np.uint8
    # Labels may differ where two classes are closer than the error of both.
    exact = torch.from_numpy(reference_logits(tiny_labels.model, images, torch.float64))
    full = torch.nn.functional.interpolate(exact, size=SIZE, mode="bilinear").numpy()
    top = np.sort(full, axis=1)
    # Six standard deviations: none of 6144 pixels is expected outside.
    clear = top[:, -1] - top[:, -2] > 6 * bound(precision, graph) * np.sqrt(np.mean(full**2))
    assert (found == full.argmax(1))[clear].all()
    assert clear.any()


def test_float_inputs_keep_their_type(images):
    model = make_float_graph()
    graph = to_half(model, TensorProto.FLOAT16)
    known = types(graph)
    assert known["x"] == known["y"] == TensorProto.FLOAT
    conv = next(node for node in graph.graph.node if node.op_type == "Conv")
    assert {known[name] for name in conv.input} == {TensorProto.FLOAT16}
    # A tensor that is both an output and an input of the next node.
    assert known["between"] == TensorProto.FLOAT
    x = np.random.default_rng(0).standard_normal((1, 2, 4, 4)).astype(np.float32)
    found, expected = (session(any_graph).run(["y"], {"x": x})[0] for any_graph in (graph, model))
    assert relative_rms(found, expected) < bound("fp16", model)


def make_float_graph():
    helper = onnx.helper
    weight = np.random.default_rng(1).standard_normal((2, 2, 1, 1)).astype(np.float32)
    values = {
        name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2, 4, 4]) for name in ("x", "between", "y")
    }
    nodes = [
        helper.make_node("Conv", ["x", "network.a.weight"], ["between"], name="a"),
        helper.make_node("Conv", ["between", "network.b.weight"], ["y"], name="b"),
    ]
    initializers = [numpy_helper.from_array(weight, f"network.{name}.weight") for name in "ab"]
    graph = helper.make_graph(nodes, "g", [values["x"]], [values["y"], values["between"]], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_nothing_stands_between_dequantisation_and_convolution(tiny, precision):
    graph = tiny.convert(choose_precision(precision, "fp16"))
    known, made_by = types(graph), producers(graph)
    quantised = 0
    for node in graph.graph.node:
        if node.op_type == "Conv":
            assert {known[name] for name in (*node.input, *node.output)} == {TensorProto.FLOAT16}, node.name
            sources = [name in made_by and made_by[name].op_type == "DequantizeLinear" for name in node.input[:2]]
            assert sources[0] == sources[1], node.name
            quantised += sources[0]
        if node.op_type == "DequantizeLinear":
            assert not [user for user in consumers(graph, node.output[0]) if user.op_type == "Cast"], node.name
            assert node.input[0] not in made_by or made_by[node.input[0]].op_type == "QuantizeLinear", node.name
    assert quantised == len(DENSE)


@pytest.mark.parametrize(
    ("precision", "rest", "opset"),
    [
        ("fp32", "fp32", 18),
        ("tf32", "fp32", 18),
        ("fp16", "fp32", 18),
        ("bf16", "fp32", 22),
        ("int8", "fp32", 18),
        ("int8", "fp16", 19),
        ("fp8", "fp32", 19),
        ("fp8", "fp16", 19),
    ],
)
def test_the_operator_set_is_the_first_that_has_what_it_needs(tiny, precision, rest, opset):
    chosen = choose_precision(precision, rest)
    graph = tiny.convert(chosen)
    assert opset_of(graph) == opset == chosen.opset
    assert opset_of(tiny.graph) == 18
    assert chosen.rest == (rest if precision in ("int8", "fp8") else None)


def test_a_later_operator_set_stays(tiny):
    later = onnx.version_converter.convert_version(tiny.graph, 20)
    assert opset_of(convert(later, PRECISIONS["fp16"])) == 20
    assert opset_of(convert(later, PRECISIONS["bf16"])) == 22


@pytest.mark.parametrize("peak", [65536.0, np.nan])
def test_weights_beyond_fp16_raise_with_advice(tiny, peak):
    graph = with_weight(tiny.graph, "branch", lambda values: np.where(values == values.max(), peak, values))
    with pytest.raises(ExportError, match=r"network\.branch\.weight reaches (65536|nan), beyond .*use bf16 or fp32"):
        convert(graph, PRECISIONS["fp16"])


def test_bfloat16_and_kept_layers_take_weights_beyond_fp16(tiny):
    graph = with_weight(tiny.graph, "branch", lambda values: np.where(values == values.max(), 65536.0, values))
    known = constants(convert(graph, PRECISIONS["bf16"]))
    assert known["network.branch.weight_bfloat"].astype(np.float32).max() == 65536
    convert(graph, PRECISIONS["fp16"], keep=["branch"])
    largest = with_weight(tiny.graph, "branch", lambda values: np.where(values == values.max(), 65504.0, values))
    assert constants(convert(largest, PRECISIONS["fp16"]))["network.branch.weight_half"].max() == 65504


@pytest.mark.parametrize("precision", HALVES)
def test_weights_are_rounded_to_the_nearest(tiny, precision):
    converted = constants(tiny.convert(PRECISIONS[precision]))
    dtype = {"fp16": np.float16, "bf16": ml_dtypes.bfloat16}[precision]
    suffix = {"fp16": "half", "bf16": "bfloat"}[precision]
    state = tiny.model.state_dict()
    for name in layers(tiny.graph):
        original = state[f"{name}.weight"].numpy()
        found = converted[f"network.{name}.weight_{suffix}"]
        assert found.dtype == dtype
        limit = ROUNDOFF[precision] * np.abs(original) + 2.0**-25  # half the smallest fp16
        assert (np.abs(found.astype(np.float64) - original) <= limit).all()


@pytest.mark.parametrize("precision", HALVES)
def test_the_emulation_rounds_every_result(tiny, images, precision):
    kind, dtype = HALVES[precision], {"fp16": np.float16, "bf16": ml_dtypes.bfloat16}[precision]
    graph = tiny.convert(PRECISIONS[precision])
    emulated = emulate_half(graph, kind)
    onnx.checker.check_model(emulated, full_check=True)
    assert all(tensor.data_type != kind for tensor in emulated.graph.initializer)
    known, made_by = types(emulated), producers(emulated)
    assert {made_by[name].op_type for name, found in known.items() if found == kind} == {"Cast"}
    half = [name for name, found in types(graph).items() if found == kind and name in made_by]
    assert len(half) > len(layers(tiny.graph))
    for name, values in zip(half, run(emulated, images, *half), strict=True):
        assert values.dtype == np.float32
        assert np.array_equal(values, values.astype(dtype).astype(np.float32)), name
    assert opset_of(graph) == opset_of(emulated)
    assert any(tensor.data_type == kind for tensor in graph.graph.initializer)  # left alone
    if precision == "bf16":
        assert emulated == emulate_bfloat16(graph)


def test_the_emulation_overflows_where_fp16_does(tiny, images):
    graph = with_weight(tiny.graph, "project", lambda values: values * 2e4)
    emulated = emulate_half(convert(graph, PRECISIONS["fp16"]), TensorProto.FLOAT16)
    assert not np.isfinite(run(emulated, images)).all()
    assert np.isfinite(run(graph, images)).all()


def test_onnx_runtime_s_optimiser_leaves_the_emulated_roundings(tiny, images):
    emulated = emulate_bfloat16(tiny.convert(PRECISIONS["bf16"]))
    runner = open_bytes(emulated.SerializeToString(), tiny.manifest(PRECISIONS["bf16"], (), 22))
    found, exact = runner.run(images), reference_logits(tiny.model, images, torch.float64)
    # The rounding of the last layer's weights alone, spread over one roundoff, is some 0.4 of it.
    assert 0.1 * ROUNDOFF["bf16"] < relative_rms(found, exact) < bound("bf16", tiny.graph)


@pytest.mark.parametrize(
    # ONNX Runtime has no bfloat16 convolution on CPUs; its emulation is tested above.
    ("backend", "precision"),
    [("onnxruntime", "fp16"), ("openvino", "fp16"), ("openvino", "bf16")],
)
def test_runtimes_agree_on_half_precision_files(tmp_path, tiny, images, backend, precision):
    tiny.write(tmp_path / "model.onnx", PRECISIONS[precision])
    runner = open_runner(tmp_path / "model.onnx", backend=backend, device="cpu")
    found = runner.run(images)
    runner.close()
    assert found.dtype == np.float32
    exact = reference_logits(tiny.model, images, torch.float64)
    assert relative_rms(found, exact) < bound(precision, tiny.graph)


def test_only_named_nodes_are_kept_in_float32(tiny):
    assert kept_in_float32(tiny.graph) == {"_to_copy", "sub", "div", "permute", "mean"}


def test_the_given_graph_is_left_alone(tiny):
    before = copy.deepcopy(tiny.graph)
    for precision in PRECISIONS.values():
        tiny.convert(precision)
    assert tiny.graph == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fp64",), "precision 'fp64' is not one of fp32, tf32, fp16, bf16, int8, fp8"),
        (("FP16",), "precision 'FP16' is not one of"),
        (("int8", "bf16"), "the rest of an eight-bit graph is fp32 or fp16, not 'bf16'"),
        (("fp32", "int8"), "the rest of an eight-bit graph is fp32 or fp16, not 'int8'"),
    ],
)
def test_unknown_precisions(arguments, message):
    with pytest.raises(ExportError, match=message):
        choose_precision(*arguments)


def test_precisions_are_values():
    assert choose_precision("int8") == PRECISIONS["int8"]
    assert choose_precision("fp16", "fp16") == PRECISIONS["fp16"]
    assert choose_precision("int8", "fp16") == Precision(
        "int8", half=TensorProto.FLOAT16, eight_bits=TensorProto.INT8, opset=19
    )


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8", "fp8"])
def test_an_unknown_layer_to_keep_is_refused(tiny, precision):
    with pytest.raises(ExportError, match="no layer 'blok' in this model; --list-layers shows them"):
        tiny.convert(PRECISIONS[precision], ["stem", "blok"])


@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_eight_bits_need_magnitudes(tiny, precision):
    with pytest.raises(ExportError, match=f"precision {precision} needs calibration images"):
        convert(tiny.graph, PRECISIONS[precision])
