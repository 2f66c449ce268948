# SPDX-License-Identifier: Apache-2.0
"""The search finds the layers that a precision hurts, keeps no more than it takes, and says when nothing helps."""

import json
import math

import numpy as np
import pytest
import torch
from deeplab_export.convert import emulate_half
from deeplab_export.graph import Signature
from deeplab_export.onnx_export import TracedNetwork
from deeplab_export.precision import PRECISIONS, choose_precision
from deeplab_export.quantize import layers
from deeplab_export.sensitivity import multiply_add_shares, search
from deeplab_export.verify import Sample, Thresholds

from deeplab_infer.data.synthetic_streets import generate_street

from ..networks import reference_logits
from .conftest import trace
from .tiny import DENSE, SIZE, SPARED, TinyNetwork, run

LOOSE, IMPOSSIBLE = Thresholds(1e9, 0.0), Thresholds(0.0, 0.0)


@pytest.fixture(scope="module")
def samples():
    # Unlike noise, a street is within the scales that streets were calibrated for.
    return [Sample("street", generate_street(7, *SIZE)[0])]


@torch.no_grad()
def one_channel_dwarfs_the_others(factor):
    """The same function in exact arithmetic: a channel is scaled up where it is made and down where it is used."""
    network = TinyNetwork()
    first, second = network.block["first"], network.block["second"]
    first.weight[3] *= factor
    first.bias[3] *= factor
    second.weight[:, 3] /= factor
    return network


@torch.no_grad()
def far_from_zero(offset):
    """The same function in exact arithmetic: an offset that the next layer's bias takes away again."""
    network = TinyNetwork()
    network.project.bias += offset
    network.classifier.bias -= offset * network.classifier.weight[:, :, 0, 0].sum(1)
    return network


@pytest.fixture(scope="module")
def hostile_to_int8():
    # One scale for all channels of the activation: in 127 steps of the largest, 2000 times the others, they vanish.
    return trace(one_channel_dwarfs_the_others(2000))


def error(traced, precision, samples, keep):
    """Largest error over the range, independent of the search's judge."""
    graph = traced.convert(precision, keep)
    if precision.half is not None:
        graph = emulate_half(graph, precision.half)
    image = samples[0].image[None]
    exact = reference_logits(traced.model, image)
    found = run(graph, image)
    return float(np.abs(found - exact).max() / np.ptp(exact)) if np.isfinite(found).all() else math.inf


def check(result, traced, names):
    """What holds for every result."""
    assert {layer.layer for layer in result.layers} == set(names)
    damages = [layer.damage for layer in result.layers]
    assert damages == sorted(damages, reverse=True)
    assert result.runs <= len(names) + math.log2(len(names)) + 2
    shares = multiply_add_shares(traced, SIZE)
    assert sum(shares.values()) == pytest.approx(1)
    assert all(layer.share == shares[layer.layer] for layer in result.layers)
    assert [layer.kept for layer in result.layers] == [index < len(result.kept) for index in range(len(names))]
    assert result.cost == pytest.approx(sum(shares[name] for name in result.kept))


def test_int8_keeps_the_layer_whose_input_one_channel_dwarfs(hostile_to_int8, samples):
    int8 = PRECISIONS["int8"]
    errors = [error(hostile_to_int8, int8, samples, keep) for keep in ((), ("block.second",))]
    assert errors[0] > 2 * errors[1]
    result = search(hostile_to_int8, int8, samples, Thresholds(math.sqrt(errors[0] * errors[1]), 0.0))
    check(result, hostile_to_int8, DENSE)
    assert result.layers[0].layer == "block.second"
    assert result.layers[0].damage > 5 * result.layers[1].damage
    assert result.passed
    assert result.kept == ("block.second",)
    assert result.precision == "int8"
    # A channel's own exponent: floating point does not mind.
    fp8 = search(hostile_to_int8, PRECISIONS["fp8"], samples, LOOSE)
    assert fp8.layers[0].damage < result.layers[0].damage


def test_bf16_keeps_both_ends_of_a_large_offset(samples):
    # 3000 is represented in steps of 16 with 8 significant bits, which drowns activations of about 1.
    traced = trace(far_from_zero(3000))
    bf16, hostile = PRECISIONS["bf16"], ("project", "classifier")
    errors = [error(traced, bf16, samples, keep) for keep in ((), hostile)]
    assert errors[0] > 2 * errors[1]
    result = search(traced, bf16, samples, Thresholds(math.sqrt(errors[0] * errors[1]), 0.0))
    check(result, traced, (*DENSE, *SPARED))
    assert {layer.layer for layer in result.layers[:2]} == set(hostile)
    assert result.passed
    assert set(result.kept) == set(hostile)


def test_fp16_keeps_both_ends_of_an_overflow(samples):
    """On a CPU too, where ONNX Runtime would compute in float32 and see nothing."""
    traced = trace(one_channel_dwarfs_the_others(2e4))
    fp16, hostile = PRECISIONS["fp16"], ("block.first", "block.second")
    assert error(traced, fp16, samples, ()) == math.inf
    result = search(traced, fp16, samples, Thresholds(2e-2, 0.0))
    check(result, traced, (*DENSE, *SPARED))
    assert [layer.damage for layer in result.layers[:2]] == [math.inf] * 2
    assert all(math.isfinite(layer.damage) for layer in result.layers[2:])
    assert result.passed
    assert set(result.kept) == set(hostile)


