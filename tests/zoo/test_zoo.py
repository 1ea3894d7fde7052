"""One network of each family: within the design's bound, and built by TensorRT-RTX. ``make zoo`` has them all."""

from __future__ import annotations

import importlib.util

import pytest

from .networks import SAMPLE
from .rows import row_of

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
    assert row.int8 > 0.98
    assert row.engines == (("fp16", "int8") if HAS_TENSORRT else ())


def test_a_network_that_fails_is_a_row_that_says_so() -> None:
    row = row_of("timm", "no_such_network")
    assert row.failure is not None
    assert not row.within
