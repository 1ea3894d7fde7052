"""Which backend and which variant: a pure function of the manifest and of what this host is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from . import engine_fit
from .backends.base import EMULATED, BackendFacts, misfit
from .backends.instructions import NONE, UNKNOWN
from .errors import InputError, UnavailableError
from .manifest import PRECISIONS, Engine, Manifest, Speed, Variant

Combination = tuple[str, str]
"""A backend and a precision."""

PREFERENCE: Final[tuple[Combination, ...]] = (
    ("tensorrt", "int8"),
    ("tensorrt", "fp16"),
    ("tensorrt", "fp32"),
    ("openvino", "int8"),
    ("openvino", "bf16"),
    ("openvino", "fp16"),
    ("onnxruntime", "int8"),
    ("openvino", "fp32"),
    ("onnxruntime", "fp32"),
)
"""Fastest first, where each is computed natively and nothing was measured: docs/architecture.md, "Which backend"."""

MIN_INT8_SPEEDUP: Final = 1.3
"""How many times as fast as the fastest other variant int8 has to have been measured, for auto to take it: it costs
accuracy, and on a CPU without integer dot products it may be the slower one."""


Refused = Mapping[str, str]
"""Engines that were found not to answer rightly on this host: the reason, by the engine's id."""

NONE_REFUSED: Final[Refused] = MappingProxyType({})

Measured = Mapping[Combination, float]
"""Seconds a batch on this host, as ``tuning`` measured them."""

NOT_MEASURED: Final[Measured] = MappingProxyType({})


@dataclass(frozen=True)
class Choice:
    """What to run, and why: one sentence for each backend that is missing here, for each combination that was passed
    over, and for the one that was taken. ``engine``: its id, where the backend runs engines."""

    backend: str
    variant: str
    precision: str
    reasons: tuple[str, ...]
    engine: str | None = None


def choose(
    manifest: Manifest,
    host: Sequence[BackendFacts],
    *,
    backend: str = "auto",
    precision: str = "auto",
    refused: Refused = NONE_REFUSED,
    measured: Measured = NOT_MEASURED,
) -> Choice:
    """The fastest combination that the host computes natively and whose gate passed.

    Args:
        manifest: of the bundle.
        host: the facts of the backends to choose from.
        backend: a name, or auto.
        precision: one of ``PRECISIONS``, or auto. One that is named may be emulated or slow; auto takes none that is
            emulated, and int8 only where it was measured to be faster, on this backend and such a CPU.
        refused: engines that are not to be taken, and why.
        measured: what was measured here comes first, the fastest of it before the others, and instead of what the
            manifest says of other hosts.

    Raises:
        InputError: there is no such backend or precision.
        UnavailableError: the bundle or the host has no such combination.
    """
    check_precision(precision)
    names = [facts.name for facts in host]
    if backend not in ("auto", *names):
        raise InputError(f"there is no backend {backend!r} to choose: take auto, {', '.join(names)}")
    asked = [facts for facts in host if backend in ("auto", facts.name)]
    usable = [facts for facts in asked if facts.missing is None]
    missing = [facts.missing for facts in asked if facts.missing is not None]
    if not usable:
        if len(missing) == 1:
            raise UnavailableError(missing[0])
        raise UnavailableError("no backend is installed here: install one of these", details=missing)
    _check_held(manifest, usable, precision)
    return _first(manifest, usable, precision, missing, refused, measured)


def check_precision(precision: str) -> None:
    """Raise InputError where there is no such precision."""
    if precision not in ("auto", *PRECISIONS):
        raise InputError(f"there is no precision {precision!r}: take auto, {', '.join(PRECISIONS)}")


def _check_held(manifest: Manifest, usable: Sequence[BackendFacts], precision: str) -> None:
    """Raise UnavailableError where the bundle has no variant of the precision that was asked for."""
    if precision == "auto":
        return
    found = [variant for variant in manifest.variants if variant.precision == precision]
    if not found:
        held = ", ".join(variant.id for variant in manifest.variants)
        raise UnavailableError(f"the bundle has no {precision} variant: it has {held}")
    misfits = [misfit(variant, facts) for variant in found for facts in usable]
    if None not in misfits:
        raise UnavailableError(f"{misfits[0]}: export the model with a variant for that too, or take another precision")


def _first(
    manifest: Manifest,
    usable: Sequence[BackendFacts],
    precision: str,
    missing: Sequence[str],
    refused: Refused,
    measured: Measured,
) -> Choice:
    reasons = list(missing)
    for name, wanted in (*sorted(measured, key=measured.__getitem__), *(p for p in PREFERENCE if p not in measured)):
        facts = next((facts for facts in usable if facts.name == name), None)
        if facts is None or precision not in ("auto", wanted):
            continue
        variant, refusal = _candidate(manifest, facts, wanted, refused)
        if variant is not None and precision == "auto":
            refusal = _slow(variant, facts, measured)
        if variant is None or refusal is not None:
            reasons.append(f"{wanted} on {name}: {refusal}")
            continue
        reasons.append(f"{wanted} on {name}: {_why(variant, facts, precision, measured)}")
        engine, _ = engine_for(manifest, variant, facts, refused)
        return Choice(name, variant.id, wanted, tuple(reasons), None if engine is None else engine.id)
    reasons += [
        f"{variant.precision} on {facts.name}: the backend {facts.name} does not run {variant.precision} variants"
        for variant in manifest.variants
        for facts in usable
        if precision in ("auto", variant.precision) and (facts.name, variant.precision) not in PREFERENCE
    ]
    names = ", ".join(facts.name for facts in usable)
    if precision == "auto" and any(
        _candidate(manifest, facts, held, refused)[0] for facts in usable for held in PRECISIONS
    ):
        raise UnavailableError(
            f"auto passed over all that the bundle has for {names} on this host: name the precision to take",
            details=reasons,
        )
    raise UnavailableError(f"nothing in the bundle can be computed by {names} on this host", details=reasons)


