"""Folding within its bound on the architectures as they are, at 224x224, with live statistics."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from resnet_bench.networks import live_resnet
from resnet_export import ExportOptions, ModelOptions, bundle_from_checkpoint
from resnet_export.graph import graph_from_bytes
from resnet_runtime.bundle import Bundle
from resnet_runtime.parity import relative_spread

NAMES = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d", "wide_resnet50_2")


# The others of the same blocks are tried by make zoo, where every network is.
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name in ("resnet18", "resnet50", "resnet152") else pytest.mark.zoo)
        for name in NAMES
    ],
)
def test_an_architecture_folds_within_its_bound_and_passes_every_gate(
    name: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    network = live_resnet(name, size=224)
    torch.save(network.state_dict(), tmp_path / "model.pt")
    normalizations = sum(isinstance(module, torch.nn.BatchNorm2d) for module in network.modules())
    del network
    options = ExportOptions(model=ModelOptions(arch=name))  # the tensors of some are those of other networks too
    result = bundle_from_checkpoint(tmp_path / "model.pt", tmp_path / "model.bundle", options)

    assert result.manifest.model.architecture == name
    assert result.dropped == {}
    folding = result.report.folding
    record_property("error of the spread", folding.error / folding.spread)
    record_property("allowed of the spread", folding.allowed / folding.spread)
    assert folding.error <= folding.allowed
    assert folding.allowed == 2 * folding.noise + 1e-6 * folding.spread
    assert len(result.report.folded) == normalizations
    assert result.report.not_folded == ()
    bundle = Bundle.open(result.path)
    assert relative_spread(bundle.check_data().outputs["logits"]) >= 0.2
    for variant in bundle.manifest.variants:
        graph = graph_from_bytes(bundle.read(variant.file))
        assert list(graph.nodes("BatchNormalization")) == []
        assert variant.kept_higher == ()
