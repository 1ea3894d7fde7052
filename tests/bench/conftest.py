"""A tiny network's checkpoint, and its bundle with the network: made once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from resnet_bench.cases import Subject
from resnet_bench.eager_network import network_from_file
from resnet_bench.networks import live_resnet
from tests.bench.tiny_subject import exported
from tests.export.models import TINY


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "tiny.pt"
    torch.save(live_resnet(TINY, size=32).state_dict(), path)
    return path


@pytest.fixture(scope="session")
def subject(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    bundle = exported(checkpoint, tmp_path_factory.mktemp("run"))
    return Subject(bundle=bundle, check=bundle.check_data(), network=network_from_file(checkpoint, bundle))
