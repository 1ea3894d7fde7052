"""A bare state_dict is built as what it is, or refused: several networks may have the same tensors."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from resnet_export import ExportOptions
from resnet_export.checkpoint import checkpoint_from_file
from resnet_export.errors import AmbiguousArchitectureError, LibraryError, ReferenceFileError
from resnet_export.options import ModelOptions
from resnet_export.progress import Timings
from resnet_export.resnet import ResNet
from resnet_export.resnet_config import ARCHITECTURES
from resnet_export.source import model_from_checkpoint
from resnet_export.source_model import SourceModel
from resnet_export.subject import subject_from_checkpoint
from tests.export.commands import refused
from tests.export.models import varied_images
from tests.zoo.networks import alive, built

SHAPE = (3, 64, 64)


def network(name: str, library: str = "timm") -> nn.Module:
    torch.manual_seed(0)
    return alive(built(library, name, "cpu"), SHAPE)


@pytest.fixture(scope="module")
def blurred() -> nn.Module:
    return network("resnetblur18")


@pytest.fixture
def bare(blurred: nn.Module, tmp_path: Path) -> Path:
    torch.save(blurred.state_dict(), tmp_path / "model.pt")
    return tmp_path / "model.pt"


def model(path: Path, arch: str | None = None) -> SourceModel:
    return model_from_checkpoint(checkpoint_from_file(path), ModelOptions(arch=arch, input_shape=SHAPE))


def answers(module: nn.Module) -> Tensor:
    with torch.inference_mode():
        found: Tensor = module(varied_images(3, SHAPE, seed=7))
        return found


def test_what_several_networks_have_is_no_guess(bare: Path) -> None:
    with pytest.raises(AmbiguousArchitectureError) as caught:
        model(bare)
    assert caught.value.exit_status == 2
    assert caught.value.candidates == ("resnet18", "timm:resnetblur18")
    assert caught.value.message == (
        "the tensors are those of several networks that compute different things, resnet18, timm:resnetblur18: name "
        "yours by --arch, or give what your own code answers by --reference"
    )


@pytest.mark.usefixtures("here")
def test_the_command_says_so_and_writes_nothing(bare: Path) -> None:
    error = refused(bare)
    assert error["type"] == "AmbiguousArchitectureError"
    assert "resnet18, timm:resnetblur18: name yours by --arch" in error["message"]


def test_arch_settles_it(bare: Path, blurred: nn.Module) -> None:
    found = model(bare, "timm:resnetblur18")
    assert torch.equal(answers(found.module), answers(blurred))
    assert not torch.equal(answers(model(bare, "resnet18").module), answers(blurred))


@pytest.mark.parametrize("written", ["resnetblur18", "resnet18"])
def test_what_a_training_script_wrote_settles_it(bare: Path, blurred: nn.Module, written: str) -> None:
    torch.save({"epoch": 3, "arch": written, "state_dict": blurred.state_dict()}, bare)
    found = model(bare)
    assert found.architecture.rpartition(":")[2] == written
    assert any(f"as the file's own 'arch' is '{written}'" in note for note in found.notes)
    assert torch.equal(answers(found.module), answers(blurred)) == (written == "resnetblur18")


def test_the_reference_settles_it(bare: Path, blurred: nn.Module) -> None:
    subject = subject_from_checkpoint(bare, with_reference(bare, blurred), Timings(None))
    assert subject.model.architecture == "timm:resnetblur18"
    assert "taken for timm:resnetblur18, which agrees with the reference" in subject.model.notes


def test_a_reference_of_none_of_them_is_refused(bare: Path) -> None:
    options = with_reference(bare, network("resnet18", "torchvision"))
    with pytest.raises(ReferenceFileError, match="none of the networks that have these tensors agrees") as caught:
        subject_from_checkpoint(bare, options, Timings(None))
    told = [line for line in caught.value.details if "the model disagrees with the reference" in line]
    assert [line.partition(": ")[0] for line in told] == ["resnet18", "timm:resnetblur18"]


def test_a_reference_that_two_of_them_answer_settles_nothing(bare: Path, blurred: nn.Module) -> None:
    options = with_reference(bare, blurred, tolerance=1e9)
    with pytest.raises(AmbiguousArchitectureError) as caught:
        subject_from_checkpoint(bare, options, Timings(None))
    assert caught.value.message == (
        "resnet18 and timm:resnetblur18 have these tensors, and all agree with the reference: name yours by --arch"
    )


def strided(stride_in: str) -> nn.Module:
    """resnet50's tensors, and a network that strides where it is said."""
    config = dataclasses.replace(ARCHITECTURES["resnet50"], stride_in=stride_in)
    torch.manual_seed(0)
    return alive(ResNet(config), SHAPE)