def test_the_rest_in_fp16_is_part_of_what_eight_bits_are_judged_by(tiny, samples):
    result = search(tiny, choose_precision("int8", "fp16"), samples, LOOSE)
    check(result, tiny, DENSE)
    assert result.passed
    assert all(math.isfinite(layer.damage) for layer in result.layers)


@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8", "fp8"])
def test_loose_thresholds_keep_nothing(tiny, samples, precision):
    result = search(tiny, PRECISIONS[precision], samples, LOOSE)
    assert result.passed
    assert result.kept == ()
    assert result.cost == 0
    check(result, tiny, DENSE if precision in ("int8", "fp8") else (*DENSE, *SPARED))


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_impossible_thresholds_do_not_pass(tiny, samples, precision):
    # torch and ONNX Runtime sum in another order, so that not even the float32 graph is without error.
    result = search(tiny, PRECISIONS[precision], samples, IMPOSSIBLE)
    assert not result.passed
    assert set(result.kept) == {layer.layer for layer in result.layers}
    check(result, tiny, DENSE if precision == "int8" else (*DENSE, *SPARED))


def test_float32_s_thresholds_keep_everything_that_int8_touches(tiny, samples):
    """What is left is the float32 graph, which passes."""
    result = search(tiny, PRECISIONS["int8"], samples, Thresholds(1e-4, 0.9999))
    assert result.passed
    assert set(result.kept) == set(DENSE)


def test_damage_is_the_error_of_one_layer_alone(tiny, samples):
    result = search(tiny, PRECISIONS["int8"], samples, LOOSE)
    image = samples[0].image[None]
    exact = run(tiny.graph, image).astype(np.float64)
    for layer in (result.layers[0], result.layers[-1]):
        found = run(tiny.convert(PRECISIONS["int8"], [name for name in DENSE if name != layer.layer]), image)
        expected = np.sqrt(np.mean((found - exact) ** 2)) / np.ptp(exact)
        # ONNX Runtime's fusions change float32's last digits, and with them now and then a step of int8.
        assert layer.damage == pytest.approx(expected, rel=0.05)


def test_labels_are_judged_by_their_agreement(tiny_labels, samples):
    int8 = PRECISIONS["int8"]
    loose = search(tiny_labels, int8, samples, LOOSE)
    check(loose, tiny_labels, DENSE)
    assert loose.passed
    assert loose.kept == ()
    assert all(0 <= layer.damage <= 1 for layer in loose.layers)
    # Not even float32 agrees on 110 %, unless labels are not judged.
    above = Thresholds(0.0, 1.1)
    assert not search(tiny_labels, int8, samples, above).passed
    unjudged = search(tiny_labels, int8, samples, above, judged_labels=False)
    assert unjudged.passed
    assert unjudged.kept == ()


@pytest.mark.parametrize(("precision", "names"), [("int8", 9), ("bf16", 11)])
def test_progress_counts_up_to_what_was_planned(tiny, samples, precision, names):
    for thresholds in (LOOSE, IMPOSSIBLE):
        done, planned = [], set()

        def progress(*counts, done=done, planned=planned):
            done.append(counts[0])
            planned.add(counts[1])

        result = search(tiny, PRECISIONS[precision], samples, thresholds, progress=progress)
        assert done == list(range(1, result.runs + 1))
        assert len(planned) == 1
        assert names < result.runs <= planned.pop()


def test_every_sample_has_to_pass(hostile_to_int8, samples):
    """A second image that fails where the first passes."""
    int8 = PRECISIONS["int8"]
    black = Sample("black", np.zeros_like(samples[0].image))
    errors = [error(hostile_to_int8, int8, [sample], ()) for sample in (samples[0], black)]
    between = Thresholds(math.sqrt(errors[0] * errors[1]), 0.0)
    easy, hard = (samples[0], black) if errors[0] < errors[1] else (black, samples[0])
    assert search(hostile_to_int8, int8, [easy], between).kept == ()
    for order in ([easy, hard], [hard, easy]):
        assert search(hostile_to_int8, int8, order, between).kept != ()


def test_shares_are_the_multiply_adds_that_torch_counts():
    network = TinyNetwork()
    open_sizes = TracedNetwork(network, Signature())
    counts = {}
    for name, module in network.named_modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(
                lambda layer, _, output, name=name: counts.update({name: layer.weight[0].numel() * output.numel()})
            )
    with torch.inference_mode():
        network(torch.zeros(1, 3, 80, 112))
    found = multiply_add_shares(open_sizes, (80, 112))
    assert list(found) == list(layers(open_sizes.graph))
    for name, share in found.items():
        assert share == pytest.approx(counts[name] / sum(counts.values())), name


def test_results_are_json_and_a_table(tiny, samples):
    result = search(tiny, PRECISIONS["int8"], samples, IMPOSSIBLE)
    values = json.loads(json.dumps(result.to_dict()))
    assert values["kept"] == list(result.kept)
    assert values["cost"] == pytest.approx(1, abs=0.1)  # all but the depthwise convolution and the image pooling
    assert values["precision"] == "int8"
    assert [layer["layer"] for layer in values["layers"]] == [layer.layer for layer in result.layers]
    assert result.table(rows=3).row_count == len(DENSE)  # all that are kept are shown
    assert search(tiny, PRECISIONS["int8"], samples, LOOSE).table(rows=3).row_count == 3