def _candidate(
    manifest: Manifest, facts: BackendFacts, precision: str, refused: Refused
) -> tuple[Variant | None, str | None]:
    """The variant of that precision that the backend computes at all, or why there is none."""
    held = [variant for variant in manifest.variants if variant.precision == precision]
    if not held:
        return None, "not in the bundle"
    fitting = [variant for variant in held if misfit(variant, facts) is None]
    if not fitting:
        return None, misfit(held[0], facts)
    if precision not in facts.precisions:
        return None, f"this CPU has no {precision} arithmetic, it would be another precision"
    if facts.hosts is not None:
        engine, refusal = engine_for(manifest, fitting[0], facts, refused)
        if engine is None:
            return None, refusal
    return fitting[0], None


def engine_for(
    manifest: Manifest, variant: Variant, facts: BackendFacts, refused: Refused = NONE_REFUSED
) -> tuple[Engine | None, str | None]:
    """An engine of the variant that runs on this host, one that was verified on such a device first; or why not."""
    fitting, refusal = engines_for(manifest, variant, facts)
    taken = [engine for engine in fitting if engine.id not in refused]
    if fitting and not taken:
        return None, "; ".join(refused[engine.id] for engine in fitting)
    return (taken[0], None) if taken else (None, refusal)


def engines_for(manifest: Manifest, variant: Variant, facts: BackendFacts) -> tuple[tuple[Engine, ...], str | None]:
    """The engines of the variant that run on this host, those that were verified here first; or why there is none."""
    held = [engine for engine in manifest.engines if engine.variant == variant.id]
    if facts.hosts is None:
        return (), "the backend runs no engines"
    if not held:
        library = engine_fit.builder_on(facts.hosts[0]) if facts.hosts else facts.name
        return (), f"no engine in the bundle: {engine_fit.build_command(library, variant.precision)} builds one here"
    hosts = facts.hosts
    held.sort(
        key=lambda item: (not any(engine_fit.is_verified(item, host) for host in hosts), item.verified_on is None)
    )
    fitting = tuple(engine for engine in held if engine_fit.host_of(engine, hosts) is not None)
    if fitting:
        return fitting, None
    refusals = (
        engine_fit.misfit(engine, host)
        for engine in held
        for host in hosts
        if engine.builder == host.library or len(hosts) == 1
    )
    return (), next(refusals, "no library here runs the bundle's engines")


def _slow(variant: Variant, facts: BackendFacts, here: Measured) -> str | None:
    """Why auto passes the variant over, or None."""
    if facts.precisions[variant.precision] == EMULATED:
        return "emulated on this CPU, right but slow"
    if variant.precision != "int8":
        return None
    if (facts.name, "int8") in here:
        return _slow_here(facts.name, here)
    measured = [speed for speed in variant.speeds if speed.backend == facts.name]
    if not measured:
        return f"never measured on {facts.name}, so that it may be slower than another variant"
    slowest = _slowest(variant, facts)
    if slowest is None:
        there = _said(measured[0].instructions)
        return f"measured on a CPU with {there}, and this one has {_said(facts.instructions)}"
    if slowest.ratio < MIN_INT8_SPEEDUP:
        return f"{_measured(slowest)}, below {MIN_INT8_SPEEDUP:g}"
    return None


def _slow_here(backend: str, here: Measured) -> str | None:
    """Of an int8 variant that was measured on this host."""
    others = {pair: seconds for pair, seconds in here.items() if pair[1] != "int8"}
    if not others:
        return None
    name, precision = min(others, key=others.__getitem__)
    ratio = others[name, precision] / here[backend, "int8"]
    if ratio >= MIN_INT8_SPEEDUP:
        return None
    return f"measured here {_floored(ratio)} times as fast as {precision} on {name}, below {MIN_INT8_SPEEDUP:g}"


def _floored(ratio: float) -> str:
    # Rounded down, so that what is below the least speedup does not read as if it were that.
    return f"{math.floor(ratio * 100) / 100:g}"


def _slowest(variant: Variant, facts: BackendFacts) -> Speed | None:
    """The smallest of the speeds that were measured on this backend and such a CPU."""
    alike = [
        speed
        for speed in variant.speeds
        if speed.backend == facts.name and speed.instructions == facts.instructions != UNKNOWN
    ]
    return min(alike, key=lambda speed: speed.ratio, default=None)


def _measured(speed: Speed) -> str:
    return f"measured {_floored(speed.ratio)} times as fast as {speed.against}"


def _said(instructions: str) -> str:
    words = {UNKNOWN: "unknown instructions", NONE: "no integer dot products"}
    return words.get(instructions, instructions)


def _why(variant: Variant, facts: BackendFacts, precision: str, here: Measured) -> str:
    """Why the variant is taken."""
    if facts.precisions[variant.precision] == EMULATED:
        return "as asked for, emulated here"
    if precision != "auto":
        return "as asked for"
    if (seconds := here.get((facts.name, variant.precision))) is not None:
        return f"the fastest that was measured here, {1e3 * seconds:.3g} ms a batch"
    speed = _slowest(variant, facts) if variant.precision == "int8" else None
    return "the fastest that this host computes natively" + ("" if speed is None else f", {_measured(speed)}")
