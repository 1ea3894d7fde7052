"""The gates of a bundle, repeated on this host from ``check.npz``."""

from __future__ import annotations

import os
from dataclasses import dataclass

from .backends import host_facts
from .backends.base import BackendFacts, misfit
from .bundle import Bundle, CheckData
from .errors import BackendError, CheckError, UnavailableError
from .manifest import Accuracy, Limits, Parity, Speed, Variant
from .parity import faults, parity, tie_of
from .selection import Choice
from .session import Session, backend_from_variant


@dataclass(frozen=True, kw_only=True)
class VariantCheck:
    """What one variant did on one backend.

    Attributes:
        backend: None where no backend could be tried.
        executor: the library, its version and its precision; None where it did not run.
        parity: what was measured; None where it did not run.
        faults: what was outside the limits.
        unavailable: why this host cannot run it, or None.
        accuracy: as the manifest records it: evaluated where the variant was exported; None where it was not.
        speeds: as the manifest records them: measured where the variant was exported.
    """

    variant: str
    precision: str
    backend: str | None
    executor: str | None
    parity: Parity | None
    limits: Limits
    faults: tuple[str, ...]
    unavailable: str | None
    accuracy: Accuracy | None = None
    speeds: tuple[Speed, ...] = ()

    @property
    def passed(self) -> bool:
        """It ran, and within its limits."""
        return self.parity is not None and not self.faults


def check_bundle(path: str | os.PathLike[str], *, backend: str = "auto") -> tuple[VariantCheck, ...]:
    """Every variant on every backend of this host (or on the one named), against eager's answers.

    Raises:
        BundleError: the directory is not an intact bundle.
        InputError: there is no such backend.
        UnavailableError: no backend is installed.
    """
    bundle = Bundle.open(path)
    data = bundle.check_data()
    host = host_facts(backend)
    usable = [facts for facts in host if facts.missing is None]
    if not usable:
        raise UnavailableError(
            "no backend is installed here to check the bundle with", details=[str(facts.missing) for facts in host]
        )
    return tuple(_checked(bundle, data, variant, facts) for variant in bundle.manifest.variants for facts in usable)


def check_variant(bundle: Bundle, data: CheckData, variant: Variant, backend: str) -> tuple[Parity, str]:
    """Run one variant on ``data`` through a session, as a user would.

    Returns:
        What was measured, and the session's description.

    Raises:
        UnavailableError: the backend does not compute that precision on this host, or another Q/DQ scheme.
        BackendError: it failed.
    """
    model = backend_from_variant(bundle, variant, backend)
    choice = Choice(backend, variant.id, variant.precision, ("the variant is being checked",))
    with Session(bundle, model, choice, None) as session:
        measured = parity(data.outputs, session.infer(data.inputs), tie=tie_of(variant.gate.limits))
        return measured, session.description


def refuse_failed(checks: tuple[VariantCheck, ...]) -> None:
    """Raise CheckError where one of ``checks`` ran outside its limits, or none ran."""
    failed = [f"{check.variant} on {check.backend}: {fault}" for check in checks for fault in check.faults]
    if failed:
        raise CheckError("the bundle does not compute on this host what the model computed", details=failed)
    if not any(check.passed for check in checks):
        raise CheckError(
            "no variant of the bundle can be run on this host",
            details=[f"{check.variant}: {check.unavailable}" for check in checks],
        )


def _checked(bundle: Bundle, data: CheckData, variant: Variant, facts: BackendFacts) -> VariantCheck:
    measured: Parity | None = None
    executor: str | None = None
    found: tuple[str, ...] = ()
    unavailable = misfit(variant, facts)
    if unavailable is None and variant.precision not in facts.precisions:
        unavailable = f"{facts.name} computes no {variant.precision} on this CPU"
    if unavailable is None:
        try:
            measured, executor = check_variant(bundle, data, variant, facts.name)
            found = faults(measured, variant.gate.limits)
        except UnavailableError as error:
            unavailable = error.message
        except BackendError as error:
            found = (error.message,)
    return VariantCheck(
        variant=variant.id,
        precision=variant.precision,
        backend=facts.name,
        executor=executor,
        parity=measured,
        limits=variant.gate.limits,
        faults=found,
        unavailable=unavailable,
        accuracy=variant.gate.accuracy,
        speeds=variant.speeds,
    )
