"""State_dicts of other families' code: rebuilt from their tensors, bit-equal to the module that they came from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import resnet_runtime
from resnet_export import ExportOptions, bundle_from_checkpoint
from resnet_export.checkpoint import checkpoint_from_file
from resnet_export.errors import ArchitectureError
from resnet_export.families import FAMILIES, TORCHVISION, in_torchvisions_names
from resnet_export.options import ModelOptions
from resnet_export.resnet_config import ResNetConfig
from resnet_export.source import SourceModel, model_from_checkpoint
from tests.export.foreign_resnets import HuggingFace, PytorchCifar, PytorchCifar100, alive
from tests.export.models import meta_network, varied_images

NARROW = (8, 16, 32)

NETWORKS: dict[str, tuple[Callable[[], nn.Module], str, int]] = {
    "pytorch-cifar, basic": (lambda: PytorchCifar((2, 2, 2, 2), (64, 128, 256, 512)), "cifar_resnet18", 32),
    "pytorch-cifar, bottleneck": (
        lambda: PytorchCifar((1, 1), (8, 16), bottleneck=True),
        "cifar_resnet-bottleneck[1,1]-widths[8,16]",
        16,
    ),
    "option B": (lambda: PytorchCifar((3, 3, 3), (16, 32, 64)), "cifar_resnet20", 32),
    "option A": (
        lambda: PytorchCifar((3, 3, 3), (16, 32, 64), padded=True),
        "cifar_resnet20, zero-padded shortcuts",
        32,
    ),
    "pytorch-cifar100, basic": (
        lambda: PytorchCifar100((1, 1, 1, 1), bottleneck=False),
        "cifar_resnet-basic[1,1,1,1]",
        16,
    ),
    "pytorch-cifar100, bottleneck": (
        lambda: PytorchCifar100((1, 1, 1, 1), bottleneck=True),
        "cifar_resnet-bottleneck[1,1,1,1]",
        16,
    ),
    "Hugging Face, basic": (
        lambda: HuggingFace((2, 2, 2, 2), (64, 128, 256, 512), 64, bottleneck=False),
        "resnet18",
        64,
    ),
    "Hugging Face, bottleneck": (
        lambda: HuggingFace((1, 2), (32, 64), 8, bottleneck=True),
        "resnet-bottleneck[1,2]-widths[8,16]",
        64,
    ),
}


@pytest.fixture(scope="module", params=NETWORKS)
def case(request: pytest.FixtureRequest) -> tuple[nn.Module, str, int]:
    make, name, side = NETWORKS[request.param]
    torch.manual_seed(0)
    return alive(make(), side), name, side


def rebuilt(network: nn.Module, path: Path, **options: str) -> SourceModel:
    torch.save(network.state_dict(), path)
    return model_from_checkpoint(checkpoint_from_file(path), ModelOptions(**options))


def test_it_is_rebuilt_bit_by_bit(case: tuple[nn.Module, str, int], tmp_path: Path) -> None:
    network, name, side = case
    found = rebuilt(network, tmp_path / "model.pt")
    assert found.architecture == name
    images = varied_images(3, (3, side, side), seed=2)
    with torch.inference_mode():
        assert torch.equal(found.module(images), network(images))


def test_whose_names_they_are_is_said(case: tuple[nn.Module, str, int], tmp_path: Path) -> None:
    notes = rebuilt(case[0], tmp_path / "model.pt").notes
    assert [note for note in notes if note.endswith(" names")], notes
    assert len(notes) == len(set(notes))


def test_no_name_is_lost_and_none_is_made_up(case: tuple[nn.Module, str, int]) -> None:
    tensors = case[0].state_dict()
    renamed = in_torchvisions_names(tensors)
    assert renamed.family in FAMILIES
    assert [id(tensor) for tensor in renamed.tensors.values()] == [id(tensor) for tensor in tensors.values()]
    assert not [name for name in renamed.tensors if not name.startswith(("conv1.", "bn1.", "layer", "fc."))]


def test_torchvisions_own_are_left_as_they_are() -> None:
    tensors = meta_network(ResNetConfig(block="basic", layers=(1, 1), widths=(8, 16))).state_dict()
    renamed = in_torchvisions_names(tensors)
    assert (renamed.family, list(renamed.tensors)) == (TORCHVISION, list(tensors))


def test_one_tensor_too_many_is_refused(case: tuple[nn.Module, str, int], tmp_path: Path) -> None:
    tensors = dict(case[0].state_dict())
    torch.save({**tensors, "extra.weight": torch.zeros(3)}, tmp_path / "model.pt")
    with pytest.raises(ArchitectureError) as caught:
        model_from_checkpoint(checkpoint_from_file(tmp_path / "model.pt"), ModelOptions())
    assert "unexpected: extra.weight" in caught.value.details


def test_shortcuts_without_parameters_are_no_guess_among_torchvisions_names(tmp_path: Path) -> None:
    """Several codes pad differently, and only one of them calls its classifier ``linear``."""
    network = PytorchCifar((1, 1, 1), NARROW, padded=True)
    tensors = {name.replace("linear", "fc"): tensor for name, tensor in network.state_dict().items()}
    torch.save(tensors, tmp_path / "model.pt")
    with pytest.raises(ArchitectureError, match="of no ResNet that is known here"):
        model_from_checkpoint(checkpoint_from_file(tmp_path / "model.pt"), ModelOptions())


def test_a_padded_shortcut_doubles_the_channels() -> None:
    with pytest.raises(ArchitectureError, match="a zero-padded shortcut doubles the channels"):
        ResNetConfig(block="basic", layers=(1, 1), widths=(8, 24), stem="cifar", shortcut="padded")


@pytest.mark.parametrize("key", ["option A", "pytorch-cifar, bottleneck", "Hugging Face, bottleneck"])
def test_it_is_exported(key: str, tmp_path: Path) -> None:
    make, _, side = NETWORKS[key]
    torch.manual_seed(0)
    network = alive(make(), side)
    torch.save(network.state_dict(), tmp_path / "model.pt")
    options = ExportOptions(engines=None, variants=("fp32",), model=ModelOptions(input_shape=(3, side, side)))
    bundle_from_checkpoint(tmp_path / "model.pt", tmp_path / "model.bundle", options)
    images = varied_images(3, (3, side, side), seed=2)
    with torch.inference_mode(), resnet_runtime.load(tmp_path / "model.bundle") as session:
        expected = network(images).numpy()
        found = session.infer(images.numpy())["logits"]
    assert abs(found - expected).max() < 1e-4 * (expected.max() - expected.min())
