"""The network against an independent one, and the configuration that its tensors tell."""

from __future__ import annotations

import dataclasses
import itertools
import re
import tracemalloc
from collections.abc import Mapping

import pytest
import torch
import torch.nn.functional as F  # noqa: N812  (its usual name)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from resnet_export.errors import ArchitectureError
from resnet_export.resnet import (
    ARCHITECTURES,
    ResNet,
    ResNetConfig,
    config_from_state_dict,
    default_input_shape,
    module_from_state_dict,
)
from resnet_export.resnet_config import shapes_from_config
from resnet_export.resnet_inference import folded
from tests.export.models import TINY, live_resnet, varied_images

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


def meta_network(config: ResNetConfig) -> ResNet:
    with torch.device("meta"):
        return ResNet(config).eval()


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


SMALL_BOTTLENECK = ResNetConfig(
    block="bottleneck", layers=(1, 2), widths=(16, 32), stem="imagenet", classes=7, groups=4, width_per_group=32
)


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


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_each_registered_architecture_is_recognized_from_its_tensors(name: str) -> None:
    inferred = config_from_state_dict(meta_network(ARCHITECTURES[name]).state_dict())
    assert (inferred.name, inferred.config) == (name, ARCHITECTURES[name])


def test_channels_and_classes_are_read_off_and_do_not_change_the_name() -> None:
    config = dataclasses.replace(ARCHITECTURES["resnet18"], in_channels=1, classes=3)
    inferred = config_from_state_dict(meta_network(config).state_dict())
    assert (inferred.name, inferred.config) == ("resnet18", config)
    assert default_input_shape(inferred.config) == (1, 224, 224)


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (TINY, "cifar_resnet-basic[1,1]-widths[8,16]"),
        (SMALL_BOTTLENECK, "resnet-bottleneck[1,2]-widths[16,32]-4x32d"),
        (dataclasses.replace(ARCHITECTURES["resnet50"], layers=(3, 4, 6, 4)), "resnet-bottleneck[3,4,6,4]"),
    ],
)
def test_a_resnet_without_a_name_is_described(config: ResNetConfig, name: str) -> None:
    inferred = config_from_state_dict(meta_network(config).state_dict())
    assert (inferred.name, inferred.config) == (name, config)


@settings(max_examples=60, deadline=None)
@given(
    block=st.sampled_from(["basic", "bottleneck"]),
    stages=st.lists(st.tuples(st.integers(1, 3), st.integers(1, 40)), min_size=1, max_size=5),
    stem=st.sampled_from(["imagenet", "cifar"]),
    groups=st.integers(1, 6),
    width_per_group=st.integers(1, 200),
    channels=st.integers(1, 5),
)
def test_any_configuration_is_read_off_its_tensors(
    block: str, stages: list[tuple[int, int]], stem: str, groups: int, width_per_group: int, channels: int
) -> None:
    layers, widths = zip(*stages, strict=True)
    if block == "basic":
        groups, width_per_group = 1, 64
    try:
        config = ResNetConfig(
            block=block, layers=layers, widths=widths, stem=stem, groups=groups,
            width_per_group=width_per_group, in_channels=channels, classes=4,
        )  # fmt: skip
    except ArchitectureError:
        return  # a stage would have no channels
    tensors = {name: torch.empty(shape, device="meta") for name, shape in shapes_from_config(config).items()}
    try:
        found = config_from_state_dict(tensors).config
    except ArchitectureError:
        # Some widths per group give the first stage the same channels and others different ones: not ours to guess.
        assert any(width % widths[0] for width in widths)
        return
    # Several widths per group may give the same channels; they are the same network.
    assert shapes_from_config(found) == shapes_from_config(config)


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


def test_what_tensors_cannot_tell_is_said_once_each() -> None:
    def subjects(config: ResNetConfig, stride_in: str | None = None) -> dict[str, str]:
        inferred = config_from_state_dict(meta_network(config).state_dict(), stride_in=stride_in)
        return {assumption.subject: assumption.value for assumption in inferred.assumptions}

    epsilon = {"epsilon of BatchNorm": "1e-05"}
    stride = {"stride of the bottleneck blocks": "in the 3x3 convolution"}
    stem = {"stem": "3x3 convolution of stride 1, no pooling"}
    assert subjects(ARCHITECTURES["resnet18"]) == epsilon
    assert subjects(ARCHITECTURES["resnet50"]) == epsilon | stride
    assert subjects(ARCHITECTURES["resnet50"], "1x1") == epsilon
    assert subjects(ARCHITECTURES["cifar_resnet50"]) == epsilon | stride | stem


