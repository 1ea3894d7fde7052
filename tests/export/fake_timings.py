"""A builder's config and timing cache over dicts, and builds that use them, for tests."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from resnet_export.timing_cache import timing_cache, timing_file, timings_from_file
from resnet_runtime.backends.tensorrt.cuda import DeviceInfo
from resnet_runtime.backends.tensorrt.library import Library

DEVICE = DeviceInfo("NVIDIA GeForce RTX 3060", "8.6", "13.0")
TENSORRT = Library("tensorrt", SimpleNamespace(__version__="10.9.0.34"))
RTX = Library("tensorrt-rtx", SimpleNamespace(__version__="1.7.1"))


class FakeCache:
    """An ``ITimingCache``: milliseconds by kernel."""

    def __init__(self, device: str, times: dict[str, float]) -> None:
        self.device = device
        self.times = times

    def serialize(self) -> bytes:
        return b"fake" + json.dumps({"device": self.device, "times": self.times}).encode()

    def combine(self, other: FakeCache, ignore_mismatch: bool) -> bool:
        if other.device != self.device and not ignore_mismatch:
            return False
        self.times = {**other.times, **self.times}
        return True


class FakeConfig:
    """An ``IBuilderConfig`` of a device. Of bytes that it cannot read it makes an empty cache, as the real one does."""

    def __init__(self, device: str = "a", unreadable: Callable[[], FakeCache | None] | None = None) -> None:
        self.device = device
        self.attached: FakeCache | None = None
        self._unreadable = unreadable or (lambda: FakeCache(device, {}))

    def create_timing_cache(self, data: bytes) -> FakeCache | None:
        if not data:
            return FakeCache(self.device, {})
        if not data.startswith(b"fake"):
            return self._unreadable()
        return FakeCache(**json.loads(data[4:]))

    def set_timing_cache(self, cache: FakeCache, ignore_mismatch: bool) -> bool:
        if cache.device != self.device and not ignore_mismatch:
            return False
        self.attached = cache
        return True

    def build(self, times: dict[str, float]) -> dict[str, float]:
        """What has to be measured, since it is not in the cache."""
        if self.attached is None:
            return times
        new = {name: time for name, time in times.items() if name not in self.attached.times}
        self.attached.times.update(new)
        return new


class NoCache(FakeConfig):
    """It makes no cache."""

    def create_timing_cache(self, data: bytes) -> FakeCache | None:
        return None


class NotTaken(FakeConfig):
    """It takes no cache."""

    def set_timing_cache(self, cache: FakeCache, ignore_mismatch: bool) -> bool:
        return False


def built(
    folder: Path, times: dict[str, float], config: FakeConfig | None = None, **options: Any
) -> tuple[dict[str, float], list[str]]:
    """What a build measured, and the warnings."""
    config = config or FakeConfig()
    warnings: list[str] = []
    with timing_cache(TENSORRT, config, DEVICE, warnings.append, folder, **options):
        measured = config.build(times)
    return measured, warnings


def path_in(folder: Path) -> Path:
    return timing_file(folder, TENSORRT, DEVICE)


def kept(folder: Path) -> dict[str, float]:
    """What is stored, by TensorRT's own reading."""
    cache = FakeConfig().create_timing_cache(timings_from_file(path_in(folder).read_bytes()))
    assert cache is not None
    return cache.times
