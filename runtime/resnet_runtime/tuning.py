"""Which combination of backend and precision is the fastest here: measured once, kept for every later ``load``.

The figures are kept in the user's cache folder with all that they depend on: the bundle's files, each library and its
version, the CPU's instructions, the cores and the intent. Where any of that is another, nothing was measured.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import math
import statistics
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from . import strictjson
from .backends.base import INTENTS, NATIVE, THROUGHPUT, BackendFacts, Pending
from .backends.cores import usable_cores
from .backends.kept_facts import cpu_digest
from .bundle import Bundle
from .errors import InputError, ResnetRuntimeError, UnavailableError
from .loading import session_from_bundle
from .manifest import Manifest
from .selection import PREFERENCE, Combination
from .session import Session
from .user_cache import cache_folder, keep

SCHEMA: Final = "resnet-tuned/1"
ROUNDS: Final = 7
VISIT_SECONDS: Final = 0.1

_MAX_BYTES: Final = 64 * 1024
_WARM_CALLS: Final = 3


@dataclass(frozen=True)
class Tuned:
    """What was measured of one combination.

    Attributes:
        backend, precision: what was opened.
        seconds: a batch of ``batch``, the median over the rounds; None: it could not be measured.
        batch: samples in it.
        reason: why not.
    """

    backend: str
    precision: str
    seconds: float | None
    batch: int
    reason: str | None = None


@dataclass(frozen=True)
class Tuning:
    """What ``tune`` measured, the fastest first and what could not be measured last, and whether it could be kept."""

    found: tuple[Tuned, ...]
    kept: bool


def tune(
    bundle: Bundle,
    host: Sequence[BackendFacts],
    intent: str,
    *,
    rounds: int = ROUNDS,
    clock: Callable[[], float] = time.perf_counter,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> Tuning:
    """Measure every combination that computes natively here and whose gate passed, in interleaved rounds, and keep it.

    Args:
        bundle: the bundle.
        host: the facts of the backends that are here.
        intent: of ``base.INTENTS``.
        rounds: in each, every combination has its turn twice, forwards and backwards.
        clock: in seconds.
        tell: told how many of how many rounds are done.

    Raises:
        InputError: there is no such intent.
        UnavailableError: no combination can be measured.
    """
    if intent not in INTENTS:
        raise InputError(f"there is no intent {intent!r}: take {' or '.join(INTENTS)}")
    batch = bundle.manifest.input.batch
    size = batch.optimal if intent == THROUGHPUT else batch.smallest
    inputs = np.ascontiguousarray(np.take(bundle.check_data().inputs, range(size), axis=0, mode="wrap"))
    failed: list[Tuned] = []
    with contextlib.ExitStack() as stack:
        running: list[tuple[Combination, Session]] = []
        for backend, precision in _native(bundle.manifest, host):
            try:
                session = session_from_bundle(bundle, backend=backend, precision=precision, intent=intent)
                stack.enter_context(session)
                for _ in range(_WARM_CALLS):
                    _burst(session, inputs, intent)
            except ResnetRuntimeError as error:
                failed.append(Tuned(backend, precision, None, size, error.message))
            else:
                running.append(((backend, precision), session))
        if not running:
            details = [f"{item.precision} on {item.backend}: {item.reason}" for item in failed]
            raise UnavailableError("nothing in the bundle can be measured on this host", details=details)
        seconds = _measured(running, inputs, intent, rounds, clock, tell)
    found = [Tuned(*pair, statistics.median(taken), size) for pair, taken in seconds.items()]
    found.sort(key=lambda item: item.seconds or 0.0)
    kept = keep(tuned_file(bundle.manifest, intent), _bytes(_about(bundle.manifest, intent), host, (*found, *failed)))
    return Tuning((*found, *failed), kept)


def tuned_seconds(manifest: Manifest, host: Sequence[BackendFacts], intent: str) -> dict[Combination, float]:
    """What ``tune`` measured of this bundle on such a host, in seconds a batch; empty where it did not.

    Where a library is new or another version, nothing was measured at all: it may be faster than all that was.
    """
    try:
        with tuned_file(manifest, intent).open("rb") as file:
            value = strictjson.loads(file.read(_MAX_BYTES))
    except (OSError, strictjson.StrictJSONError):
        return {}
    found = _kept_from_json(value, _about(manifest, intent), {facts.name: _backend(facts) for facts in host})
    if not set(_native(manifest, host)) <= set(found):
        return {}
    return {pair: seconds for pair, seconds in found.items() if seconds is not None}


def tuned_file(manifest: Manifest, intent: str) -> Path:
    """Where the figures are kept."""
    digest = hashlib.sha256(strictjson.dumps(_about(manifest, intent))).hexdigest()
    return cache_folder("tuned") / f"{digest[:32]}.json"


def tuned_lines(found: Sequence[Tuned], intent: str) -> list[str]:
    """A line for each combination, the fastest first."""
    lines = []
    for item in found:
        name = f"{item.precision} on {item.backend}"
        if item.seconds is None:
            lines.append(f"{name:<24}  not measured: {item.reason}")
        else:
            rate = item.batch / item.seconds
            lines.append(
                f"{name:<24}  {1e3 * item.seconds:9.3f} ms  {rate:9.1f} images/s  batch {item.batch}, {intent}"
            )
    return lines


def _native(manifest: Manifest, host: Sequence[BackendFacts]) -> list[Combination]:
    held = {variant.precision for variant in manifest.variants}
    native = {
        (facts.name, precision)
        for facts in host
        if facts.missing is None
        for precision, how in facts.precisions.items()
        if how == NATIVE and precision in held
    }
    return [pair for pair in PREFERENCE if pair in native]


def _measured(
    running: Sequence[tuple[Combination, Session]],
    inputs: NDArray[Any],
    intent: str,
    rounds: int,
    clock: Callable[[], float],
    tell: Callable[[int, int], None],
) -> dict[Combination, list[float]]:
    """Seconds a batch, a figure a visit."""
    seconds: dict[Combination, list[float]] = {pair: [] for pair, _ in running}
    for number in range(rounds):
        for pair, session in (*running, *reversed(running)):
            _burst(session, inputs, intent)  # the caches are what another one left
            done, start = 0, clock()
            while done == 0 or clock() - start < VISIT_SECONDS:
                done += _burst(session, inputs, intent)
            seconds[pair].append((clock() - start) / done)
        tell(number + 1, rounds)
    return seconds


def _burst(session: Session, inputs: NDArray[Any], intent: str) -> int:
    """One call for latency, for throughput as many as keep the backend busy; returns how many."""
    at_once = session.calls_at_once if intent == THROUGHPUT else 1
    count = 1 if at_once == 1 else 4 * at_once
    under_way: deque[Pending] = deque()
    for _ in range(count):
        if len(under_way) == at_once:
            under_way.popleft().result()
        under_way.append(session.start(inputs))
    for call in under_way:
        call.result()
    return count


def _about(manifest: Manifest, intent: str) -> dict[str, Any]:
    """All that the figures depend on, but for the backends."""
    return {
        "variants": {variant.id: variant.file.sha256 for variant in manifest.variants},
        "engines": {engine.id: engine.file.sha256 for engine in manifest.engines},
        "cores": usable_cores(),
        "cpu": cpu_digest() or "",
        "intent": intent,
    }


def _backend(facts: BackendFacts) -> dict[str, Any]:
    """What the figures of one backend depend on."""
    return {
        "version": facts.version or "",
        "precisions": dict(facts.precisions),
        "instructions": facts.instructions,
        "hosts": [[*map(str, dataclasses.astuple(item))] for item in facts.hosts or ()],
    }


def _bytes(about: Mapping[str, Any], host: Sequence[BackendFacts], found: Sequence[Tuned]) -> bytes:
    measured = [{"backend": item.backend, "precision": item.precision, "seconds": item.seconds} for item in found]
    backends = {facts.name: _backend(facts) for facts in host if facts.missing is None}
    return strictjson.dumps({"schema": SCHEMA, "about": dict(about), "backends": backends, "measured": measured})


def _kept_from_json(
    value: Any, about: Mapping[str, Any], backends: Mapping[str, Mapping[str, Any]]
) -> dict[Combination, float | None]:
    """Of the backends that are what they were, None for what could not be measured; nothing of a file that is not
    whole."""
    found: dict[Combination, float | None] = {}
    try:
        if value["schema"] != SCHEMA or value["about"] != about:
            return {}
        for item in value["measured"]:
            backend, precision, seconds = item["backend"], item["precision"], item["seconds"]
            if (backend, precision) not in PREFERENCE:
                return {}
            if seconds is not None and not (isinstance(seconds, float) and 0 < seconds < math.inf):
                return {}
            if backend in backends and value["backends"][backend] == backends[backend]:
                found[backend, precision] = seconds
    except (KeyError, TypeError):
        return {}
    return found
