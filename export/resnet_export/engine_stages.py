"""The stages that put engines into a bundle that stands; they need neither torch nor onnx, nor the checkpoint."""

from __future__ import annotations

import functools
import os
import platform
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

from resnet_runtime.backends.tensorrt.library import Library, library_named
from resnet_runtime.bundle import Bundle
from resnet_runtime.engine_fit import AMPERE_PLUS, DEVICE, PORTABLE, VERSIONS
from resnet_runtime.errors import UnavailableError
from resnet_runtime.manifest import Batch, Engine, FileRecord, Manifest, Variant

from .engine import EngineOptions, EngineRequest, engine_from_request
from .engine_writer import add_engine
from .errors import RequestError
from .progress import Progress, Stage, Timings

AUTO: Final = "auto"

COMPUTED: Final = ("fp32", "fp16", "int8-tensorrt")
"""The variants that TensorRT computes as they are; bf16 and int8-cpu are for CPUs."""

Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class EnginesOptions:
    """Which engines are built.

    Attributes:
        library: of ``library.LIBRARIES``; ``AUTO``: TensorRT-RTX, which builds on any host, else TensorRT.
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
        warnings: what the library had to say.
    """

    path: Path
    manifest: Manifest
    engines: tuple[Engine, ...]
    warnings: tuple[str, ...]


def engines_into_bundle(
    path: str | os.PathLike[str], options: EnginesOptions, progress: Progress | None = None
) -> EnginesResult:
    """Build engines of a bundle's variants and add them, one after the other; each stays, whatever comes of the next.

    Args:
        path: of the bundle.
        options: which.
        progress: told of each stage.

    Raises:
        BundleError: it is no intact bundle.
        RequestError: it has not got such a variant, or the options are at fault.
        UnavailableError: the library is not here, or cannot build here.
        EngineError: an engine was not built, or would not compute what the variant promises.
        WriteError: the disk failed.
    """
    timings = Timings(progress)
    bundle = Bundle.open(path)
    library = builder_library(options.library)
    wanted = _variants(bundle.manifest, library, options)
    manifest, added = bundle.manifest, []
    for variant in wanted:
        with timings.stage(f"engine {variant.id}") as stage:
            request = _request(bundle, variant, options)
            steps = functools.partial(_advance, stage)
            built = _in_a_thread(functools.partial(engine_from_request, request, library, options.build, steps))
            engine = _record(variant, request, library, options)
            manifest = add_engine(bundle.path, engine, built.data, variant.file)
            added.append(next(item for item in manifest.engines if item.id == engine.id))
            where = ", ".join(engine.compute_capabilities) or engine.gpu or "this device"
            stage.tell(f"{len(built.data) / 1e6:.1f} MB, {built.convolutions} convolutions in {variant.precision}")
            stage.tell(
                f"for compute capability {where}, by {library.name} {library.version}; not verified on a GPU yet"
            )
    return EnginesResult(bundle.path, manifest, tuple(added), tuple(timings.warnings))


def _advance(stage: Stage, done: int, total: int, phase: str) -> None:
    del phase
    stage.advance(done, total, "steps")


def builder_library(name: str) -> Library:
    """The library to build with.

    Raises:
        UnavailableError: it is not here, or, for ``AUTO``, none is.
    """
    if name != AUTO:
        return library_named(name)
    reasons = []
    for candidate in ("tensorrt-rtx", "tensorrt"):
        try:
            return library_named(candidate)
        except UnavailableError as error:
            reasons.append(error.message)
    raise UnavailableError("no TensorRT is installed that could build engines", details=reasons)


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


def _record(variant: Variant, request: EngineRequest, library: Library, options: EnginesOptions) -> Engine:
    build = options.build
    return Engine(
        id=f"{variant.id}-{library.name}-{library.version}",
        variant=variant.id,
        file=FileRecord(path="unwritten", sha256="0" * 64, size=0),  # filled in when it is written
        builder=library.name,
        builder_version=library.version,
        platform=f"{platform.system().lower()}-{platform.machine().lower()}",
        gpu=None,
        compute_capabilities=build.capabilities or library.default_capabilities,
        compatibility=(PORTABLE if library.portable else AMPERE_PLUS if build.hardware_compatible else DEVICE)
        + (VERSIONS if build.version_compatible else ""),
        profiles=request.profiles,
        verified_on=None,
    )


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
