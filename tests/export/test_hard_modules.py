"""Modules as people write them, not as torchvision does: traced, folded within the design's bound, answers kept."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as functional
from torch import Tensor, nn

import resnet_runtime
from resnet_export import ExportOptions, bundle_from_checkpoint
from resnet_export.checkpoint import checkpoint_from_file
from resnet_export.eager import EagerAnswers, answers_from_module
from resnet_export.errors import PassError
from resnet_export.graph import Graph, constant_of
from resnet_export.observe import observation_from_graph
from resnet_export.options import ModelOptions, PreprocessingOptions
from resnet_export.passes import fold_batchnorm
from resnet_export.passes.result import PassResult
from resnet_export.preprocessing import preprocessing_from_options
from resnet_export.source import model_from_checkpoint
from resnet_export.trace import graph_from_module
from resnet_export.verify import check_folding
from tests.export.models import TINY, live_resnet, varied_images

SHAPE = (3, 16, 16)


class Head(nn.Module):
    """What follows a body of 8 channels."""

    def __init__(self, body: nn.Module, features: int = 8) -> None:
        super().__init__()
        self.body = body
        self.fc = nn.Linear(features, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.body(x).mean((2, 3)))


def conv(inputs: int, outputs: int, kernel: int = 3, *, bias: bool = False, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=bias)


class SharedNorm(nn.Module):
    """One BatchNorm after two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.norm = conv(3, 8), conv(8, 8), nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.second(functional.relu(self.norm(self.first(x)))))


class TwoReaders(nn.Module):
    """One convolution before two BatchNorms."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.left, self.right = conv(3, 8), nn.BatchNorm2d(8), nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return functional.relu(self.left(y)) + functional.relu(-self.right(y))


class NormAfterAdd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.norm = conv(3, 8), conv(3, 8, 1), nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.norm(self.first(x) + self.second(x)))


class PreActivation(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.conv = conv(3, 8), nn.BatchNorm2d(8), conv(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        return y + self.conv(functional.relu(self.norm(y)))


class StandardizedConv(nn.Conv2d):
    """Weight standardization: the weights are normalized in every call."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight
        mean = weight.mean(dim=(1, 2, 3), keepdim=True)
        spread = weight.std(dim=(1, 2, 3), keepdim=True, unbiased=False) + 1e-5
        return functional.conv2d(x, (weight - mean) / spread, self.bias, self.stride, self.padding)


class NormalizedByBatchNorm(nn.Conv2d):
    """Weight standardization as timm writes it: by ``batch_norm`` of the weights."""

    def forward(self, x: Tensor) -> Tensor:
        weight = functional.batch_norm(
            self.weight.reshape(1, self.out_channels, -1), None, None, training=True, momentum=0.0, eps=1e-6
        ).reshape_as(self.weight)
        return functional.conv2d(x, weight, self.bias, self.stride, self.padding)


class KerasBlock(nn.Module):
    """Biased convolutions, and a 1x1 shortcut that has a bias and no normalization."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm1 = conv(3, 8, bias=True, stride=2), nn.BatchNorm2d(8, eps=1.001e-5)
        self.second, self.norm2 = conv(8, 8, bias=True), nn.BatchNorm2d(8, eps=1.001e-5)
        self.shortcut = conv(3, 8, 1, bias=True, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.norm1(self.first(x)))
        return functional.relu(self.norm2(self.second(y)) + self.shortcut(x))


class SizesInForward(nn.Module):
    """``x.view(x.size(0), -1)``, and a tensor that is made in ``forward``."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.fc = conv(3, 8), nn.BatchNorm2d(8), nn.Linear(8 * 16, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.norm(self.conv(x))) * torch.tensor(0.5)
        y = functional.adaptive_avg_pool2d(y, (4, 4))
        return self.fc(y.view(y.size(0), -1))


class NormAfterClassifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = conv(3, 8), nn.BatchNorm2d(8)
        self.fc, self.last = nn.Linear(8, 5), nn.BatchNorm1d(5)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.fc(functional.relu(self.norm(self.conv(x))).mean((2, 3))))


