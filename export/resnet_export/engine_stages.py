"""The stages that put engines into a bundle that stands; they need neither torch nor onnx, nor the checkpoint."""

from __future__ import annotations

import dataclasses
import functools
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

from resnet_runtime.backends.tensorrt.cuda import DeviceInfo
from resnet_runtime.backends.tensorrt.library import LIBRARIES, Library
from resnet_runtime.bundle import Bundle
from resnet_runtime.errors import UnavailableError
from resnet_runtime.manifest import Batch, Engine, Manifest, Variant

from .engine import EngineOptions, EngineRequest, engine_from_request
from .engine_gate import verified_engine
from .engine_host import EngineHost, ThisHost
from .engine_record import record_from_build
from .engine_writer import add_engine
from .errors import DestinationError, EngineError, RequestError, WriteError
from .progress import Progress, Stage, Timings

AUTO: Final = "auto"

COMPUTED: Final = ("fp32", "fp16", "int8-tensorrt")
"""The variants that TensorRT computes as they are; bf16 and int8-cpu are for CPUs."""

Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class EnginesOptions:
    """Which engines are built.

    Attributes:
        library: of ``library.LIBRARIES``; ``AUTO``: TensorRT where there is a GPU, else TensorRT-RTX, which needs none.
        variants: ids; None: fp16, and for TensorRT int8-tensorrt too. TensorRT-RTX's documentation promises INT8 for
            products of matrices alone, so that its INT8 engines have to be asked for.
        profiles: batch sizes, one optimization profile each; none: the bundle's own.
        build: how.
    """

    library: str = AUTO
    variants: tuple[str, ...] | None = None
    profiles: tuple[Batch, ...] = ()
    build: EngineOptions = field(default_factory=EngineOptions)


@dataclass(frozen=True)
class EnginesResult:
    """What was put into the bundle.

    Attributes:
        path: of the bundle.
        manifest: its new one.
        engines: those that were built now.
        missing: by variant, or ``""`` for all, why there is no engine.
        warnings: what the library had to say.
    """

    path: Path
    manifest: Manifest
    engines: tuple[Engine, ...]
    missing: dict[str, str]
    warnings: tuple[str, ...]


def engines_into_bundle(
    path: str | os.PathLike[str],
    options: EnginesOptions,
    progress: Progress | None = None,
    host: EngineHost | None = None,
) -> EnginesResult:
    """Build engines of a bundle's variants and add them, one after the other; each stays, whatever comes of the next.

    Where the host has the device that an engine is for, the engine is run by the runtime on check.npz and held to its
    variant's gate before it is added.

    Args:
        path: of the bundle.
        options: which.
        progress: told of each stage.
        host: this one, if not given.

    Raises:
        BundleError: it is no intact bundle.
        RequestError: it has not got such a variant, or the options are at fault.
        UnavailableError: the library is not here, or cannot build here.
        EngineError: an engine was not built, or does not compute what the variant promises.
        WriteError: the disk failed.
    """
    host = host or ThisHost()
    timings = Timings(progress)
    bundle = Bundle.open(path)
    library, device = builder(options, host)
    _check_profiles(bundle, options.profiles)
    wanted = _variants(bundle.manifest, library, options)
    manifest, added = bundle.manifest, []
    for variant in wanted:
        with timings.stage(f"engine {variant.id}") as stage:
            request = _request(bundle, variant, options)
            engine, data = _built(bundle, variant, request, library, device, options, host, stage)
            manifest = add_engine(bundle.path, engine, data, variant.file)
            added.append(next(item for item in manifest.engines if item.id == engine.id))
    return EnginesResult(bundle.path, manifest, tuple(added), {}, tuple(timings.warnings))


