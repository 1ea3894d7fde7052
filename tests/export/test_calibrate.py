"""One pass over images: which tensors, what of them, and that neither batches nor threads change the table."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from resnet_export.errors import CalibrationError, RequestError
from resnet_export.graph import Graph, graph_from_bytes
from resnet_export.host_session import session_from_graph
from resnet_export.passes import fold_batchnorm, fold_preprocessing
from resnet_export.passes.qdq_placement import SCHEMES, weight_axis, weights_of
from resnet_export.preprocessing import PreprocessingOptions, preprocessing_from_options
from resnet_export.quantization.calibrate import (
    CalibrateOptions,
    calibration_tensors,
    ranges_from_batches,
    weight_ranges,
)
from resnet_export.quantization.rounding import nearest
from resnet_export.quantization.table import CalibrationTable, TensorRange, bytes_from_table
from resnet_export.quantization.thresholds import DEAD_THRESHOLD, METHODS
from resnet_export.resnet import ResNet
from resnet_export.trace import graph_from_module
from tests.export.conftest import TINY_SHAPE
from tests.export.graphs import Array, graph_of, random
from tests.export.int8_graphs import folded as folded_network
from tests.export.models import varied_images


@pytest.fixture(scope="module")
def traced(tiny_network: ResNet) -> Graph:
    return graph_from_module(tiny_network, TINY_SHAPE, ["logits"]).graph


@pytest.fixture(scope="module")
def tiny_graph(traced: Graph) -> Graph:
    return fold_batchnorm(traced).graph


@pytest.fixture(scope="module")
def images() -> NDArray[np.float32]:
    return varied_images(22, TINY_SHAPE, seed=3).numpy()


def conv_graph(batch: int | str = "batch", bias: float = 0.0) -> Graph:
    """A convolution, a Relu, a pooling, a product with a constant, a sum with a branch, and a Gemm."""
    weights = {
        "w1": random((4, 2, 3, 3), 1),
        "b1": np.full(4, bias, np.float32),
        "w2": random((4, 2, 1, 1), 2),
        "scale": random((4, 1, 1), 3),
        "wide": random((4, 1, 1), 6),
        "matrix": random((4, 5), 4),
        "flat": np.array([0, -1], np.int64),
    }
    nodes = [
        helper.make_node("Conv", ["input", "w1", "b1"], ["conv"], pads=[1, 1, 1, 1], name="conv"),
        helper.make_node("Relu", ["conv"], ["relu"], name="relu"),
        helper.make_node("Conv", ["input", "w2"], ["shortcut"], name="shortcut"),
        helper.make_node("Mul", ["relu", "scale"], ["scaled"], name="mul"),
        helper.make_node("Identity", ["wide"], ["constant"], name="identity"),
        helper.make_node("Add", ["scaled", "constant"], ["moved"], name="move"),
        helper.make_node("Add", ["moved", "shortcut"], ["sum"], name="add"),
        helper.make_node("Relu", ["sum"], ["out"], name="relu2"),
        helper.make_node("GlobalAveragePool", ["out"], ["mean"], name="pool"),
        helper.make_node("Reshape", ["mean", "flat"], ["row"], name="reshape"),
        helper.make_node("Gemm", ["row", "matrix"], ["logits"], name="gemm"),
    ]
    return graph_of(nodes, weights, input_shape=(batch, 2, 8, 8), output_shape=(batch, 5))


def table_of(graph: Graph, *batches: Array, batch: int = 4) -> bytes:
    ranges, images = ranges_from_batches(graph, batches, CalibrateOptions(batch=batch))
    return bytes_from_table(table_from_ranges(graph, ranges, images))


def table_from_ranges(graph: Graph, ranges: dict[str, TensorRange], images: int) -> CalibrationTable:
    return CalibrationTable(
        model=graph.digest,
        images=images,
        preprocessing=None,
        methods=dict.fromkeys(SCHEMES, "minmax"),
        whole_shortcuts=(),
        equalization={},
        weights=weight_ranges(graph),
        tensors=ranges,
    )


def test_the_tensors_that_a_scheme_may_quantize() -> None:
    # Not conv and sum, which only a Relu reads, mean, which is only moved, constant, and logits, which nothing reads.
    assert calibration_tensors(conv_graph()) == ("input", "relu", "shortcut", "scaled", "moved", "out", "row")


def test_the_tensors_of_a_resnet(tiny_graph: Graph) -> None:
    names = calibration_tensors(tiny_graph)
    readers = {
        name: [node.op_type for node in tiny_graph.nodes() if name in {v.name for v in node.inputs if v}]
        for name in names
    }
    assert names[0] == "input"
    assert all({"Conv", "Add", "Gemm", "ReduceMean", "GlobalAveragePool"} & set(found) for found in readers.values())
    convolutions = {str(node.inputs[0].name) for node in tiny_graph.nodes("Conv") if node.inputs[0]}
    sums = {str(value.name) for node in tiny_graph.nodes("Add") for value in node.inputs if value}
    assert convolutions | sums <= set(names)


def test_the_ranges_are_those_of_the_tensors(tiny_graph: Graph, images: NDArray[np.float32]) -> None:
    ranges, count = ranges_from_batches(tiny_graph, [images])
    assert (count, tuple(ranges)) == (len(images), calibration_tensors(tiny_graph))
    assert (ranges["input"].low, ranges["input"].high) == (images.min(), images.max())
    session = session_from_graph(_all_outputs(tiny_graph))
    names = [output.name for output in session.get_outputs()]
    values = dict(zip(names, session.run(None, {"input": images}), strict=True))
    for name, found in ranges.items():
        if name == "input":
            continue
        # Another batch: other sums of products.
        assert found.low == pytest.approx(float(values[name].min()), rel=1e-4, abs=1e-5)
        assert found.high == pytest.approx(float(values[name].max()), rel=1e-4, abs=1e-5)
        assert ("uint8" in found.thresholds) == (found.low >= 0)
        for by_method in found.thresholds.values():
            assert by_method["minmax"] == max(-found.low, found.high)
            assert tuple(by_method) == METHODS
            assert all(0 < value <= by_method["minmax"] for value in by_method.values())


def _all_outputs(graph: Graph) -> Graph:
    copy = graph.copy()
    wanted = set(calibration_tensors(graph))
    copy.model.graph.outputs.extend(v for node in copy.nodes() for v in node.outputs if v.name in wanted)
    return copy


def test_neither_a_second_run_nor_other_batches_change_a_byte(tiny_graph: Graph, images: NDArray[np.float32]) -> None:
    expected = table_of(tiny_graph, images)
    before = tiny_graph.to_bytes()
    assert table_of(tiny_graph, images) == expected
    assert table_of(tiny_graph, *(images[index : index + 1] for index in range(len(images)))) == expected
    assert table_of(tiny_graph, images[:7], images[7:7], images[7:9], images[9:]) == expected
    assert tiny_graph.to_bytes() == before


def test_images_are_told_and_taken_as_they_are_needed(tiny_graph: Graph, images: NDArray[np.float32]) -> None:
    events: list[str] = []

    def stream() -> Iterator[NDArray[np.float32]]:
        for index in range(5):
            events.append(f"take {index}")
            yield images[index : index + 1]

    options = CalibrateOptions(batch=2)
    ranges_from_batches(tiny_graph, stream(), options, lambda count: events.append(f"done {count}"))
    assert events == ["take 0", "take 1", "done 2", "take 2", "take 3", "done 4", "take 4", "done 5"]


def test_a_graph_of_a_fixed_batch() -> None:
    graph = conv_graph(batch=3)
    some = random((9, 2, 8, 8), 5)
    assert table_of(graph, some[:2], some[2:]) == table_of(graph, some, batch=1)
    with pytest.raises(CalibrationError) as caught:
        ranges_from_batches(graph, [some[:8]])
    assert str(caught.value) == (
        "the model takes batches of 3 alone, and 2 of the calibration images are left over: give a multiple of 3"
    )


def test_a_uint8_input_is_not_among_them(traced: Graph) -> None:
    preprocessing, _ = preprocessing_from_options(PreprocessingOptions(in_graph=True), TINY_SHAPE, "cifar")
    graph = fold_batchnorm(fold_preprocessing(traced, preprocessing).graph).graph
    names = calibration_tensors(graph)
    assert "input" not in names
    first = next(graph.nodes("Conv")).inputs[0]
    assert first is not None
    assert first.name in names
    pictures = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)
    ranges, _ = ranges_from_batches(graph, [pictures])
    assert tuple(ranges) == names
    with pytest.raises(
        CalibrationError, match=r"takes images of 16 x 16 x 3 in uint8, .* some of 16 x 16 x 3 in int64"
    ):
        ranges_from_batches(graph, [pictures.astype(np.int64)])


def test_an_output_that_is_read_as_well() -> None:
    weights = {"w": random((2, 2, 1, 1), 1), "v": random((2, 2, 1, 1), 2)}
    nodes = [helper.make_node("Conv", ["input", "w"], ["a"]), helper.make_node("Conv", ["a", "v"], ["b"])]
    body = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ("batch", 2, 4, 4))],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ("batch", 2, 4, 4)) for name in "ab"],
        [helper.make_tensor(name, TensorProto.FLOAT, array.shape, array) for name, array in weights.items()],
    )
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    ranges, _ = ranges_from_batches(graph_from_bytes(model.SerializeToString()), [random((2, 2, 4, 4), 3)])
    assert tuple(ranges) == ("input", "a")


def test_a_graph_of_one_layer() -> None:
    node = helper.make_node("Conv", ["input", "w"], ["logits"])
    graph = graph_of([node], {"w": random((2, 2, 1, 1), 1)}, input_shape=(1, 2, 4, 4), output_shape=(1, 2, 4, 4))
    ranges, images = ranges_from_batches(graph, [random((2, 2, 4, 4), 3)])
    assert (tuple(ranges), images) == (("input",), 2)


def test_a_dead_tensor_is_said() -> None:
    graph = conv_graph(bias=-1000.0)
    ranges, images = ranges_from_batches(graph, [random((4, 2, 8, 8), 5)])
    table = table_from_ranges(graph, ranges, images)
    assert table.dead == ("relu", "scaled")
    assert ranges["relu"].thresholds["uint8"] == dict.fromkeys(METHODS, DEAD_THRESHOLD)


@pytest.mark.parametrize(("value", "found"), [(np.nan, "NaN"), (np.inf, "infinity")])
def test_a_value_that_is_not_finite(value: float, found: str) -> None:
    some = random((4, 2, 8, 8), 5)
    some[2, 1, 3, 3] = value
    with pytest.raises(CalibrationError, match=f"the tensor input reaches {found} on a calibration image"):
        ranges_from_batches(conv_graph(), [some])


def test_a_sum_that_overflows() -> None:
    with pytest.raises(CalibrationError, match=r"the tensor relu reaches (NaN|infinity) on a calibration image"):
        ranges_from_batches(conv_graph(), [np.full((4, 2, 8, 8), 3e38, np.float32)])


def test_no_images() -> None:
    for batches in ([], [random((0, 2, 8, 8), 5)]):
        with pytest.raises(CalibrationError, match="there are no calibration images"):
            ranges_from_batches(conv_graph(), batches)


@pytest.mark.parametrize("shape", [(2, 2, 8, 9), (2, 8, 8), (2, 3, 8, 8)])
def test_images_of_another_shape(shape: tuple[int, ...]) -> None:
    found = " x ".join(str(side) for side in shape[1:])
    with pytest.raises(CalibrationError, match=f"takes images of 2 x 8 x 8 in float32, .* some of {found} in float32"):
        ranges_from_batches(conv_graph(), [random(shape, 5)])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (CalibrateOptions(percentile=0), "the calibration percentile is 0, and lies above 0 and up to 100"),
        (CalibrateOptions(percentile=100.5), "the calibration percentile is 100.5, and lies above 0 and up to 100"),
        (CalibrateOptions(percentile=float("nan")), "the calibration percentile is nan, and lies above 0"),
        (CalibrateOptions(batch=0), "the calibration batch is 0, and is 1 or more"),
    ],
)
def test_options_that_mean_nothing(options: CalibrateOptions, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        ranges_from_batches(conv_graph(), [], options)


def test_the_percentile_is_an_option() -> None:
    some = random((8, 2, 8, 8), 5)
    found = [
        ranges_from_batches(conv_graph(), [some], CalibrateOptions(percentile=percentile))[0]["input"].thresholds[
            "int8"
        ]
        for percentile in (50, 100)
    ]
    assert found[0]["percentile"] == pytest.approx(0.5, abs=0.05)
    assert found[1]["percentile"] == found[1]["minmax"]
    assert {**found[0], "percentile": 0} == {**found[1], "percentile": 0}


def test_the_largest_magnitude_of_each_output_channel() -> None:
    graph = folded_network("bottleneck")
    found = weight_ranges(graph)
    layers = [node for node in graph.nodes() if node.op_type in ("Conv", "Gemm")]
    assert list(found) == [str(node.name) for node in layers]
    for node in layers:
        quantized = nearest(weights_of(node), weight_axis(node))
        # a scale is a 127th of it, rounded to FP16
        np.testing.assert_allclose(found[str(node.name)], quantized.scale * 127, rtol=1e-3)
