"""The configuration that tensors tell, and how those of something else are refused."""

from __future__ import annotations

import dataclasses
import itertools
import re
import tracemalloc
from collections.abc import Mapping

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from resnet_export.errors import ArchitectureError
from resnet_export.resnet import (
    ARCHITECTURES,
    ResNetConfig,
    config_from_state_dict,
    default_input_shape,
)
from resnet_export.resnet_config import shapes_from_config
from resnet_export.resnet_inference import folded
from tests.export.models import SMALL_BOTTLENECK, TINY, meta_network


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_each_registered_architecture_is_recognized_from_its_tensors(name: str) -> None:
    arch = name if name.endswith("_pooled") else None  # which no tensor tells
    inferred = config_from_state_dict(meta_network(ARCHITECTURES[name]).state_dict(), arch=arch)
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
        (["stem.conv.weight", "stages.0.blocks.0.norm1.weight"], "a pre-activation ResNet"),
        (["conv1.weight", "layer1.0.conv1.weight", "layer2.0.shortcut.0.weight", "linear.weight"], "other names"),
        (["conv1.weight", "fc.1.weight"], "a head of several layers"),
    ],
    ids=["vgg", "mobilenet", "vit", "deep stem", "se", "v2", "shortcut", "head"],
)
def test_another_family_is_refused_by_name(names: list[str], family: str) -> None:
    error = refused({name: torch.zeros(3, 3, 3, 3) for name in names})
    assert family in error.message
    known = {"conv1.weight", "layer1.0.conv1.weight"}
    assert set(names) - known <= named(error.details, "unexpected")


def test_nothing_at_all_is_refused() -> None:
    assert "the nearest being" in refused({}).message
