"""The network against an independent one, and how it is filled."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping

import pytest
import torch
import torch.nn.functional as F  # noqa: N812  (its usual name)
from torch import Tensor, nn

from resnet_export.errors import ArchitectureError
from resnet_export.resnet import (
    ARCHITECTURES,
    ResNetConfig,
    config_from_state_dict,
    default_input_shape,
    module_from_state_dict,
)
from resnet_export.resnet_config import shapes_from_config
from tests.export.models import SMALL_BOTTLENECK, TINY, live_resnet, meta_network, varied_images

# Parameters and multiply-adds (in millions, at the default input shape) as torchvision's documentation has them; the
# CIFAR rows are those of arXiv:1512.03385, table 6, with 1x1 convolutions in the two shortcuts that change the shape.
PUBLISHED = {
    "resnet18": (11_689_512, 1814),
    "resnet34": (21_797_672, 3664),
    "resnet50": (25_557_032, 4089),
    "resnet101": (44_549_160, 7801),
    "resnet152": (60_192_808, 11514),
    "resnext50_32x4d": (25_028_904, 4230),
    "resnext101_32x8d": (88_791_336, 16414),
    "resnext101_64x4d": (83_455_272, 15460),
    "wide_resnet50_2": (68_883_240, 11398),
    "wide_resnet101_2": (126_886_696, 22753),
}


def multiply_adds(config: ResNetConfig) -> int:
    total = 0

    def count(module: nn.Module, _: object, output: Tensor) -> None:
        nonlocal total
        assert isinstance(module, nn.Conv2d | nn.Linear)
        total += output.numel() * module.weight[0].numel()

    network = meta_network(config)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(count)
    network(torch.empty(1, *default_input_shape(config), device="meta"))
    return total


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_and_multiply_adds_are_the_published_ones(name: str) -> None:
    parameters, millions = PUBLISHED[name]
    network = meta_network(ARCHITECTURES[name])
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    assert round(multiply_adds(ARCHITECTURES[name]) / 1e6) == millions


@pytest.mark.parametrize(("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7)])
def test_cifar_parameters_are_those_of_the_paper(depth: int, millions: float) -> None:
    parameters = sum(p.numel() for p in meta_network(ARCHITECTURES[f"cifar_resnet{depth}"]).parameters())
    # The paper's shortcuts have no parameters; these have two 1x1 convolutions, 2.7 thousand numbers.
    assert abs((parameters - 2752) / 1e6 - millions) < 0.04


def test_stride_in_the_first_convolution_costs_what_the_paper_says() -> None:
    config = dataclasses.replace(ARCHITECTURES["resnet50"], stride_in="1x1")
    assert 3.8e9 < multiply_adds(config) < 3.9e9  # 3.8e9 in arXiv:1512.03385, table 1


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_tensors_of_the_network_are_those_of_its_configuration(name: str) -> None:
    state_dict = meta_network(ARCHITECTURES[name]).state_dict()
    shapes = {key: tuple(tensor.shape) for key, tensor in state_dict.items() if "num_batches" not in key}
    assert shapes == shapes_from_config(ARCHITECTURES[name])


def straightforward(
    tensors: Mapping[str, Tensor],
    x: Tensor,
    *,
    imagenet: bool,
    stage_strides: Mapping[str, tuple[int, int, int]],
    groups: int,
) -> Tensor:
    """The network written down once more, from the tensors' names alone."""

    def conv_bn(conv: str, norm: str, value: Tensor, stride: int, in_groups: int = 1) -> Tensor:
        weight = tensors[f"{conv}.weight"]
        value = F.conv2d(value, weight, stride=stride, padding=weight.shape[-1] // 2, groups=in_groups)
        names = ("running_mean", "running_var", "weight", "bias")
        mean, variance, scale, shift = (tensors[f"{norm}.{name}"] for name in names)
        return F.batch_norm(value, mean, variance, scale, shift, eps=1e-5)

    x = F.relu(conv_bn("conv1", "bn1", x, 2 if imagenet else 1))
    if imagenet:
        x = F.max_pool2d(x, 3, 2, 1)
    for block in sorted({match[0] for key in tensors if (match := re.match(r"layer\d+\.\d+\.", key))}):
        first = block.split(".")[1] == "0"
        strides = stage_strides[block.split(".")[0]] if first else (1, 1, 1)
        y = F.relu(conv_bn(f"{block}conv1", f"{block}bn1", x, strides[0]))
        if f"{block}conv3.weight" in tensors:
            y = F.relu(conv_bn(f"{block}conv2", f"{block}bn2", y, strides[1], groups))
            y = conv_bn(f"{block}conv3", f"{block}bn3", y, 1)
        else:
            y = conv_bn(f"{block}conv2", f"{block}bn2", y, 1)
        if f"{block}downsample.0.weight" in tensors:
            x = conv_bn(f"{block}downsample.0", f"{block}downsample.1", x, max(strides))
        x = F.relu(x + y)
    return F.linear(F.adaptive_avg_pool2d(x, 1).flatten(1), tensors["fc.weight"], tensors["fc.bias"])


@pytest.mark.parametrize(
    ("config", "second_stage"),
    [
        (dataclasses.replace(TINY, stem="imagenet"), (2, 1, 1)),
        (TINY, (2, 1, 1)),
        (SMALL_BOTTLENECK, (1, 2, 1)),
        (dataclasses.replace(SMALL_BOTTLENECK, stride_in="1x1"), (2, 1, 1)),
    ],
    ids=["basic", "cifar", "stride in 3x3", "stride in 1x1"],
)
@torch.no_grad()
def test_it_computes_what_the_network_written_down_once_more_computes(
    config: ResNetConfig, second_stage: tuple[int, int, int]
) -> None:
    network = live_resnet(config)
    images = varied_images(3, (3, 40, 48))
    expected = straightforward(
        network.state_dict(),
        images,
        imagenet=config.stem == "imagenet",
        stage_strides={"layer1": (1, 1, 1), "layer2": second_stage},
        groups=config.groups,
    )
    # The same operations in the same order on the same machine: equal to the last bit.
    assert torch.equal(network(images), expected)


@torch.no_grad()
def test_the_loaded_module_answers_as_the_trained_one() -> None:
    trained = live_resnet("cifar_resnet20", in_channels=1, classes=7)
    state_dict = trained.state_dict()
    loaded = module_from_state_dict(state_dict, config_from_state_dict(state_dict).config)
    images = varied_images(2, (1, 32, 32))
    assert torch.equal(loaded(images), trained(images))
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_loading_copies_and_initializes_nothing() -> None:
    state_dict = {name: tensor.contiguous() for name, tensor in live_resnet("cifar_resnet20").state_dict().items()}
    before = torch.random.get_rng_state()
    loaded = module_from_state_dict(state_dict, config_from_state_dict(state_dict).config)
    assert loaded.conv1.weight.data_ptr() == state_dict["conv1.weight"].data_ptr()
    assert torch.equal(torch.random.get_rng_state(), before)


def test_counters_may_be_absent() -> None:
    full = live_resnet(TINY).state_dict()
    state_dict = {name: tensor for name, tensor in full.items() if "num_batches" not in name}
    assert len(state_dict) < len(full)
    module = module_from_state_dict(state_dict, config_from_state_dict(state_dict).config)
    assert module.state_dict().keys() == full.keys()


def test_loading_into_another_configuration_lists_the_differences() -> None:
    tensors = dict(meta_network(TINY).state_dict())
    with pytest.raises(ArchitectureError) as caught:
        module_from_state_dict(tensors, dataclasses.replace(TINY, classes=11))
    assert caught.value.details == (
        "fc.weight: (10, 16), where (11, 16) was expected",
        "fc.bias: (10), where (11) was expected",
    )


@pytest.mark.parametrize(
    "values",
    [
        {"block": "pre-activation"},
        {"stem": "deep"},
        {"layers": (1,)},
        {"layers": (), "widths": ()},
        {"layers": (0, 1)},
        {"classes": 0},
        {"groups": 2},
        {"block": "bottleneck", "width_per_group": 1},
    ],
)
def test_a_configuration_that_is_no_network_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(ArchitectureError):
        dataclasses.replace(TINY, **values)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
@torch.no_grad()
def test_it_can_be_scripted_and_answers_the_same() -> None:
    network = live_resnet(TINY)
    images = varied_images(2, (3, 32, 32))
    assert torch.equal(torch.jit.script(network)(images), network(images))
