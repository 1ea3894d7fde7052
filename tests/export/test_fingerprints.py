"""Architectures known by their tensors' names and shapes alone."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Mapping
from importlib.metadata import version

import pytest
import torch
from torch import Tensor

from resnet_export import fingerprints
from resnet_export.errors import ArchitectureError
from resnet_export.fingerprints import INDEX, Candidate, candidates_from_state_dict, fingerprint, told_candidate
from resnet_export.resnet_config import ARCHITECTURES
from resnet_runtime.manifest import Source
from tests.export.models import meta_network
from tests.zoo.bare import builder_of

DIGEST = "0676ba61b6795bbe1773cffd859882e5e297624d384b6993f7c9e683e722fb8a"
RESNET18 = (
    Candidate(("resnet18", "torchvision:resnet18", "timm:resnet18")),
    Candidate(("timm:resnetblur18",)),
)


def tensors(name: str) -> dict[str, Tensor]:
    return dict(meta_network(ARCHITECTURES[name]).state_dict())


def named(state_dict: Mapping[str, Tensor]) -> list[str]:
    return [name for candidate in candidates_from_state_dict(state_dict) for name in candidate.names]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_that_is_built_here_is_known(name: str) -> None:
    assert name in named(tensors(name))


def test_channels_classes_and_counters_are_the_users() -> None:
    changed = tensors("resnet18")
    changed["conv1.weight"] = torch.empty(64, 1, 7, 7, device="meta")
    changed["fc.weight"] = torch.empty(5, 512, device="meta")
    changed["fc.bias"] = torch.empty(5, device="meta")
    changed = {name: tensor for name, tensor in changed.items() if not name.endswith("num_batches_tracked")}
    assert candidates_from_state_dict(dict(reversed(changed.items()))) == RESNET18


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("layer1.0.conv1.weight", (64, 64, 3, 1)),
        ("layer4.1.bn2.bias", (511,)),
        ("conv1.weight", (64, 3, 7, 5)),
        ("fc.weight", (1000, 511)),
        ("extra.weight", (1,)),
    ],
)
def test_any_other_tensor_makes_it_unknown(name: str, shape: tuple[int, ...]) -> None:
    changed = tensors("resnet18") | {name: torch.empty(shape, device="meta")}
    assert candidates_from_state_dict(changed) == ()


def test_a_tensor_less_makes_it_unknown() -> None:
    changed = tensors("resnet18")
    del changed["fc.bias"]
    assert candidates_from_state_dict(changed) == ()


def test_recognition_takes_no_time() -> None:
    """Of the deepest ones, the index read anew: 0.2 s is what is allowed."""
    known, unknown = tensors("resnet152"), tensors("resnet200") | {"extra": torch.empty(1, device="meta")}
    fingerprints._index.cache_clear()
    start = time.perf_counter()
    assert builder_of(known) == "here"
    assert time.perf_counter() - start < 0.2
    start = time.perf_counter()
    with pytest.raises(ArchitectureError):
        builder_of(unknown)
    assert time.perf_counter() - start < 0.2


def test_the_index_names_each_architecture_once() -> None:
    """Or twice, where it has no classifier by itself: without one, and with one."""
    stored = json.loads(INDEX.read_text())
    names = Counter(name for groups in stored["architectures"].values() for group in groups for name in group)
    assert len(names) > 150
    assert all("gap" in name for name, count in names.items() if count > 1)
    assert max(names.values()) == 2
    assert all(re.fullmatch("[0-9a-f]{16}", key) for key in stored["architectures"])
    assert all(groups and all(groups) for groups in stored["architectures"].values())


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_the_index_is_of_the_libraries_that_the_tests_run_with(library: str) -> None:
    assert json.loads(INDEX.read_text())[library] == version(library), "run python -m tests.zoo.index"


def told(arch: str | None, file: str, sha256: str = DIGEST) -> tuple[str, ...] | None:
    found = told_candidate(RESNET18, arch, Source(name=file, sha256=sha256, size=1))
    return None if found is None else found[0].names


def test_a_file_may_say_its_architecture() -> None:
    assert told("resnet18", "model.pt") == RESNET18[0].names
    assert told("resnetblur18", "model.pt") == RESNET18[1].names
    assert told("resnet18.a1_in1k", "model.pt") == RESNET18[0].names


def test_a_file_that_was_published_says_its_architecture_by_its_name() -> None:
    assert told(None, "resnet18-0676ba61.pth") == RESNET18[0].names
    assert told(None, "resnetblur18-0676ba61.pth") == RESNET18[1].names


@pytest.mark.parametrize(
    ("arch", "file"),
    [
        (None, "resnet18.pth"),
        (None, "resnet18-0676ba62.pth"),  # of another file's digest
        (None, "resnet18-0676.pth"),
        (None, "resnet34-0676ba61.pth"),
        (None, "resnet18_mine-0676ba61.pth"),
        ("resnet34", "model.pt"),
        ("", "model.pt"),
    ],
)
def test_what_does_not_say_it_settles_nothing(arch: str | None, file: str) -> None:
    assert told(arch, file) is None


def test_the_type_of_the_numbers_is_no_part_of_it() -> None:
    state_dict = tensors("resnet18")
    assert fingerprint({name: tensor.half() for name, tensor in state_dict.items()}) == fingerprint(state_dict)
