"""The peers: they quantize as they are said to, answer nearly as the network does, and leave it alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray

from resnet_bench.networks import live_resnet, varied_images
from resnet_bench.peers import PEERS, PeerInput, logits_from_module, onnx_from_network, peer_versions
from resnet_bench.statistics import agreement, kl_divergence
from tests.export.models import TINY

SHAPE = (3, 32, 32)


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    return live_resnet(TINY, size=32)


@pytest.fixture(scope="module")
def onnx_file(network: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return onnx_from_network(network, SHAPE, tmp_path_factory.mktemp("peers") / "model.onnx")


@pytest.fixture
def given(network: torch.nn.Module, onnx_file: Path, tmp_path: Path) -> PeerInput:
    calibration = varied_images(16, SHAPE, seed=5).numpy()
    return PeerInput(network=network, onnx=onnx_file, calibration=calibration, folder=tmp_path)


@pytest.fixture(scope="module")
def images() -> NDArray[np.float32]:
    return varied_images(40, SHAPE, seed=6).numpy()


def hold_to_the_network(
    logits: Callable[[NDArray[np.float32]], NDArray[np.float32]], given: PeerInput, images: NDArray[np.float32]
) -> float:
    """The mean divergence, which is that of 8 bits: neither nothing nor much."""
    before = {name: tensor.clone() for name, tensor in given.network.state_dict().items()}
    expected = logits_from_module(given.network)(images)
    found = np.concatenate([logits(images[:24]), logits(images[24:])])
    assert found.shape == expected.shape
    divergence = float(kl_divergence(expected, found).mean())
    assert 1e-7 < divergence < 0.05
    assert agreement(expected, found) > 0.8
    assert all(torch.equal(tensor, before[name]) for name, tensor in given.network.state_dict().items())
    return divergence


@pytest.mark.parametrize("per_channel", [False, True])
def test_onnxruntime_quantizes_as_its_documentation_recommends(
    given: PeerInput, images: NDArray[np.float32], per_channel: bool
) -> None:
    name = "onnxruntime-minmax-per-channel" if per_channel else "onnxruntime-minmax"
    hold_to_the_network(PEERS[name](given), given, images)
    graph = onnx.load(given.folder / "quantized.onnx").graph
    arrays = {item.name: onnx.numpy_helper.to_array(item) for item in graph.initializer}
    activations = [node for node in graph.node if node.op_type == "QuantizeLinear"]
    assert activations
    assert {arrays[node.input[2]].dtype for node in activations} == {np.dtype(np.uint8)}
    producers = {node.output[0]: node for node in graph.node}
    for node in graph.node:
        if node.op_type == "Conv":
            weights = producers[node.input[1]]
            assert weights.op_type == "DequantizeLinear"
            assert arrays[weights.input[0]].dtype == np.int8
            assert arrays[weights.input[1]].size == (len(arrays[weights.input[0]]) if per_channel else 1)


def test_onnxruntime_has_entropy(given: PeerInput, images: NDArray[np.float32]) -> None:
    hold_to_the_network(PEERS["onnxruntime-entropy"](given), given, images)


@pytest.mark.slow
def test_nncf(given: PeerInput, images: NDArray[np.float32]) -> None:
    pytest.importorskip("nncf")
    clipped, whole = (hold_to_the_network(PEERS[name](given), given, images) for name in ("nncf", "nncf-minmax"))
    assert clipped != whole
    hold_to_the_network(PEERS["nncf-mixed"](given), given, images)


@pytest.mark.slow
def test_modelopt(given: PeerInput, images: NDArray[np.float32]) -> None:
    pytest.importorskip("modelopt.torch.quantization", exc_type=ImportError)
    hold_to_the_network(PEERS["modelopt"](given), given, images)


def test_versions_are_of_what_is_installed() -> None:
    import onnxruntime

    assert peer_versions()["onnxruntime"] == onnxruntime.__version__
