"""Which backend and which variant: a pure function of the manifest and of what this host is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from .backends.base import EMULATED, NATIVE, BackendFacts
from .errors import InputError, UnavailableError
from .manifest import PRECISIONS, Manifest, Variant

PREFERENCE: Final = (
    ("openvino", "bf16"),
    ("openvino", "fp16"),
    ("openvino", "fp32"),
    ("onnxruntime", "fp32"),
)
"""Fastest first, where each is computed natively: see docs/architecture.md, "Which backend"."""


@dataclass(frozen=True)
class Choice:
    """What to run, and why: one sentence for each backend that is missing here, for each combination that was passed
    over, and for the one that was taken."""

    backend: str
    variant: str
    precision: str
    reasons: tuple[str, ...]


def choose(
    manifest: Manifest, host: Sequence[BackendFacts], *, backend: str = "auto", precision: str = "auto"
) -> Choice:
    """The fastest combination that the host computes natively and whose gate passed.

    Args:
        manifest: of the bundle.
        host: the facts of the backends to choose from.
        backend: a name, or auto.
        precision: one of ``PRECISIONS``, or auto. One that is named may be emulated; auto never takes an emulated one.

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
    if precision != "auto" and not any(variant.precision == precision for variant in manifest.variants):
        held = ", ".join(variant.id for variant in manifest.variants)
        raise UnavailableError(f"the bundle has no {precision} variant: it has {held}")
    return _first(manifest, usable, precision, missing)


def check_precision(precision: str) -> None:
    """Raise InputError where there is no such precision."""
    if precision not in ("auto", *PRECISIONS):
        raise InputError(f"there is no precision {precision!r}: take auto, {', '.join(PRECISIONS)}")


def _first(manifest: Manifest, usable: Sequence[BackendFacts], precision: str, missing: Sequence[str]) -> Choice:
    reasons = list(missing)
    for name, wanted in PREFERENCE:
        facts = next((facts for facts in usable if facts.name == name), None)
        if facts is None or precision not in ("auto", wanted):
            continue
        variant = _variant(manifest, wanted)
        how = facts.precisions.get(wanted)
        if variant is None:
            reasons.append(f"{wanted} on {name}: not in the bundle")
        elif how is None:
            reasons.append(f"{wanted} on {name}: this CPU has no {wanted} arithmetic, it would be another precision")
        elif how == EMULATED and precision == "auto":
            reasons.append(f"{wanted} on {name}: emulated on this CPU, right but slow")
        else:
            why = "the fastest that this host computes natively" if how == NATIVE else "as asked for, emulated here"
            reasons.append(f"{wanted} on {name}: {why if precision == 'auto' or how == EMULATED else 'as asked for'}")
            return Choice(name, variant.id, wanted, tuple(reasons))
    reasons += [
        f"{variant.precision} on {facts.name}: the backend {facts.name} does not run {variant.precision} variants"
        for variant in manifest.variants
        for facts in usable
        if precision in ("auto", variant.precision) and (facts.name, variant.precision) not in PREFERENCE
    ]
    names = ", ".join(facts.name for facts in usable)
    raise UnavailableError(f"nothing in the bundle can be computed by {names} on this host", details=reasons)


def _variant(manifest: Manifest, precision: str) -> Variant | None:
    return next((variant for variant in manifest.variants if variant.precision == precision), None)
