"""Opening a bundle: which backend and which variant, loaded; an engine that nobody tried here is checked first."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from contextlib import ExitStack

from .backends import EngineOpener, facts_of, host_facts, open_backend, open_engine
from .backends.base import (
    INTENTS,
    LATENCY,
    Backend,
    BackendFacts,
    GraphFile,
    OpenOptions,
    misfit,
    signature_from_manifest,
)
from .bundle import Bundle
from .engine_fit import host_of
from .errors import BackendError, CheckError, InputError, ResnetRuntimeError, UnavailableError
from .first_use import FirstUse
from .manifest import Variant
from .selection import NOT_MEASURED, Choice, Measured, check_precision, choose
from .session import Session


def load(
    path: str | os.PathLike[str],
    *,
    backend: str | Backend = "auto",
    precision: str = "auto",
    intent: str = LATENCY,
    threads: int | None = None,
) -> Session:
    """Open a bundle and load its fastest variant, or the one that was asked for.

    Args:
        path: the bundle's directory.
        backend: ``auto``, ``tensorrt``, ``openvino``, ``onnxruntime``, or an object that is a ``Backend``.
        precision: ``auto``, ``fp32``, ``bf16``, ``fp16`` or ``int8``.
        intent: ``latency``, for one call at a time that is answered as soon as possible, or ``throughput``, for as
            many images a second as possible: then start ``session.calls_at_once`` calls or more before the first is
            waited for. What a backend on a GPU does is the same for both.
        threads: how many of them a backend on the CPU computes with; None: as its library decides. What ``--tune``
            measured was without such a bound, so that ``auto`` leaves it out of account under one.

    Raises:
        BundleError: the directory is not an intact bundle.
        InputError: there is no such backend, precision or intent, or no such number of threads.
        UnavailableError: this host lacks what was asked for.
        BackendError: the backend failed to load the graph or the engine.
        CheckError: an engine that was never verified on such a device answers wrongly here, and nothing else that was
            asked for can be taken in its place.
    """
    return session_from_bundle(Bundle.open(path), backend=backend, precision=precision, intent=intent, threads=threads)


def session_from_bundle(
    bundle: Bundle,
    *,
    backend: str | Backend = "auto",
    precision: str = "auto",
    intent: str = LATENCY,
    threads: int | None = None,
    host: Sequence[BackendFacts] | None = None,
    opener: EngineOpener = open_engine,
    measured: Measured | None = None,
) -> Session:
    """As ``load``, from a bundle that is open.

    Args:
        bundle: the bundle.
        backend, precision, intent, threads: as ``load`` takes them.
        host: the facts of the backends to choose from; None: of those that are here.
        opener: what loads an engine.
        measured: what was measured on this host; None: what ``resnet-run --tune`` kept.
    """
    if intent not in INTENTS:
        raise InputError(f"there is no intent {intent!r}: take {' or '.join(INTENTS)}")
    if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int) or threads < 1):
        raise InputError(f"{threads!r} is no number of threads: give an integer of at least 1, or leave threads out")
    labels = bundle.labels()
    if not isinstance(backend, str):
        return _session_from_backend(bundle, backend, precision, labels)
    facts = host_facts(backend) if host is None else host
    if measured is None:
        decided = threads is not None or "auto" not in (backend, precision)
        measured = NOT_MEASURED if decided else _tuned(bundle, facts, intent)
    refused: dict[str, str] = {}
    first: ResnetRuntimeError | None = None
    while True:
        try:
            choice = choose(
                bundle.manifest, facts, backend=backend, precision=precision, refused=refused, measured=measured
            )
        except UnavailableError as error:
            if first is None:
                raise
            raise first from error
        if choice.engine is None:
            variant = bundle.manifest.variant(choice.variant)
            assert variant is not None
            try:
                loaded = backend_from_variant(
                    bundle, variant, choice.backend, intent=intent, threads=threads, keeps_compiled=True
                )
            except UnavailableError:
                if host is not None or host_facts(backend) == facts:
                    raise
                facts = host_facts(backend)  # a library that was there is broken: there may be another one
                continue
            return Session(bundle, loaded, choice, labels)
        found = _session_from_engine(bundle, choice, facts, opener, labels)
        if isinstance(found, Session):
            return found
        refused[choice.engine] = found.message
        first = first or found


def _tuned(bundle: Bundle, facts: Sequence[BackendFacts], intent: str) -> Measured:
    from .tuning import tuned_seconds  # it loads sessions itself

    return tuned_seconds(bundle.manifest, facts, intent)


def _session_from_backend(bundle: Bundle, backend: object, precision: str, labels: tuple[str, ...] | None) -> Session:
    check_precision(precision)
    if not isinstance(backend, Backend):
        raise InputError(
            f"the backend is a {type(backend).__name__}: give a name, or an object with the methods of Backend"
        )
    if backend.signature != signature_from_manifest(bundle.manifest):
        raise UnavailableError("the backend that was passed in does not have the signature of the bundle")
    choice = Choice(backend.description, "", precision, ("the backend was passed in",))
    return Session(bundle, backend, choice, labels)


def _session_from_engine(
    bundle: Bundle, choice: Choice, host: Sequence[BackendFacts], opener: EngineOpener, labels: tuple[str, ...] | None
) -> Session | ResnetRuntimeError:
    """The engine that was chosen, loaded and known to answer rightly here; or why it is not to be used.

    What fails of an engine that was verified on such a device, or passed here before, is raised: that is the host's
    trouble and not the engine's. Of another one nobody has promised that it runs here.
    """
    manifest = bundle.manifest
    engine = next(item for item in manifest.engines if item.id == choice.engine)
    variant = manifest.variant(choice.variant)
    hosts = next(facts.hosts for facts in host if facts.name == choice.backend)
    here = None if hosts is None else host_of(engine, hosts)
    assert variant is not None
    assert here is not None
    first = FirstUse(bundle=bundle, engine=engine, variant=variant, host=here)
    data, signature = bundle.read(engine.file), signature_from_manifest(manifest)
    known = False
    try:
        known = first.passed()
        session = Session(bundle, opener(choice.backend, engine, data, signature, variant.precision), choice, labels)
        if not known:
            with ExitStack() as stack:
                stack.enter_context(session)
                first.check(session.infer)
                stack.pop_all()  # it stays open
    except (BackendError, CheckError, UnavailableError) as error:
        if known:
            raise
        return error
    return session


def backend_from_variant(
    bundle: Bundle,
    variant: Variant,
    backend: str,
    *,
    intent: str = LATENCY,
    threads: int | None = None,
    keeps_compiled: bool = False,
) -> Backend:
    """Load one variant into the backend of that name, whether or not its gate passed.

    Args:
        bundle: the bundle.
        variant: of it.
        backend: a name.
        intent, threads: as ``load`` takes them.
        keeps_compiled: whether what the library compiles is kept in the user's cache folder, and taken from there.

    Raises:
        BundleError: its file is not the one that was listed.
        UnavailableError: the backend does not compute that precision on this host, takes another Q/DQ scheme, or runs
            engines only.
        BackendError: it failed to load the graph.
    """
    facts = facts_of(backend)
    if facts.hosts is not None:
        raise UnavailableError(
            f"{backend} runs engines, and {variant.file.path} is an ONNX file: load() takes one of the bundle's engines"
        )
    refusal = misfit(variant, facts)
    if refusal is not None:
        raise UnavailableError(refusal)
    options = OpenOptions(
        kept=frozenset(layer.node for layer in variant.kept_higher),
        intent=intent,
        threads=threads,
        kept_as=variant.file.sha256 if keeps_compiled else None,
    )
    signature = signature_from_manifest(bundle.manifest)
    file = GraphFile(functools.partial(bundle.verify, variant.file), functools.partial(bundle.read, variant.file))
    return open_backend(backend, file, signature, variant.precision, options)
