"""What a ``Batcher`` counts, and the text in which Prometheus reads it."""

from __future__ import annotations

import bisect
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

LATENCIES: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""Upper bounds of the latency's buckets in seconds; the last one has none."""
SIZES: Final = (1, 2, 4, 8, 16, 32, 64, 128)
"""Upper bounds of the batch size's buckets in samples."""


@dataclass(frozen=True)
class Histogram:
    """Observations by size.

    Attributes:
        bounds: the upper bound of each bucket but the last, which has none.
        counts: observations in each bucket alone, one more than there are bounds.
        total: the sum of all observations.
    """

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    total: float

    @property
    def count(self) -> int:
        """Of all observations."""
        return sum(self.counts)


@dataclass(frozen=True, kw_only=True)
class Counters:
    """Of a batcher since it was made; every sample that was accepted is in one of the others, or still on its way.

    Attributes:
        accepted, refused: samples that ``submit`` took and did not take.
        answered, failed, expired, cancelled: samples that were accepted, by how they ended.
        waiting, most_waiting: samples in the queue now, and at most so far.
        latency: seconds from ``submit`` to the answer.
        batch_size: samples in the batches that were answered.
    """

    accepted: int
    refused: int
    answered: int
    failed: int
    expired: int
    cancelled: int
    waiting: int
    most_waiting: int
    latency: Histogram
    batch_size: Histogram

    def prometheus_text(self, prefix: str = "resnet_batcher") -> str:
        """In the text format 0.0.4, which a handler of ``/metrics`` answers with ``text/plain; version=0.0.4``."""
        ends = ("answered", "failed", "expired", "cancelled")
        lines = [
            *_family(f"{prefix}_accepted_total", "counter", "Samples that were accepted."),
            f"{prefix}_accepted_total {self.accepted}",
            *_family(f"{prefix}_refused_total", "counter", "Samples that were refused."),
            f"{prefix}_refused_total {self.refused}",
            *_family(f"{prefix}_ended_total", "counter", "Samples that were accepted, by how they ended."),
            *(f'{prefix}_ended_total{{how="{end}"}} {getattr(self, end)}' for end in ends),
            *_family(f"{prefix}_waiting", "gauge", "Samples in the queue."),
            f"{prefix}_waiting {self.waiting}",
            *_histogram(f"{prefix}_latency_seconds", "From submit to the answer.", self.latency),
            *_histogram(f"{prefix}_batch_size", "Samples in a batch.", self.batch_size),
        ]
        return "\n".join(lines) + "\n"


def _family(name: str, kind: str, text: str) -> tuple[str, str]:
    return f"# HELP {name} {text}", f"# TYPE {name} {kind}"


def _histogram(name: str, text: str, histogram: Histogram) -> list[str]:
    lines = [*_family(name, "histogram", text)]
    below = 0
    for bound, count in zip((*map(str, histogram.bounds), "+Inf"), histogram.counts, strict=True):
        below += count
        lines.append(f'{name}_bucket{{le="{bound}"}} {below}')
    return [*lines, f"{name}_sum {histogram.total}", f"{name}_count {below}"]


class Tally:
    """Counts; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ends = dict.fromkeys(("accepted", "refused", "answered", "failed", "expired", "cancelled"), 0)
        self._most_waiting = 0
        self._latency = [0] * (len(LATENCIES) + 1)
        self._latency_total = 0.0
        self._size = [0] * (len(SIZES) + 1)
        self._size_total = 0

    def accepted(self, waiting: int) -> None:
        """One sample, which makes so many that wait."""
        with self._lock:
            self._ends["accepted"] += 1
            self._most_waiting = max(self._most_waiting, waiting)

    def refused(self) -> None:
        """One sample."""
        self._add("refused", 1)

    def failed(self, samples: int) -> None:
        """Of a batch that the backend failed at."""
        self._add("failed", samples)

    def expired(self) -> None:
        """One sample, too late."""
        self._add("expired", 1)

    def cancelled(self) -> None:
        """One sample, by whoever submitted it, or at the end."""
        self._add("cancelled", 1)

    def answered(self, seconds: Sequence[float]) -> None:
        """A batch: of each sample, how long it took from ``submit`` on."""
        with self._lock:
            self._ends["answered"] += len(seconds)
            self._size[bisect.bisect_left(SIZES, len(seconds))] += 1
            self._size_total += len(seconds)
            for value in seconds:
                self._latency[bisect.bisect_left(LATENCIES, value)] += 1
            self._latency_total += sum(seconds)

    def counters(self, waiting: int) -> Counters:
        """All of it, at one moment."""
        with self._lock:
            return Counters(
                **self._ends,
                waiting=waiting,
                most_waiting=self._most_waiting,
                latency=Histogram(LATENCIES, tuple(self._latency), self._latency_total),
                batch_size=Histogram(SIZES, tuple(self._size), float(self._size_total)),
            )

    def _add(self, end: str, samples: int) -> None:
        with self._lock:
            self._ends[end] += samples
