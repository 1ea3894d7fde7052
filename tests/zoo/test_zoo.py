"""One network of each family: within the design's bound, and built by TensorRT-RTX. ``make zoo`` has them all."""

from __future__ import annotations

import importlib.util

import pytest

from .__main__ import page
from .networks import SAMPLE
from .rows import Row, row_of

HAS_TENSORRT = importlib.util.find_spec("tensorrt_rtx") is not None
"""On x86-64 Linux alone."""


@pytest.mark.parametrize(("library", "name"), SAMPLE)
def test_one_of_each_family(library: str, name: str) -> None:
    row = row_of(library, name, engines=HAS_TENSORRT)
    assert row.failure is None
    assert row.within
    assert row.exact
    assert row.folded + row.apart > 0 or name.startswith("nf_")
    assert row.fp16 < 0.02
    assert row.int8 > 0.9  # rounded to the nearest, unequalized, random weights
    assert row.engines == (("fp16", "int8") if HAS_TENSORRT else ())


def test_a_network_that_fails_is_a_row_that_says_so() -> None:
    row = row_of("timm", "no_such_network")
    assert "no_such_network" in (row.failure or "")
    assert not row.within


def test_the_page_has_a_row_a_network_and_counts_them() -> None:
    right = Row(library="timm", name="right", traced="torch.export", error=1e-6, allowed=2e-6, engines=("fp16", "int8"))
    wrong = Row(library="timm", name="wrong", traced="torch.export", left=1, failure="it has BatchNormalization left")
    text = page([right, wrong], ["here", "--arch"])
    assert "- 2 networks\n- 1 (50.0%) export" in text
    assert "\n- 1 (50.0%) parse and build" in text
    assert "| timm:right | 0.0 M | here | torch.export | 0 | 0 | 1 / 2 |" in text
    assert "| it has BatchNormalization left |\n" in text
    assert "- `resnet50` (`torchvision:resnet50`, `timm:resnet50`), `timm:resnetaa50`, `timm:resnetblur50`\n" in text
