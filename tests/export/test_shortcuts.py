"""Shortcuts stay unquantized where rounding them costs the most for the bytes it saves, and no more than a share."""

from __future__ import annotations

import dataclasses

import pytest

from resnet_export.passes.insert_qdq import insert_qdq
from resnet_export.passes.qdq_placement import placement_from_graph, residual_adds
from resnet_export.quantization.calibrate import ranges_from_batches
from resnet_export.quantization.choice import thresholds_by_method
from resnet_export.quantization.noise import answers_from_graph, noise_in_answers
from resnet_export.quantization.shortcuts import shortcuts_from_images
from resnet_export.quantization.table import TensorRange
from tests.export.int8_graphs import folded, images

ADDS = {"layer1": 64 * 8 * 8, "layer2": 128 * 4 * 4, "layer3": 256 * 2 * 2, "layer4": 512}
"""Values of one sample's shortcut in a ResNet-18 at 32x32, by stage: two blocks in each."""
TOTAL = 2 * sum(ADDS.values())


def ranges_of(name: str) -> dict[str, TensorRange]:
    ranges, _ = ranges_from_batches(folded(name), [images()])
    return ranges


def stages(found: tuple[str, ...]) -> list[str]:
    return [name.partition(".")[0] for name in found]


def test_the_sizes_of_this_file_are_the_graph_s() -> None:
    adds = residual_adds(folded("resnet18"))
    assert [str(add.name).partition(".")[0] for add in adds] == [stage for stage in ADDS for _ in range(2)]


@pytest.mark.parametrize("share", [0.0, 0.05, 0.15, 0.3, 0.6])
def test_no_more_than_the_share_is_left(share: float) -> None:
    graph = folded("resnet18")
    found = shortcuts_from_images(graph, ranges_of("resnet18"), "minmax", images(), share)
    assert sum(ADDS[stage] for stage in stages(found)) <= share * TOTAL
    order = [str(add.name) for add in residual_adds(graph)]
    assert list(found) == sorted(found, key=order.index)
    if share >= 0.15:
        assert found
    if share == 0.0:
        assert found == ()


def test_all_may_be_left() -> None:
    found = shortcuts_from_images(folded("resnet18"), ranges_of("resnet18"), "minmax", images(), 1.0)
    assert stages(found) == [stage for stage in ADDS for _ in range(2)]


def test_the_noisiest_for_its_size_is_left_first() -> None:
    graph, ranges = folded("resnet18"), ranges_of("resnet18")
    spoilt = "layer3.1/Add"
    readers = {
        point.ranged_by
        for point in placement_from_graph(graph, "tensorrt").points
        if (spoilt, 0) in point.readers or (spoilt, 1) in point.readers
    }
    assert readers
    for name in readers:  # everything above a thousandth of the range is clipped
        kinds = {
            kind: {method: value / 1000 for method, value in by_method.items()}
            for kind, by_method in ranges[name].thresholds.items()
        }
        ranges[name] = dataclasses.replace(ranges[name], thresholds=kinds)
    told: list[tuple[int, int]] = []
    share = ADDS["layer3"] / TOTAL
    found = shortcuts_from_images(graph, ranges, "minmax", images(), share, lambda *done: told.append(done))
    assert found == (spoilt,)
    assert told == [(index, 4) for index in range(1, 5)], "the other stages' do not fit into the share"


def test_what_is_left_takes_noise_away_and_nothing_else_changes() -> None:
    graph, ranges = folded("resnet18"), ranges_of("resnet18")
    found = shortcuts_from_images(graph, ranges, "minmax", images(), 0.3)
    every = placement_from_graph(graph, "tensorrt")
    fewer = placement_from_graph(graph, "tensorrt", whole_shortcuts=frozenset(found))
    assert fewer.whole_shortcuts == found
    assert (fewer.layers, fewer.kept) == (every.layers, every.kept)
    gone = {reader for point in every.points for reader in point.readers}
    gone -= {reader for point in fewer.points for reader in point.readers}
    assert {name for name, _ in gone} == set(found)
    expected = answers_from_graph(graph, images())
    noise = []
    for placement in (every, fewer):
        bare = dataclasses.replace(placement, layers=())
        rounded = insert_qdq(graph, bare, thresholds_by_method(ranges, bare, "minmax"), {}).graph
        noise.append(noise_in_answers(expected, answers_from_graph(rounded, images())))
    assert 0 < noise[1] < 0.9 * noise[0]


def test_the_scheme_for_cpus_quantizes_every_shortcut() -> None:
    graph = folded("basic")
    names = frozenset(str(add.name) for add in residual_adds(graph))
    assert placement_from_graph(graph, "cpu", whole_shortcuts=names) == placement_from_graph(graph, "cpu")


def test_it_is_said_in_the_placement_s_text() -> None:
    graph = folded("basic")
    name = str(residual_adds(graph)[0].name)
    text = placement_from_graph(graph, "tensorrt", whole_shortcuts=frozenset({name})).text()
    assert text.endswith(f"shortcut not quantized: {name}\n")


def test_a_layer_that_is_kept_keeps_its_add_and_is_named_once() -> None:
    graph = folded("basic")
    every = placement_from_graph(graph, "tensorrt")
    add = residual_adds(graph)[0]
    into = next(str(value.producer().name) for value in add.inputs if value.producer().op_type == "Conv")
    assert into in every.layers
    placement = placement_from_graph(graph, "tensorrt", frozenset({into}), frozenset({str(add.name)}))
    assert placement.whole_shortcuts == ()