class TiedConvolutions(nn.Module):
    """One convolution, used twice, each time with a BatchNorm of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = conv(3, 8), conv(8, 8)
        self.norm1, self.norm2 = nn.BatchNorm2d(8), nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.norm1(self.conv(self.stem(x))))
        return functional.relu(self.norm2(self.conv(y)))


class SqueezeExcitation(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = conv(3, 8), nn.BatchNorm2d(8)
        self.down, self.up = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.norm(self.conv(x)))
        gate = self.up(functional.relu(self.down(y.mean((2, 3), keepdim=True))))
        return y * torch.sigmoid(gate)


class GroupNormed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = conv(3, 8), nn.GroupNorm(2, 8)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.norm(self.conv(x)))


def sequence(*layers: nn.Module) -> Callable[[], nn.Module]:
    return lambda: Head(nn.Sequential(*copy.deepcopy(layers)))


# The module, how many BatchNorms go into a layer, and how many become one scale and shift.
FOLDED: dict[str, tuple[Callable[[], nn.Module], int, int]] = {
    "one BatchNorm after two convolutions": (lambda: Head(SharedNorm()), 2, 0),
    "two BatchNorms after one convolution": (lambda: Head(TwoReaders()), 0, 2),
    "after a biased convolution": (sequence(conv(3, 8, bias=True), nn.BatchNorm2d(8), nn.ReLU()), 1, 0),
    "without scale and shift": (sequence(conv(3, 8), nn.BatchNorm2d(8, affine=False), nn.ReLU()), 1, 0),
    "after an addition": (lambda: Head(NormAfterAdd()), 0, 1),
    "before the convolution": (lambda: Head(PreActivation()), 0, 1),
    "first of all": (sequence(nn.BatchNorm2d(3), conv(3, 8), nn.ReLU()), 0, 1),
    "two in a row": (sequence(conv(3, 8), nn.BatchNorm2d(8), nn.BatchNorm2d(8), nn.ReLU()), 2, 0),
    "after the classifier": (NormAfterClassifier, 2, 0),
    "after a transposed convolution": (
        sequence(conv(3, 8), nn.ConvTranspose2d(8, 8, 2, 2, bias=False), nn.BatchNorm2d(8), nn.ReLU()),
        0,
        1,
    ),
    "tied convolutions": (lambda: Head(TiedConvolutions()), 2, 0),
    "grouped": (sequence(conv(3, 8), nn.Conv2d(8, 8, 3, groups=4, bias=False), nn.BatchNorm2d(8), nn.ReLU()), 1, 0),
    "dilated": (sequence(nn.Conv2d(3, 8, 3, dilation=2, bias=False), nn.BatchNorm2d(8), nn.ReLU()), 1, 0),
    "standardized weights": (
        sequence(StandardizedConv(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()),
        1,
        0,
    ),
    "weights normalized by batch_norm": (sequence(NormalizedByBatchNorm(3, 8, 3, padding=1), nn.ReLU()), 0, 0),
    "as Keras writes it": (lambda: Head(KerasBlock()), 2, 0),
    "sizes and constants in forward": (SizesInForward, 1, 0),
    "squeeze and excitation": (lambda: Head(SqueezeExcitation()), 1, 0),
    "GroupNorm": (lambda: Head(GroupNormed()), 0, 0),
    "dropout": (sequence(conv(3, 8), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout2d(0.5)), 1, 0),
}


def alive(network: nn.Module, shape: tuple[int, int, int] = SHAPE) -> nn.Module:
    """With statistics of its own activations, in evaluation mode."""
    torch.manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d) and module.affine:
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.3)
    with torch.no_grad():
        network.train()(varied_images(16, shape))
    return network.eval()


def folded(network: nn.Module, shape: tuple[int, int, int] = SHAPE) -> tuple[PassResult, EagerAnswers, Graph]:
    """Folded and held to the design's bound; with eager's answers and the traced graph."""
    preprocessing, _ = preprocessing_from_options(PreprocessingOptions(), shape, "cifar")
    answers = answers_from_module(network, varied_images(4, shape, seed=2).numpy(), preprocessing)
    traced = graph_from_module(network, shape, tuple(answers.float32))
    result = fold_batchnorm(traced.graph)
    check_folding(observation_from_graph(result.graph, varied_images(4, shape, seed=2).numpy()), answers)
    return result, answers, traced.graph


@pytest.mark.parametrize("what", FOLDED)
def test_it_is_folded_within_the_bound(what: str) -> None:
    make, into, apart = FOLDED[what]
    torch.manual_seed(0)
    result, answers, _ = folded(alive(make()))
    assert (len(result.done), len(result.skipped)) == (into, apart)
    assert not list(result.graph.nodes("BatchNormalization"))
    assert answers.exact, "it was held to float64"
    for node in result.graph.nodes():
        if node.op_type == "Conv":
            assert constant_of(node.inputs[1]) is not None, f"the weights of {node.name} are no initializer"


@pytest.mark.parametrize("what", ["standardized weights", "weights normalized by batch_norm"])
def test_what_depends_on_no_input_is_one_initializer(what: str) -> None:
    torch.manual_seed(0)
    result, _, _ = folded(alive(FOLDED[what][0]()))
    assert {node.op_type for node in result.graph.nodes()} <= {"Conv", "Relu", "ReduceMean", "Gemm"}


def test_a_batchnorm_without_running_statistics_is_refused() -> None:
    network = sequence(conv(3, 8), nn.BatchNorm2d(8, track_running_stats=False), nn.ReLU())()
    graph = graph_from_module(network.eval(), SHAPE, ("logits",)).graph
    with pytest.raises(PassError, match=r"statistics|training mode"):
        fold_batchnorm(graph)


class Spectrogram(nn.Module):
    """One channel, not square, and two answers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.fc = conv(1, 8, stride=2), nn.BatchNorm2d(8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        embedding = functional.relu(self.norm(self.conv(x))).mean((2, 3))
        return {"logits": self.fc(embedding), "embedding": embedding}


def scripted(network: nn.Module, shape: tuple[int, int, int], path: Path) -> Path:
    program = torch.export.export(
        network, (torch.zeros(2, *shape),), dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=64)},)
    )
    torch.export.save(program, path)
    return path


