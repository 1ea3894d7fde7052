"""What a call costs beyond the backend's own: no memory, and the same bits."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from resnet_bench.embedding_cost import cpp_cost

from .conftest import BUILD


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_call_allocates_no_more_than_the_loop_by_hand(precision: str, tiny_bundle: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [BUILD / "cost", tiny_bundle, precision, "3", "50", "1"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)},
    )
    _, _, _, by_library, by_hand, _, equal, _, difference = done.stdout.split("\t")
    assert (equal, float(difference)) == ("1", 0)
    assert float(by_library) <= float(by_hand)


def test_the_benchmark_measures_it(tiny_bundle: Path) -> None:
    cost = cpp_cost(tiny_bundle, "fp32", BUILD, rounds=3)
    assert cost.allocations <= cost.own_allocations
    assert cost.ratio > 0
    assert len(cost.seconds) == 3
    assert 0 < min(cost.seconds) <= cost.cold_start
