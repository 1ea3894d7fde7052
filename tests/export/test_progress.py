"""Figures beside a limit are rounded down, and no further."""

from __future__ import annotations

import pytest

from resnet_export.progress import floored


@pytest.mark.parametrize(
    ("ratio", "digits", "shown"),
    [(1.299, 2, "1.29"), (1.15, 2, "1.15"), (2.01, 2, "2.01"), (1.3, 1, "1.3"), (1.2999, 1, "1.2"), (4.0, 1, "4.0")],
)
def test_rounded_down(ratio: float, digits: int, shown: str) -> None:
    assert floored(ratio, digits) == shown
