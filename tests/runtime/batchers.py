"""Batchers for the tests: of sessions whose answers are known, and of one that waits until it is told to go on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np

import resnet_runtime
from resnet_runtime import Batcher, Session
from resnet_runtime.backends.base import signature_from_manifest
from resnet_runtime.backends.simulated import SimulatedBackend
from resnet_runtime.bundle import Bundle
from resnet_runtime.manifest import Batch

from .bundles import color_means, replaced, sample_files, sample_manifest, write_bundle

LARGEST = 64


def colors_bundle(path: Path) -> Path:
    """One that takes batches of up to ``LARGEST``."""
    files = sample_files()
    manifest = replaced(sample_manifest(files), "input.batch", Batch(smallest=1, optimal=8, largest=LARGEST))
    return write_bundle(path, files, manifest)


def session_of(path: Path, function: Callable[[Any], Any] = color_means) -> Session:
    signature = signature_from_manifest(Bundle.open(path).manifest)
    return resnet_runtime.load(path, backend=SimulatedBackend(signature, function))


def sample(number: int) -> np.ndarray:
    """One whose answer is known: ``answer_of`` gives the number back."""
    made = np.zeros((3, 8, 8), np.float32)
    made[0], made[1] = number % 1024, number // 1024
    return made


def answer_of(found: dict[str, np.ndarray]) -> int:
    assert found["logits"].shape == (4,)
    return round(float(found["logits"][0])) + 1024 * round(float(found["logits"][1]))


class Gate:
    """A backend that waits until it is told to go on."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.entered = threading.Semaphore(0)
        self.sizes: list[int] = []

    def __call__(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        self.sizes.append(len(batch))
        self.entered.release()
        assert self.open.wait(60)
        return color_means(batch)


def blocked(path: Path, **options: Any) -> tuple[Gate, Batcher, list[Future[Any]]]:
    """A batcher all of whose threads are in the backend, each with one sample."""
    gate = Gate()
    batcher = Batcher(session_of(path, gate), **options)
    held = []
    for number in range(2):  # one under way, and one that is put together meanwhile
        held.append(batcher.submit(sample(number)))
        assert gate.entered.acquire(timeout=60)
    return gate, batcher, held