def test_the_reference_settles_it_beside_another_stride(tmp_path: Path) -> None:
    module, path = strided("1x1"), tmp_path / "model.pt"
    torch.save(module.state_dict(), path)
    options = with_reference(path, module)
    with pytest.raises(ReferenceFileError, match="none of the networks") as caught:
        subject_from_checkpoint(path, options, Timings(None))
    assert any("--stride-in" in line for line in caught.value.details)
    model = dataclasses.replace(options.model, stride_in="1x1")
    subject = subject_from_checkpoint(path, dataclasses.replace(options, model=model), Timings(None))
    assert subject.model.architecture == "resnet50, stride in the 1x1"
    assert torch.equal(answers(subject.model.module), answers(module))


def test_what_could_not_be_tried_is_said(bare: Path, blurred: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    options = with_reference(bare, blurred)
    with pytest.raises(LibraryError, match="which network it is cannot be found out: timm is not installed here"):
        subject_from_checkpoint(bare, options, Timings(None))


def test_a_plain_bottleneck_is_built_here_and_its_stride_is_an_assumption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = network("resnet26")
    torch.save(original.state_dict(), tmp_path / "model.pt")
    monkeypatch.setitem(sys.modules, "timm", None)
    found = model(tmp_path / "model.pt")
    assert (found.architecture, found.notes) == ("resnet26", ())
    assert any(item.option == "--stride-in" for item in found.assumptions)
    assert torch.equal(answers(found.module), answers(original))


def test_another_version_of_the_library_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import timm

    torch.save(network("resnet18d").state_dict(), tmp_path / "model.pt")
    monkeypatch.setattr(timm, "is_model", lambda name: False)
    with pytest.raises(LibraryError, match="of timm:resnet18d, and the version that is installed here builds it other"):
        model(tmp_path / "model.pt")


def test_an_arch_beside_other_weights_says_nothing(bare: Path, blurred: nn.Module) -> None:
    tensors = blurred.state_dict()
    torch.save({"arch": "resnet18", "state_dict": tensors, "teacher": dict(tensors)}, bare)
    checkpoint = checkpoint_from_file(bare, weights="teacher")
    with pytest.raises(AmbiguousArchitectureError):
        model_from_checkpoint(checkpoint, ModelOptions(input_shape=SHAPE))


def with_reference(path: Path, module: nn.Module, tolerance: float = 1e-3) -> ExportOptions:
    images = varied_images(3, SHAPE, seed=9)
    with torch.inference_mode():
        np.savez(path.with_name("reference.npz"), input=images.numpy(), output=module(images).numpy())
    reference = path.with_name("reference.npz")
    return ExportOptions(
        model=ModelOptions(input_shape=SHAPE, reference=reference, reference_tolerance=tolerance), engines=None
    )


def test_a_library_that_is_not_here_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(network("resnet18d").state_dict(), tmp_path / "model.pt")
    assert model(tmp_path / "model.pt").architecture == "timm:resnet18d"
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(LibraryError) as caught:
        model(tmp_path / "model.pt")
    assert caught.value.message == (
        "the tensors are those of timm:resnet18d, and timm is not installed here: pip install timm"
    )


def test_none_of_the_names_needs_a_library_where_one_is_built_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = network("resnet34", "torchvision")
    torch.save(original.state_dict(), tmp_path / "model.pt")
    for library in ("timm", "torchvision"):
        monkeypatch.setitem(sys.modules, library, None)
    found = model(tmp_path / "model.pt")
    assert (found.architecture, found.notes) == ("resnet34", ())
    assert torch.equal(answers(found.module), answers(original))
