"""How a pipeline tells what it is doing."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


def floored(ratio: float, digits: int) -> str:
    """Rounded down, so that what is below a limit does not read as if it were that."""
    return f"{math.floor(round(ratio * 10**digits, 6)) / 10**digits:.{digits}f}"


class Stage(Protocol):
    """A stage that runs."""

    def tell(self, result: str) -> None:
        """What the stage found, a few words."""

    def warn(self, text: str) -> None:
        """What the user has to know, a sentence."""

    def advance(self, done: int, total: int | None, unit: str) -> None:
        """How far it is: ``done`` of ``total`` (None: not known) ``unit``, such as images."""


class Progress(Protocol):
    """Told of every stage in turn."""

    def stage(self, name: str) -> AbstractContextManager[Stage]:
        """A context in which the stage runs."""


class Timings:
    """A ``Progress`` that only measures, or measures for another one.

    Attributes:
        seconds: by stage, wall time.
        warnings: every warning, in order.
    """

    def __init__(self, inner: Progress | None = None) -> None:
        self._inner = inner
        self.seconds: dict[str, float] = {}
        self.warnings: list[str] = []

    @contextmanager
    def stage(self, name: str) -> Iterator[Stage]:
        """Measure the stage, and pass it on."""
        start = time.perf_counter()
        if self._inner is None:
            yield _Quiet(self.warnings)
        else:
            with self._inner.stage(name) as shown:
                yield _Quiet(self.warnings, shown)
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


class _Quiet:
    def __init__(self, warnings: list[str], shown: Stage | None = None) -> None:
        self._warnings = warnings
        self._shown = shown

    def tell(self, result: str) -> None:
        if self._shown is not None:
            self._shown.tell(result)

    def warn(self, text: str) -> None:
        self._warnings.append(text)
        if self._shown is not None:
            self._shown.warn(text)

    def advance(self, done: int, total: int | None, unit: str) -> None:
        if self._shown is not None:
            self._shown.advance(done, total, unit)