def test_stride_in_changes_the_configuration_alone() -> None:
    tensors = meta_network(ARCHITECTURES["resnet50"]).state_dict()
    inferred = config_from_state_dict(tensors, stride_in="1x1")
    assert inferred.config == dataclasses.replace(ARCHITECTURES["resnet50"], stride_in="1x1")
    assert inferred.name == "resnet50"


def test_stride_in_is_refused_where_nothing_has_it() -> None:
    with pytest.raises(ArchitectureError, match="--stride-in is about bottleneck blocks, and resnet18 has none"):
        config_from_state_dict(meta_network(ARCHITECTURES["resnet18"]).state_dict(), stride_in="3x3")


def test_a_stride_in_that_is_none_is_refused() -> None:
    with pytest.raises(ArchitectureError, match="stride_in is '5x5', and it must be one of 3x3, 1x1"):
        config_from_state_dict(meta_network(ARCHITECTURES["resnet50"]).state_dict(), stride_in="5x5")


def test_arch_that_fits_is_taken() -> None:
    tensors = meta_network(ARCHITECTURES["resnet18"]).state_dict()
    assert config_from_state_dict(tensors, arch="resnet18") == config_from_state_dict(tensors)


def test_arch_that_does_not_fit_is_refused_with_what_would() -> None:
    tensors = meta_network(ARCHITECTURES["resnet18"]).state_dict()
    with pytest.raises(ArchitectureError, match="not those of resnet34 but of resnet18: 80 missing") as caught:
        config_from_state_dict(tensors, arch="resnet34")
    assert named(caught.value.details, "missing") == set(shapes_from_config(ARCHITECTURES["resnet34"])) - set(
        shapes_from_config(ARCHITECTURES["resnet18"])
    )


def test_an_unknown_arch_lists_the_known_ones() -> None:
    with pytest.raises(ArchitectureError, match="'resnet51' is not an architecture") as caught:
        config_from_state_dict({}, arch="resnet51")
    assert all(name in caught.value.message for name in ARCHITECTURES)


def unfolded(name: str) -> set[str]:
    """All names that a folded one stands for."""
    choices = []
    for part in re.split(r"(\{[^}]*\})", name):
        if not part.startswith("{"):
            choices.append([part])
            continue
        found: list[str] = []
        for item in part[1:-1].split(","):
            if match := re.fullmatch(r"(\d+)-(\d+)", item):
                found += map(str, range(int(match[1]), int(match[2]) + 1))
            else:
                found.append(item)
        choices.append(found)
    return {"".join(parts) for parts in itertools.product(*choices)}


def named(details: tuple[str, ...], kind: str) -> set[str]:
    """All names that the details list as missing or unexpected."""
    lines = [line.removeprefix(f"{kind}: ") for line in details if line.startswith(f"{kind}: ")]
    return set().union(*map(unfolded, lines))


COMPONENT = st.sampled_from(["layer1", "layer2", "conv1", "bn1", "weight", "bias", "0", "1", "2", "3", "10", "01"])


@settings(deadline=None)
@given(st.sets(st.lists(COMPONENT, min_size=1, max_size=4).map(".".join), max_size=40))
def test_folding_leaves_out_nothing_and_adds_nothing(names: set[str]) -> None:
    lines = folded(sorted(names))
    each = [unfolded(line) for line in lines]
    assert set().union(*each) == names
    assert sum(map(len, each)) == len(names)


def test_folding_is_compact() -> None:
    names = shapes_from_config(ARCHITECTURES["resnet152"])
    assert len(folded(names)) <= 30 < len(names)


def refused(tensors: Mapping[str, Tensor]) -> ArchitectureError:
    with pytest.raises(ArchitectureError) as caught:
        config_from_state_dict(tensors)
    assert caught.value.exit_status == 2
    assert "\n" not in caught.value.message
    return caught.value


def resnet50_tensors() -> dict[str, Tensor]:
    return dict(meta_network(ARCHITECTURES["resnet50"]).state_dict())


