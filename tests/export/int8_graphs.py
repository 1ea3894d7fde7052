"""Folded graphs of small residual networks, their tensors' ranges, and INT8 graphs made of them, for tests."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

from resnet_export.graph import Graph
from resnet_export.observe import observation_from_graph
from resnet_export.passes import fold_batchnorm
from resnet_export.passes.insert_qdq import QuantizedWeights, insert_qdq
from resnet_export.passes.qdq_placement import Placement, placement_from_graph, weight_axis, weights_of
from resnet_export.quantization.rounding import nearest
from resnet_export.resnet import ResNetConfig
from resnet_export.trace import graph_from_module
from tests.export.models import SMALL_BOTTLENECK, TINY, live_resnet, varied_images

CONFIGS = {"basic": TINY, "bottleneck": SMALL_BOTTLENECK}
SIDE = 32


@functools.cache
def folded(name: str) -> Graph:
    """By a key of ``CONFIGS``, or an architecture's name; not to be changed."""
    config: str | ResNetConfig = CONFIGS.get(name, name)
    network = live_resnet(config, size=SIDE)
    return fold_batchnorm(graph_from_module(network, (3, SIDE, SIDE), ("logits",)).graph).graph


@functools.cache
def images(count: int = 16, seed: int = 3) -> NDArray[np.float32]:
    """(count, 3, 32, 32)."""
    array: NDArray[np.float32] = varied_images(count, (3, SIDE, SIDE), seed=seed).numpy()
    return array


def thresholds(graph: Graph) -> dict[str, float]:
    """The largest magnitude of every tensor."""
    ranges = observation_from_graph(graph, images()).ranges
    return {name: max(abs(low), abs(high), 1e-3) for name, (low, high) in ranges.items()}


def nearest_weights(graph: Graph, placement: Placement) -> dict[str, QuantizedWeights]:
    """Every layer's weights, and those that are only stored, rounded to the nearest."""
    nodes = {str(node.name): node for node in graph.nodes()}
    every = (*placement.layers, *placement.stored)
    return {name: nearest(weights_of(nodes[name]), weight_axis(nodes[name])) for name in every}


def quantized(graph: Graph, scheme: str, kept: frozenset[str] = frozenset()) -> Graph:
    """The INT8 graph by largest magnitudes and rounding to the nearest."""
    placement = placement_from_graph(graph, scheme, kept)
    return insert_qdq(graph, placement, thresholds(graph), nearest_weights(graph, placement)).graph


def noise(expected: NDArray[np.float32], found: NDArray[np.float32]) -> float:
    """The error's mean square, relative to the variance over the inputs."""
    return float(((found - expected) ** 2).mean() / ((expected - expected.mean(axis=0)) ** 2).mean())
