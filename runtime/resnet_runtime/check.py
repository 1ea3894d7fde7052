"""The gates of a bundle, repeated on this host from ``check.npz``."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from .backends import EngineOpener, host_facts, open_engine
from .backends.base import Backend, BackendFacts, misfit, signature_from_manifest
from .bundle import Bundle, CheckData
from .errors import BackendError, CheckError, UnavailableError
from .loading import backend_from_variant
from .manifest import Accuracy, Engine, Limits, Parity, Speed, Variant
from .parity import faults, parity, tie_of
from .selection import Choice, engines_for
from .session import Session


@dataclass(frozen=True, kw_only=True)
class VariantCheck:
    """What one variant, or one engine of it, did on one backend.

    Attributes:
        backend: None where no backend could be tried.
        executor: the library, its version and its precision; None where it did not run.
        parity: what was measured; None where it did not run.
        faults: what was outside the limits.
        unavailable: why this host cannot run it, or None.
        accuracy: as the manifest records it: evaluated where the variant was exported; None where it was not.
        speeds: as the manifest records them: measured where the variant was exported.
        engine: the id of the engine that ran; None where the variant's ONNX file did, or nothing.
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
    engine: str | None = None

    @property
    def title(self) -> str:
        """What ran, and on what."""
        where = self.variant if self.backend is None else f"{self.variant} on {self.backend}"
        return where if self.engine is None else f"{where} (engine {self.engine})"

    @property
    def passed(self) -> bool:
        """It ran, and within its limits."""
        return self.parity is not None and not self.faults


def check_bundle(
    path: str | os.PathLike[str],
    *,
    backend: str = "auto",
    host: Sequence[BackendFacts] | None = None,
    opener: EngineOpener = open_engine,
) -> tuple[VariantCheck, ...]:
    """Every variant on every backend of this host (or on the one named), against eager's answers.

    On a backend that runs engines it is every engine of the variant that was built for such a host.

    Args:
        path: the bundle's directory.
        backend: a name, or auto.
        host: the facts of the backends to check with; None: of those that are here.
        opener: what loads an engine.

    Raises:
        BundleError: the directory is not an intact bundle.
        InputError: there is no such backend.
        UnavailableError: no backend is installed.
    """
    bundle = Bundle.open(path)
    data = bundle.check_data()
    if host is None:
        host = host_facts(backend)
    usable = [facts for facts in host if facts.missing is None]
    if not usable:
        raise UnavailableError(
            "no backend is installed here to check the bundle with", details=[str(facts.missing) for facts in host]
        )
    return tuple(
        check
        for variant in bundle.manifest.variants
        for facts in usable
        for check in _checks(bundle, data, variant, facts, opener)
    )


def check_variant(bundle: Bundle, data: CheckData, variant: Variant, backend: str) -> tuple[Parity, str]:
    """Run one variant on ``data`` through a session, as a user would.

    Returns:
        What was measured, and the session's description.

    Raises:
        UnavailableError: the backend does not compute that precision on this host, or another Q/DQ scheme.
        BackendError: it failed.
    """
    choice = Choice(backend, variant.id, variant.precision, ("the variant is being checked",))
    return _run(bundle, data, variant, backend_from_variant(bundle, variant, backend), choice)


def check_engine(
    bundle: Bundle,
    data: CheckData,
    variant: Variant,
    engine: Engine,
    backend: str,
    opener: EngineOpener = open_engine,
) -> tuple[Parity, str]:
    """As ``check_variant``, of an engine that was built of the variant, loaded by ``opener``.

    Raises:
        UnavailableError: it was built for something else than what is here.
        BackendError: it cannot be loaded, or failed.
    """
    signature = signature_from_manifest(bundle.manifest)
    model = opener(backend, engine, bundle.read(engine.file), signature, variant.precision)
    choice = Choice(backend, variant.id, variant.precision, ("the engine is being checked",), engine.id)
    return _run(bundle, data, variant, model, choice)


def refuse_failed(checks: tuple[VariantCheck, ...]) -> None:
    """Raise CheckError where one of ``checks`` ran outside its limits, or none ran."""
    failed = [f"{check.title}: {fault}" for check in checks for fault in check.faults]
    if failed:
        raise CheckError("the bundle does not compute on this host what the model computed", details=failed)
    if not any(check.passed for check in checks):
        raise CheckError(
            "no variant of the bundle can be run on this host",
            details=[f"{check.variant}: {check.unavailable}" for check in checks],
        )


def _run(bundle: Bundle, data: CheckData, variant: Variant, model: Backend, choice: Choice) -> tuple[Parity, str]:
    with Session(bundle, model, choice, None) as session:
        measured = parity(data.outputs, session.infer(data.inputs), tie=tie_of(variant.gate.limits))
        return measured, session.description


def _checks(
    bundle: Bundle, data: CheckData, variant: Variant, facts: BackendFacts, opener: EngineOpener
) -> Iterator[VariantCheck]:
    """One check of the variant on a backend that runs its file; on one that runs engines, one of each that fits."""
    engines: tuple[Engine, ...] = ()
    refusal = misfit(variant, facts)
    if refusal is None and variant.precision not in facts.precisions:
        refusal = f"{facts.name} computes no {variant.precision}" + (" on this CPU" if facts.hosts is None else "")
    elif refusal is None and facts.hosts is not None:
        engines, refusal = engines_for(bundle.manifest, variant, facts)
    for engine in engines:
        run = functools.partial(check_engine, bundle, data, variant, engine, facts.name, opener)
        yield _checked(variant, facts.name, run, engine=engine.id)
    if refusal is not None or facts.hosts is None:
        run = functools.partial(check_variant, bundle, data, variant, facts.name)
        yield _checked(variant, facts.name, run, unavailable=refusal)


def _checked(
    variant: Variant,
    backend: str,
    run: Callable[[], tuple[Parity, str]],
    *,
    engine: str | None = None,
    unavailable: str | None = None,
) -> VariantCheck:
    """What ``run`` measured, held to the variant's gate; it is not called where the variant is ``unavailable``."""
    measured: Parity | None = None
    executor: str | None = None
    found: tuple[str, ...] = ()
    if unavailable is None:
        try:
            measured, executor = run()
            found = faults(measured, variant.gate.limits)
        except UnavailableError as error:
            unavailable = error.message
        except BackendError as error:
            found = (error.message,)
    return VariantCheck(
        variant=variant.id,
        precision=variant.precision,
        backend=backend,
        executor=executor,
        parity=measured,
        limits=variant.gate.limits,
        faults=found,
        unavailable=unavailable,
        accuracy=variant.gate.accuracy,
        speeds=variant.speeds,
        engine=engine,
    )