def engines_after_export(
    path: Path, options: EnginesOptions, progress: Progress | None = None, host: EngineHost | None = None
) -> EnginesResult:
    """As ``engines_into_bundle``, for the bundle that was exported just now: it is there, whatever fails here.

    With ``AUTO`` a host that cannot build engines, and a bundle that has no variant for them, are nothing to complain
    about. Where a library was named, ``check_engines`` has been asked before the export.

    Raises:
        WriteError: the disk failed, or the bundle was replaced meanwhile: it says that the bundle was written.
    """
    timings = Timings(progress)
    bundle = Bundle.open(path)
    if bundle.manifest.input.batch.smallest == bundle.manifest.input.batch.largest:
        options = dataclasses.replace(options, profiles=())  # the model has the last word, as for the bundle itself
    try:
        if options.library == AUTO and options.variants is None and bundle.manifest.variant("fp16") is None:
            return EnginesResult(path, bundle.manifest, (), {"": "the bundle has no fp16 variant to build one of"}, ())
        return engines_into_bundle(path, options, progress, host)
    except (WriteError, DestinationError) as error:
        text = f"the bundle {path} is written, and an engine that belongs into it is not: {error.message}"
        raise WriteError(text, details=error.details) from error
    except (UnavailableError, EngineError, RequestError) as error:
        with timings.stage("engines") as stage:
            text = "; ".join((error.message, *error.details[:3]))
            if options.library == AUTO and isinstance(error, UnavailableError):
                stage.tell(f"none: {text}")
            else:
                stage.warn(f"an engine was not built: {text}")
        manifest = Bundle.open(path).manifest
        return EnginesResult(path, manifest, manifest.engines, {"": text}, tuple(timings.warnings))


def check_engines(options: EnginesOptions, host: EngineHost | None = None) -> None:
    """Say before an export what would fail after it.

    Raises:
        UnavailableError: the library that was named is not here, cannot build here, or does not know a compute
            capability.
        RequestError: its engines cannot be what was asked for.
    """
    build = options.build
    if options.library == AUTO and not (build.capabilities or build.version_compatible or build.hardware_compatible):
        return
    builder(options, host or ThisHost())


def builder(options: EnginesOptions, host: EngineHost) -> tuple[Library, DeviceInfo | None]:
    """The library to build with, and the GPU that is here, which TensorRT cannot do without.

    Raises:
        UnavailableError, RequestError: as ``check_engines``; and for ``AUTO``, there is no library.
    """
    library = builder_library(options.library, host)
    if options.build.capabilities:
        library.check_capabilities(options.build.capabilities)
    _check_compatibility(library, options.build)
    try:
        return library, host.device()
    except UnavailableError as error:
        if library.portable:
            return library, None
        raise UnavailableError(
            f"{library.name} builds engines on the GPU that will run them, and none can be used here "
            f"({error.message}): build on a host where it can, or take --engine tensorrt-rtx, which needs none",
            details=error.details,
        ) from error


def _check_compatibility(library: Library, build: EngineOptions) -> None:
    """TensorRT-RTX knows neither kind: nothing that it builds runs on another version of it."""
    if not library.portable:
        return
    if build.version_compatible:
        raise RequestError(
            f"an engine of {library.name} runs on the version that built it alone, so that --version-compatible "
            "cannot be had: leave it out, or take --engine tensorrt on the GPU host"
        )
    if build.hardware_compatible:
        raise RequestError(
            f"--hardware-compatible is for engines of tensorrt, and those of {library.name} run on every GPU of their "
            "compute capabilities: leave it out, or name these with --engine-capability"
        )


def builder_library(name: str, host: EngineHost) -> Library:
    """The library to build with.

    Raises:
        UnavailableError: it is not here, or, for ``AUTO``, none is.
    """
    if name != AUTO:
        return host.library(name)
    reasons, candidates = [], list(LIBRARIES)
    try:
        host.device()
    except UnavailableError:
        candidates.remove("tensorrt")
    for candidate in candidates:
        try:
            return host.library(candidate)
        except UnavailableError as error:
            reasons.append(error.message)
    if "tensorrt" not in candidates:
        raise UnavailableError(
            "TensorRT-RTX, which builds engines without a GPU, cannot be used here: pip install tensorrt-rtx-cu13",
            details=reasons,
        )
    raise UnavailableError("no TensorRT is installed that could build engines", details=reasons)


