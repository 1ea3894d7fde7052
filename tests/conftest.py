"""Options and settings that every test shares."""

from __future__ import annotations

import pytest
from hypothesis import settings

# Derandomized: the same examples in every run, so that a failure is a change and not luck.
settings.register_profile("same", derandomize=True, deadline=None)
settings.load_profile("same")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-goldens", action="store_true", help="write the golden files anew; review what changed as text"
    )


@pytest.fixture
def update_goldens(request: pytest.FixtureRequest) -> bool:
    """Whether the golden files are to be written instead of compared."""
    return bool(request.config.getoption("--update-goldens"))
