"""How many times as fast a variant is as the others, on the backends of this host.

Two variants are timed in turns, so that whatever else the machine does falls on both: the figure is a ratio, and it
stands where seconds would not. One backend at a time, because the idle threads of one library take cores from another.
The same goes for two sessions of one library: ONNX Runtime's threads spin for about 0.1 s after a call, and the other
session's calls would be timed with a core less. So each turn begins when this process has come to rest.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from resnet_runtime.backends import BACKENDS, facts_of, open_backend
from resnet_runtime.backends.base import NATIVE, Backend, BackendFacts, OpenOptions, misfit, signature_from_manifest
from resnet_runtime.bundle import Bundle
from resnet_runtime.errors import BackendError, UnavailableError
from resnet_runtime.loading import backend_from_variant
from resnet_runtime.manifest import Manifest, Speed, Variant

_FEWEST_ROUNDS: Final = 7
_MOST_ROUNDS: Final = 51
_SECONDS: Final = 2.0
"""After these no more rounds than the fewest are begun."""

_LONGEST_REST: Final = 0.2
"""Seconds."""


def speeds_from_variants(
    bundle: Bundle,
    variant: Variant,
    others: Iterable[Variant],
    data_inputs: NDArray[Any],
    *,
    rounds: int | None = None,
    batch: int = 1,
) -> tuple[Speed, ...]:
    """Time an int8 variant on each backend here that computes it natively, against the fastest other one there.

    Args:
        bundle: a staged one (while its ``with`` lasts) or a finished one.
        variant: of the scheme ``cpu``.
        others: what to compare it with; those are left out that a backend emulates or does not compute.
        data_inputs: (N, ...) as the graph takes them.
        rounds: see ``speedup``.
        batch: how many samples a call takes; the bundle's smallest or largest batch where that is nearer.

    Returns:
        One record for each backend that computes the variant and one of the others; none where there is no such
        backend. A variant that a backend cannot load is not compared there: that is for the gate to say.

    Raises:
        BundleError: a file of the bundle is not the one that was listed.
    """
    sizes = bundle.manifest.input.batch
    size = min(max(batch, sizes.smallest), sizes.largest)
    inputs = np.take(data_inputs, range(size), axis=0, mode="wrap")
    slower = [other for other in others if other.id != variant.id]
    speeds = []
    for name in BACKENDS:
        facts = facts_of(name)
        compared = [other for other in slower if _is_native(other, facts)]
        if not _is_native(variant, facts) or not compared:
            continue
        against = compared[0] if len(compared) == 1 else _fastest(bundle, compared, name, inputs)
        with _opened(bundle, variant, name, inputs) as fast, _opened(bundle, against, name, inputs) as slow:
            if fast is None or slow is None or against is None:
                continue
            ratio = speedup(fast, slow, inputs, rounds)
        speeds.append(Speed(backend=name, against=against.id, ratio=ratio, batch=size, instructions=facts.instructions))
    return tuple(speeds)


def slowdown_of_graph(
    slow: bytes, fast: bytes, manifest: Manifest, kept: Iterable[str], data_inputs: NDArray[Any]
) -> float | None:
    """The time of one int8 graph relative to that of another, on the first backend here that computes both.

    Args:
        slow: the ONNX file in which some layers are kept in FP32.
        fast: another, in which fewer are.
        manifest: of the bundle; no file of it is read.
        kept: the names of the layers that either keeps.
        data_inputs: (N, ...) as the graphs take them.

    Returns:
        None where no backend computes int8 here.

    Raises:
        UnavailableError: the backend computes a layer in FP32 that is not among ``kept``.
        BackendError: it cannot load one of the graphs.
    """
    signature, options = signature_from_manifest(manifest), OpenOptions(kept=frozenset(kept))
    inputs = data_inputs[: signature.smallest_batch]
    for name in BACKENDS:
        if facts_of(name).precisions.get("int8") != NATIVE:
            continue
        with (
            contextlib.closing(open_backend(name, slow, signature, "int8", options)) as one,
            contextlib.closing(open_backend(name, fast, signature, "int8", options)) as two,
        ):
            return speedup(two, one, inputs)
    return None


def speedup(fast: Backend, slow: Backend, inputs: NDArray[Any], rounds: int | None = None) -> float:
    """How many times as fast ``fast`` is as ``slow``: the median over the rounds, each fast, slow, slow, fast.

    Args:
        fast: an opened backend.
        slow: another one, of the same library and the same signature.
        inputs: (N, ...), one call's batch.
        rounds: how many; None: as many as are begun in 2 seconds, and at least 7.
    """
    for backend in (fast, slow):
        _call(backend, inputs)  # OpenVINO compiles when a batch size is first used
    ratios: list[float] = []
    began = time.perf_counter()
    _take_over(fast, inputs)
    while _goes_on(len(ratios), rounds, time.perf_counter() - began):
        of_fast = _call(fast, inputs)
        _take_over(slow, inputs)
        of_slow = _call(slow, inputs) + _call(slow, inputs)
        _take_over(fast, inputs)
        ratios.append(of_slow / (of_fast + _call(fast, inputs)))
    return statistics.median(ratios)


def _goes_on(done: int, rounds: int | None, seconds: float) -> bool:
    if rounds is not None:
        return done < rounds
    return done < _FEWEST_ROUNDS or (done < _MOST_ROUNDS and seconds < _SECONDS)


def _take_over(backend: Backend, inputs: NDArray[Any]) -> None:
    """The other one's threads come to rest; then a call that is not timed, for this one's threads and caches."""
    _rest()
    _call(backend, inputs)


def _rest() -> None:
    """Wait until no thread of this process uses a core any more, and not longer than ``_LONGEST_REST``."""
    end = time.perf_counter() + _LONGEST_REST
    while time.perf_counter() < end:
        began, used = time.perf_counter(), time.process_time()
        time.sleep(0.01)
        if time.process_time() - used < 0.1 * (time.perf_counter() - began):
            return


def _call(backend: Backend, inputs: NDArray[Any]) -> float:
    """The seconds of one call."""
    began = time.perf_counter()
    backend.start({backend.signature.input.name: inputs}).result()
    return time.perf_counter() - began


def _is_native(variant: Variant, facts: BackendFacts) -> bool:
    computed = facts.missing is None and facts.precisions.get(variant.precision) == NATIVE
    return computed and misfit(variant, facts) is None


def _fastest(bundle: Bundle, variants: Sequence[Variant], name: str, inputs: NDArray[Any]) -> Variant | None:
    """Which of them has the shortest call, from a few; None where none can be loaded."""
    seconds: dict[str, float] = {}
    for variant in variants:
        with _opened(bundle, variant, name, inputs) as backend:
            if backend is not None:
                _take_over(backend, inputs)
                seconds[variant.id] = statistics.median(_call(backend, inputs) for _ in range(3))
    return min(
        (variant for variant in variants if variant.id in seconds), key=lambda item: seconds[item.id], default=None
    )


@contextlib.contextmanager
def _opened(bundle: Bundle, variant: Variant | None, name: str, inputs: NDArray[Any]) -> Iterator[Backend | None]:
    """The variant loaded and called once, or None where the backend turns out not to compute it; closed afterwards."""
    backend: Backend | None = None
    try:
        if variant is not None:
            backend = backend_from_variant(bundle, variant, name)
            _call(backend, inputs)
    except (UnavailableError, BackendError):
        if backend is not None:
            backend.close()
        backend = None
    try:
        yield backend
    finally:
        if backend is not None:
            backend.close()
