"""Options and settings that every test shares."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import pytest
from hypothesis import settings

from resnet_runtime.backends.tensorrt.pycuda_device import device_info
from resnet_runtime.errors import UnavailableError

# Derandomized: the same examples in every run, so that a failure is a change and not luck.
settings.register_profile("same", derandomize=True, deadline=None)
settings.load_profile("same")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-goldens", action="store_true", help="write the golden files anew; review what changed as text"
    )
    parser.addoption(
        "--require-gpu",
        action="store_true",
        help="a test marked gpu fails where it cannot run, instead of being skipped",
    )


@pytest.fixture(scope="session", autouse=True)
def cache_folder_of_the_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is kept for the next process is kept for this run alone, and nothing of the user's is taken."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@functools.cache
def _no_gpu() -> str | None:
    """Why the tests marked ``gpu`` cannot run here, or None."""
    try:
        device_info()
    except UnavailableError as error:
        return error.message
    return None


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Before any fixture, which would look for the GPU by itself."""
    if item.get_closest_marker("gpu") is None:
        return
    reason = _no_gpu()
    if reason is None:
        return
    if item.config.getoption("--require-gpu"):
        pytest.fail(f"a GPU is required: {reason}", pytrace=False)
    pytest.skip(f"no GPU: {reason}")


@pytest.fixture
def update_goldens(request: pytest.FixtureRequest) -> bool:
    """Whether the golden files are to be written instead of compared."""
    return bool(request.config.getoption("--update-goldens"))
