"""``--arch timm:NAME`` and ``--arch torchvision:NAME``: the library's own network, with the checkpoint's tensors."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import resnet_runtime
from resnet_export import ExportOptions, bundle_from_checkpoint
from resnet_export.checkpoint import checkpoint_from_file
from resnet_export.errors import ArchitectureError, RequestError, SignatureError
from resnet_export.libraries import network_from_library
from resnet_export.options import ModelOptions
from resnet_export.source import model_from_checkpoint
from tests.export.models import varied_images
from tests.torchvision_operators import declare_torchvision_operators

declare_torchvision_operators()


def built(arch: str, **options: Any) -> nn.Module:
    library, _, name = arch.partition(":")
    torch.manual_seed(0)
    if library == "timm":
        import timm

        network: nn.Module = timm.create_model(name, **options)
    else:
        import torchvision

        network = torchvision.models.get_model(name, **options)
    return network.eval()


@pytest.mark.parametrize(
    ("arch", "options", "shape"),
    [
        ("timm:resnet18d", {"num_classes": 7, "in_chans": 1}, (1, 224, 224)),
        ("timm:resnetblur18", {}, (3, 224, 224)),
        ("timm:resnetv2_18", {"num_classes": 5}, (3, 224, 224)),
        ("timm:ecaresnet26t", {}, (3, 256, 256)),
        ("torchvision:resnet18", {"num_classes": 9}, (3, 224, 224)),
        ("torchvision:wide_resnet50_2", {}, (3, 224, 224)),
    ],
)
def test_it_computes_with_the_tensors_as_the_library_does(
    arch: str, options: dict[str, Any], shape: tuple[int, int, int]
) -> None:
    network = built(arch, **options)
    found = network_from_library(arch, network.state_dict())
    assert found.input_shape == shape
    assert found.library.split()[0] == arch.partition(":")[0]
    images = varied_images(2, (shape[0], 64, 64), seed=1)
    with torch.inference_mode():
        assert torch.equal(found.module(images), network(images))
    weight = next(iter(network.state_dict().values()))
    assert next(iter(found.module.state_dict().values())).data_ptr() == weight.data_ptr(), "nothing is copied"


def test_counters_may_be_missing() -> None:
    network = built("timm:resnet18d", num_classes=3)
    tensors = {name: tensor for name, tensor in network.state_dict().items() if "num_batches" not in name}
    assert network_from_library("timm:resnet18d", tensors).module is not None


def test_the_generator_of_random_numbers_is_left_as_it_was() -> None:
    tensors = built("timm:resnet18d").state_dict()
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    network_from_library("timm:resnet18d", tensors)
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize(
    ("arch", "said"),
    [
        ("timm:resnet18x", "timm has no network 'resnet18x': there is resnet18"),
        ("torchvision:resnot18", "torchvision has no network 'resnot18': there is resnet18"),
        ("timm:", "timm has no network ''"),
        ("keras:resnet50", "--arch keras:resnet50 names no library that is known here"),
    ],
)
def test_a_name_that_is_not_known_is_a_sentence(arch: str, said: str) -> None:
    with pytest.raises(ArchitectureError, match=said):
        network_from_library(arch, {})


def test_other_tensors_are_listed() -> None:
    tensors = built("timm:resnet18d").state_dict()
    with pytest.raises(
        ArchitectureError, match=r"the tensors are not those of timm:resnet18: \d+ differences"
    ) as caught:
        network_from_library("timm:resnet18", tensors)
    assert "missing: conv1.weight" in caught.value.details
    assert any(line.startswith("unexpected: conv1.") for line in caught.value.details)


def test_a_library_that_is_not_there_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(RequestError, match=r"timm is not installed here: pip install timm$"):
        network_from_library("timm:resnet18", {})


def test_a_library_that_cannot_be_imported_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As torchvision is, beside a PyTorch of another build."""
    (tmp_path / "timm.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "timm")
    with pytest.raises(RequestError) as caught:
        network_from_library("timm:resnet18", {})
    assert caught.value.message == (
        "timm cannot be imported here: RuntimeError: operator torchvision::nms does not exist; "
        "install the torchvision that fits this PyTorch"
    )


def test_what_contradicts_it_is_refused(tmp_path: Path) -> None:
    torch.save(built("timm:resnet18d").state_dict(), tmp_path / "model.pt")
    checkpoint = checkpoint_from_file(tmp_path / "model.pt")
    with pytest.raises(RequestError, match="--stride-in is for architectures that are built here"):
        model_from_checkpoint(checkpoint, ModelOptions(arch="timm:resnet18d", stride_in="1x1"))
    with pytest.raises(SignatureError, match="--input-shape has 1 channels, and the model's first convolution takes 3"):
        model_from_checkpoint(checkpoint, ModelOptions(arch="timm:resnet18d", input_shape=(1, 64, 64)))


def test_it_is_exported(tmp_path: Path) -> None:
    network = built("timm:resnet18d", num_classes=6)
    with torch.no_grad():
        network.train()(varied_images(16, (3, 64, 64)))
    network.eval()
    torch.save(network.state_dict(), tmp_path / "model.pt")
    model = ModelOptions(arch="timm:resnet18d", input_shape=(3, 64, 64))
    result = bundle_from_checkpoint(
        tmp_path / "model.pt", tmp_path / "m.bundle", ExportOptions(engines=None, variants=("fp32",), model=model)
    )
    assert result.manifest.model.architecture == "timm:resnet18d"
    images = varied_images(2, (3, 64, 64), seed=4)
    with torch.inference_mode(), resnet_runtime.load(result.path) as session:
        expected, found = network(images).numpy(), session.infer(images.numpy())["logits"]
    assert abs(found - expected).max() < 1e-4 * (expected.max() - expected.min())