def test_several_outputs_one_channel_and_no_square(tmp_path: Path) -> None:
    shape = (1, 12, 40)
    torch.manual_seed(0)
    network = alive(Spectrogram(), shape)
    path = scripted(network, shape, tmp_path / "model.pt2")
    options = ExportOptions(engines=None, variants=("fp32", "fp16"), model=ModelOptions(trust=True))
    result = bundle_from_checkpoint(path, tmp_path / "m.bundle", options)
    assert result.manifest.input.shape == shape
    assert [(output.name, output.shape) for output in result.manifest.outputs] == [
        ("logits", (5,)),
        ("embedding", (8,)),
    ]
    images = varied_images(3, shape, seed=4)
    with torch.inference_mode(), resnet_runtime.load(result.path, precision="fp32") as session:
        expected, found = network(images), session.infer(images.numpy())
    for name, tensor in expected.items():
        assert np.abs(found[name] - tensor.numpy()).max() < 1e-4 * np.ptp(tensor.numpy())


WRAPPED: dict[str, Callable[[nn.Module], Any]] = {
    "half": lambda network: copy.deepcopy(network).half().state_dict(),
    "bfloat16": lambda network: copy.deepcopy(network).bfloat16().state_dict(),
    "DataParallel": lambda network: nn.DataParallel(network).state_dict(),
    "compiled": lambda network: torch.compile(network).state_dict(),
    "compiled in DataParallel": lambda network: nn.DataParallel(torch.compile(network)).state_dict(),
}


@pytest.mark.parametrize("how", WRAPPED)
def test_a_wrapped_or_rounded_checkpoint_is_the_same_network(how: str, tmp_path: Path) -> None:
    network = live_resnet(TINY, size=16)
    tensors = WRAPPED[how](network)
    torch.save(tensors, tmp_path / "model.pt")
    found = model_from_checkpoint(checkpoint_from_file(tmp_path / "model.pt"), ModelOptions()).module
    images = varied_images(2, SHAPE, seed=3)
    expected = copy.deepcopy(network)
    if how in ("half", "bfloat16"):
        expected = (expected.half() if how == "half" else expected.bfloat16()).float()
    with torch.inference_mode():
        assert torch.equal(found(images), expected(images))