def _check_profiles(bundle: Bundle, profiles: tuple[Batch, ...]) -> None:
    """A graph of one batch size can be tuned for no other."""
    batch = bundle.manifest.input.batch
    other = next((item for item in profiles if item != batch), None)
    if batch.smallest == batch.largest and other is not None:
        raise RequestError(
            f"{bundle.path} takes batches of {batch.largest} alone, and --batch is {other.smallest},{other.optimal},"
            f"{other.largest}: leave --batch out"
        )


def _variants(manifest: Manifest, library: Library, options: EnginesOptions) -> tuple[Variant, ...]:
    names = options.variants or (("fp16",) if library.portable else ("fp16", "int8-tensorrt"))
    found = []
    for name in names:
        variant = manifest.variant(name)
        if name not in COMPUTED:
            raise RequestError(f"engines are built of {', '.join(COMPUTED)}, not of {name}")
        if variant is not None:
            found.append(variant)
        elif options.variants is not None or name == "fp16":
            has = ", ".join(item.id for item in manifest.variants)
            raise RequestError(f"the bundle has no variant {name}, only {has}: export it with --precision")
    return tuple(found)


def _request(bundle: Bundle, variant: Variant, options: EnginesOptions) -> EngineRequest:
    entry = bundle.manifest.input
    return EngineRequest(
        name=variant.id,
        model=bundle.read(variant.file),
        precision=variant.precision,
        kept=frozenset(layer.node for layer in variant.kept_higher),
        input=(entry.name, entry.shape),
        profiles=options.profiles or (entry.batch,),
    )


def _built(
    bundle: Bundle,
    variant: Variant,
    request: EngineRequest,
    library: Library,
    device: DeviceInfo | None,
    options: EnginesOptions,
    host: EngineHost,
    stage: Stage,
) -> tuple[Engine, bytes]:
    """Build, and verify where the device is here; the record lacks its file, which is filled in when it is written."""
    steps = functools.partial(_advance, stage)
    built = _in_a_thread(
        lambda stop: engine_from_request(request, library, options.build, steps, stop=stop, device=device)
    )
    for message in built.messages:
        stage.warn(message)
    engine = record_from_build(variant, request.profiles, library, device, options.build)
    stage.tell(f"{len(built.data) / 1e6:.1f} MB, {built.convolutions} convolutions in {variant.precision}")
    engine = verified_engine(bundle, engine, variant, request, built, library, device, host, stage)
    where = engine.gpu or f"compute capability {', '.join(engine.compute_capabilities)}"
    seen = "not verified on a GPU yet" if engine.verified_on is None else f"verified on {engine.verified_on}"
    stage.tell(f"for {where}, by {library.name} {library.version}; {seen}")
    return engine, built.data


def _advance(stage: Stage, done: int, total: int, phase: str) -> None:
    del phase
    stage.advance(done, total, "steps")


def _in_a_thread(work: Callable[[threading.Event], Result]) -> Result:
    """Work that stays in C++ for long, with a thread that can still be interrupted: then the event is set.

    Raises:
        Whatever the work raises; KeyboardInterrupt when the work has stopped for it.
    """
    stop, done = threading.Event(), threading.Event()
    found: list[Result] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            found.append(work(stop))
        except BaseException as error:
            failed.append(error)
        finally:
            done.set()

    thread = threading.Thread(target=run, name="engine build")
    thread.start()
    interrupt: BaseException | None = None
    while not done.is_set():
        try:
            done.wait()
        except BaseException as error:
            interrupt = error
            stop.set()
    thread.join()
    if interrupt is not None:
        raise interrupt
    if failed:
        raise failed[0]
    return found[0]
