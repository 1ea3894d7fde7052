"""Every architecture from its bare state_dict: rebuilt bit by bit, or refused with its name among the candidates."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from resnet_bench.networks import varied_images
from resnet_export.checkpoint import checkpoint_from_file
from resnet_export.errors import AmbiguousArchitectureError
from resnet_export.fingerprints import INDEX, candidates_from_state_dict
from resnet_export.options import ModelOptions
from resnet_export.source import model_from_checkpoint

from .index import architectures, fingerprints_of, groups
from .networks import SAMPLE, built, every_name, image_shape

FAST = {f"{library}:{name}" for library, name in SAMPLE}
NAMES = [
    pytest.param(library, name, marks=() if f"{library}:{name}" in FAST else pytest.mark.zoo, id=f"{library}-{name}")
    for library, name in every_name()
]


def scattered(module: nn.Module) -> nn.Module:
    """No tensor as it was initialized, so that none can be taken for another."""
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point() and tensor.ndim <= 1:
                low, high = (0.5, 1.5) if name.endswith(("weight", "running_var")) else (-0.5, 0.5)
                tensor.uniform_(low, high)
    return module.eval()


def answer(module: nn.Module, images: Tensor) -> Tensor:
    with torch.inference_mode():
        found = module(images)
    return found if isinstance(found, Tensor) else found.logits


@pytest.mark.parametrize(("library", "name"), NAMES)
def test_it_is_rebuilt_or_named(library: str, name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    original = scattered(built(library, name, "cpu"))
    shape = image_shape(original, library)
    torch.save(original.state_dict(), tmp_path / "model.pt")
    checkpoint = checkpoint_from_file(tmp_path / "model.pt")
    own = f"{library}:{name}"
    options = ModelOptions(input_shape=shape, stride_in=stride_in(library, name))
    candidates = candidates_from_state_dict(original.state_dict())
    if len(candidates) > 1:
        with pytest.raises(AmbiguousArchitectureError) as caught:
            model_from_checkpoint(checkpoint, options)
        assert caught.value.candidates == tuple(candidate.names[0] for candidate in candidates)
        (arch,) = [candidate.names[0] for candidate in candidates if own in candidate.names]
        options = dataclasses.replace(options, arch=arch)
    found = model_from_checkpoint(checkpoint, options)
    images = varied_images(2, shape, seed=3)
    expected = answer(original, images)
    assert torch.equal(answer(found.module, images), expected)
    assert expected.isfinite().all()
    assert not torch.equal(expected[0], expected[1])


def stride_in(library: str, name: str) -> str | None:
    """What no tensor tells, and has a default: Hugging Face's networks can have it the other way."""
    return (
        "1x1" if library == "transformers" and name.endswith("-v1") and name.split("-")[1] not in ("18", "34") else None
    )


def test_the_computations_of_the_same_tensors_are_told_apart() -> None:
    names = ["resnet18", "torchvision:resnet18", "timm:resnet18", "timm:resnetblur18"]
    assert groups(names) == [names[:3], names[3:]]


@pytest.mark.zoo
def test_the_index_is_what_the_libraries_build_whatever_the_classes_and_channels() -> None:
    stored = json.loads(INDEX.read_text())["architectures"]
    known = {key: [name for group in found for name in group] for key, found in stored.items()}
    found = fingerprints_of(architectures())
    assert {key: sorted(names) for key, names in found.items()} == {key: sorted(names) for key, names in known.items()}
    timm = [name for name in architectures() if name.startswith("timm:")]
    for key, names in fingerprints_of(timm, num_classes=7, in_chans=1).items():
        assert set(names) <= set(known[key])