def test_a_missing_tensor_is_refused() -> None:
    tensors = resnet50_tensors()
    del tensors["layer3.2.bn2.running_var"]
    error = refused(tensors)
    assert "the nearest being resnet50: 1 missing" in error.message
    assert error.details == ("missing: layer3.2.bn2.running_var",)


def test_an_additional_tensor_is_refused() -> None:
    error = refused(resnet50_tensors() | {"head.bias": torch.zeros(3)})
    assert "the nearest being resnet50: 1 unexpected" in error.message
    assert error.details == ("unexpected: head.bias",)


def test_a_tensor_of_another_shape_is_refused() -> None:
    error = refused(resnet50_tensors() | {"layer2.0.bn1.bias": torch.zeros(127)})
    assert error.details == ("layer2.0.bn1.bias: (127), where (128) was expected",)


def test_a_tensor_of_another_type_is_refused() -> None:
    error = refused(resnet50_tensors() | {"fc.bias": torch.zeros(1000, dtype=torch.int8)})
    assert error.details == ("fc.bias: (1000) int8, where (1000) was expected",)


def test_a_classifier_without_bias_is_refused() -> None:
    tensors = resnet50_tensors()
    del tensors["fc.bias"]
    assert refused(tensors).details == ("missing: fc.bias",)


def test_a_network_without_classifier_is_refused() -> None:
    tensors = {name: tensor for name, tensor in resnet50_tensors().items() if not name.startswith("fc.")}
    assert refused(tensors).details == ("missing: fc.{weight,bias}",)


def test_a_stage_that_is_missing_is_refused() -> None:
    tensors = {name: tensor for name, tensor in resnet50_tensors().items() if not name.startswith("layer2.")}
    assert "the nearest being resnet50" in refused(tensors).message


def test_numbers_of_blocks_that_are_not_there_take_no_time() -> None:
    tensors = resnet50_tensors() | {f"layer{n}.9999.conv1.weight": torch.zeros(1) for n in range(1, 5)}
    tracemalloc.start()
    refused(tensors)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 << 20  # the 40 000 blocks that the names speak of have 600 000 tensors


@pytest.mark.parametrize(
    ("names", "family"),
    [
        (["features.0.weight", "features.0.bias", "classifier.6.weight"], "a VGG or AlexNet"),
        (["features.1.conv.0.0.weight", "classifier.1.weight"], "a MobileNet or EfficientNet"),
        (["cls_token", "blocks.0.attn.qkv.weight"], "a transformer"),
        (["conv1.0.weight", "conv1.3.weight", "conv1.6.weight", "layer1.0.conv1.weight"], "a ResNet with a deep stem"),
        (["conv1.weight", "layer1.0.se.fc1.weight"], "squeeze-and-excitation"),
        (["resnet.embedder.embedder.convolution.weight"], "a Hugging Face ResNet"),
        (["stem.conv.weight", "stages.0.blocks.0.norm1.weight"], "a pre-activation ResNet"),
        (["conv1.weight", "layer1.0.conv1.weight", "layer2.0.shortcut.0.weight", "linear.weight"], "other names"),
        (["conv1.weight", "fc.1.weight"], "a head of several layers"),
    ],
    ids=["vgg", "mobilenet", "vit", "deep stem", "se", "hugging face", "v2", "shortcut", "head"],
)
def test_another_family_is_refused_by_name(names: list[str], family: str) -> None:
    error = refused({name: torch.zeros(3, 3, 3, 3) for name in names})
    assert family in error.message
    known = {"conv1.weight", "layer1.0.conv1.weight"}
    assert set(names) - known <= named(error.details, "unexpected")


def test_nothing_at_all_is_refused() -> None:
    assert "the nearest being" in refused({}).message


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


def test_loading_into_another_configuration_lists_the_differences() -> None:
    tensors = dict(meta_network(TINY).state_dict())
    with pytest.raises(ArchitectureError) as caught:
        module_from_state_dict(tensors, dataclasses.replace(TINY, classes=11))
    assert caught.value.details == (
        "fc.weight: (10, 16), where (11, 16) was expected",
        "fc.bias: (10), where (11) was expected",
    )


@torch.no_grad()
def test_it_can_be_scripted_and_answers_the_same() -> None:
    network = live_resnet(TINY)
    images = varied_images(2, (3, 32, 32))
    assert torch.equal(torch.jit.script(network)(images), network(images))
