"""Cases on a GPU: this runtime on a bundle's engines, and a bare loop over the same engine.

Nothing here knows whether the GPU is real: ``GpuHost`` and ``Device`` are what it takes of one, so that the cases are
tested on the simulated device. ``gpu_host.py`` has the real ones, ``gpu_peers.py`` the peers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from resnet_runtime.backends.base import Backend, BackendFacts, Pending, TensorSpec, signature_from_manifest
from resnet_runtime.backends.tensorrt.cuda import Cuda
from resnet_runtime.backends.tensorrt.library import Library
from resnet_runtime.backends.tensorrt.loading import RuntimeCache, backend_from_engine, cache_file, host_from_device
from resnet_runtime.bundle import Bundle
from resnet_runtime.errors import BackendError
from resnet_runtime.manifest import Engine, Variant
from resnet_runtime.selection import engine_for

from .cases import (
    WITH_TRANSFERS,
    WITHOUT_TRANSFERS,
    Answers,
    Array,
    Case,
    Label,
    MissingCase,
    SessionCase,
    Subject,
    peer_name,
)


class Device(Protocol):
    """Arrays on the device, one stream that everything is queued on, and the device's clock."""

    @property
    def stream(self) -> int:
        """The handle of the stream."""

    def array(self, values: Array) -> Any:
        """A copy on the device, ready, with ``__cuda_array_interface__``."""

    def empty(self, spec: TensorSpec, count: int) -> Any:
        """Room for ``count`` samples."""

    def address(self, array: Any) -> int:
        """Of what ``array`` or ``empty`` returned."""

    def host(self, array: Any) -> Array:
        """A copy on the host, when the stream is done."""

    def synchronize(self) -> None:
        """Wait until the stream is done."""

    def seconds(self, queue: Callable[[], None], calls: int) -> float:
        """Queue something so many times between two events of the stream; what lies between them, in seconds a time."""


class GpuHost(Protocol):
    """A host with a GPU."""

    def facts(self) -> BackendFacts:
        """What the backend ``tensorrt`` is here."""

    def library(self, name: str) -> Library:
        """One of ``library.LIBRARIES``. Raises UnavailableError."""

    def cuda(self) -> Cuda:
        """The GPU, its context retained once more."""

    def device(self) -> Device:
        """The same for all cases. Raises UnavailableError where there is no PyTorch with CUDA."""


@dataclass(frozen=True, kw_only=True)
class EngineSource:
    """An engine of a bundle that fits the host.

    Attributes:
        bundle: that holds it.
        variant: that it was built of.
        engine: its record.
        host: what it runs on.
    """

    bundle: Bundle
    variant: Variant
    engine: Engine
    host: GpuHost

    def backend(self, *, graphs: bool) -> Backend:
        """Loaded by the runtime.

        Args:
            graphs: whether CUDA graphs are used.

        Raises:
            UnavailableError: its library is not here, or it was built for something else.
            BackendError: it cannot be loaded.
        """
        signature, precision = signature_from_manifest(self.bundle.manifest), self.variant.precision
        library, data = self.host.library(self.engine.builder), self.bundle.read(self.engine.file)
        return backend_from_engine(self.engine, data, signature, precision, library, self.host.cuda(), graphs=graphs)

    def deserialized(self, library: Library, cuda: Cuda, *, graphs: bool) -> Any:
        """The ``ICudaEngine``.

        Args:
            library: that built it.
            cuda: the device.
            graphs: whether TensorRT-RTX captures graphs in its contexts, as it does in the runtime. Without them it
                compiles its kernels anew, and keeps nothing of that.

        Raises:
            BackendError: the library cannot load it.
        """
        data, messages = self.bundle.read(self.engine.file), list[str]()
        runtime = library.module.Runtime(library.logger(messages))
        with cuda.current():
            found = runtime.deserialize_cuda_engine(data)
            if found is None:
                raise BackendError(
                    f"{library.name} cannot load the engine {self.engine.id}: {messages[-1:] or 'silent'}"
                )
            if library.portable and graphs:
                path = cache_file(self.engine, host_from_device(library, cuda.info))
                return RuntimeCache(found, library, path)
        return found


class RuntimeOnDeviceCase:
    """This runtime on arrays that are on the device, queued on the caller's stream.

    Args:
        label: of the row.
        source: the engine.
    """

    def __init__(self, label: Label, source: EngineSource) -> None:
        self.label = label
        self._source = source
        self._backend: Backend | None = None
        self._inputs: Any = None
        self._outputs: dict[str, Any] = {}

    def prepare(self, inputs: Array) -> str:
        """Load the engine, and put the inputs on the device."""
        self._device = self._source.host.device()
        self._backend = self._source.backend(graphs=True)
        signature = self._backend.signature
        self._name = signature.input.name
        self._inputs = self._device.array(inputs)
        self._outputs = {spec.name: self._device.empty(spec, len(inputs)) for spec in signature.outputs}
        return self._backend.description

    def call(self) -> None:
        """Queue, and wait for the stream."""
        self._queue(self._inputs)
        self._device.synchronize()

    def answers(self, inputs: Array) -> Answers:
        """Copied to the host."""
        given = self._device.array(inputs)
        self._queue(given)
        return {name: self._device.host(array) for name, array in self._outputs.items()}

    def device_seconds(self, calls: int) -> float | None:
        """By the events of the stream."""
        return self._device.seconds(lambda: self._queue(self._inputs), calls)

    def close(self) -> None:
        """Close the backend."""
        if self._backend is not None:
            self._backend.close()
        self._inputs, self._outputs = None, {}

    def _queue(self, inputs: Any) -> None:
        assert self._backend is not None
        pending: Pending = self._backend.start({self._name: inputs}, self._outputs, self._device.stream)
        pending.result()


class BareEngineCase:
    """``execute_async_v3`` and nothing else: what TensorRT's documentation does with an engine.

    The device's context has to be the thread's current one, as PyTorch leaves it.

    Args:
        label: of the row.
        source: the engine.
    """

    def __init__(self, label: Label, source: EngineSource) -> None:
        self.label = label
        self._source = source
        self._cuda: Cuda | None = None
        self._engine: Any = None
        self._context: Any = None
        self._arrays: dict[str, Any] = {}

    def prepare(self, inputs: Array) -> str:
        """A context for the batch, with its tensors' addresses set once."""
        source = self._source
        signature = signature_from_manifest(source.bundle.manifest)
        device = self._device = source.host.device()
        library = source.host.library(source.engine.builder)
        self._cuda = source.host.cuda()
        self._name = signature.input.name
        self._arrays = {spec.name: device.empty(spec, len(inputs)) for spec in (signature.input, *signature.outputs)}
        self._arrays[self._name] = device.array(inputs)
        self._engine = source.deserialized(library, self._cuda, graphs=True)
        with self._cuda.current():
            self._context = self._engine.create_execution_context()
            if self._context is None:
                raise BackendError("TensorRT has no memory left for another execution context")
            profile = profile_of(source.engine, len(inputs))
            assert profile is not None, "MissingCase stands for what no profile takes"
            _accepted(self._context.set_optimization_profile_async(profile, device.stream), f"profile {profile}")
            _accepted(self._context.set_input_shape(self._name, inputs.shape), f"the shape {inputs.shape}")
            for name, array in self._arrays.items():
                _accepted(self._context.set_tensor_address(name, device.address(array)), f"an address for {name}")
        device.synchronize()
        return f"{library.name} {library.version}, {source.variant.precision}, execute_async_v3 alone"

    def call(self) -> None:
        """Queue, and wait for the stream."""
        self._queue()
        self._device.synchronize()

    def answers(self, inputs: Array) -> Answers:
        """Copied to the host; the input's address is set for these alone."""
        given = self._device.array(inputs)
        self._context.set_tensor_address(self._name, self._device.address(given))
        try:
            self._queue()
            return {name: self._device.host(array) for name, array in self._arrays.items() if name != self._name}
        finally:
            self._context.set_tensor_address(self._name, self._device.address(self._arrays[self._name]))

    def device_seconds(self, calls: int) -> float | None:
        """By the events of the stream."""
        return self._device.seconds(self._queue, calls)

    def close(self) -> None:
        """The context before its engine."""
        if self._cuda is None:
            return
        with self._cuda.current():
            self._context = None
            self._engine = None
        self._arrays = {}
        self._cuda.close()

    def _queue(self) -> None:
        _accepted(self._context.execute_async_v3(self._device.stream), "the call")


def _accepted(answer: bool, what: str) -> None:
    if not answer:
        raise BackendError(f"TensorRT refused {what}")


def profile_of(engine: Engine, batch: int) -> int | None:
    """The profile that is tuned for what is nearest to ``batch``, as the runtime takes it; None: none takes it."""
    fits = [
        (max(profile.optimal / batch, batch / profile.optimal), index)
        for index, profile in enumerate(engine.profiles)
        if profile.smallest <= batch <= profile.largest
    ]
    return min(fits)[1] if fits else None


def engine_cases(subject: Subject, batch: int, host: GpuHost) -> list[Case]:
    """This runtime and the bare loop on each variant's engine; where there is none that runs here, why.

    Args:
        subject: what is measured.
        batch: of every case.
        host: the host.
    """
    facts = host.facts()
    manifest = subject.bundle.manifest
    if facts.missing is not None:
        return [MissingCase(_label("runtime-tensorrt", batch, WITH_TRANSFERS, manifest.variants[0]), facts.missing)]
    found: list[Case] = []
    for variant in manifest.variants:
        if variant.precision not in facts.precisions or variant.scheme not in (None, facts.scheme):
            continue
        engine, refusal = engine_for(manifest, variant, facts)
        if engine is not None and profile_of(engine, batch) is None:
            sizes = ", ".join(f"{profile.smallest} to {profile.largest}" for profile in engine.profiles)
            refusal = f"the engine {engine.id} takes batches of {sizes}: build one with --batch MIN,OPT,MAX"
            engine = None
        if engine is None:
            label = _label(f"runtime-tensorrt-{variant.id}", batch, WITH_TRANSFERS, variant)
            found.append(MissingCase(label, refusal or "there is no engine for it"))
        else:
            found += _cases_of(EngineSource(bundle=subject.bundle, variant=variant, engine=engine, host=host), batch)
    return found


def _cases_of(source: EngineSource, batch: int) -> list[Case]:
    name, variant, bundle = f"runtime-tensorrt-{source.variant.id}", source.variant, source.bundle
    without = f"{name}-without-graphs"
    bare = peer_name("tensorrt", variant.precision)

    def opens(graphs: bool) -> Callable[[], Backend]:
        return lambda: source.backend(graphs=graphs)

    return [
        SessionCase(_label(name, batch, WITH_TRANSFERS, variant), bundle, variant, opens(True)),
        SessionCase(_label(without, batch, WITH_TRANSFERS, variant), bundle, variant, opens(False)),
        RuntimeOnDeviceCase(_label(name, batch, WITHOUT_TRANSFERS, variant, bare), source),
        BareEngineCase(_label(bare, batch, WITHOUT_TRANSFERS, variant), source),
    ]


def _label(name: str, batch: int, timed: str, variant: Variant, yardstick: str | None = None) -> Label:
    return Label(name=name, batch=batch, timed=timed, limits=variant.gate.limits, yardstick=yardstick)


Peer = Callable[[Subject, int, GpuHost], list[Case]]


def gpu_cases(
    subject: Subject, batch: int, against: tuple[str, ...] | None, host: GpuHost, peers: Mapping[str, Peer]
) -> list[Case]:
    """The reference, this runtime with the bare loops, and the other peers.

    Args:
        subject: what is measured.
        batch: of every case.
        against: names of peers, or of bare loops; None: all.
        host: the host.
        peers: by name.
    """
    engines = engine_cases(subject, batch, host)
    bare = {case.label.name for case in engines if isinstance(case, BareEngineCase)}
    wanted = (*peers, *bare) if against is None else against
    kept = [case for case in engines if case.label.name not in bare or case.label.name in wanted]
    first: list[Case] = []
    others: list[Case] = []
    for name in dict.fromkeys(wanted):
        if name in peers:
            (first if name == "eager" else others).extend(peers[name](subject, batch, host))
        elif name not in bare:
            label = _label(name, batch, WITHOUT_TRANSFERS, subject.bundle.manifest.variants[0])
            lacks_engine = name.partition("-")[0] == "tensorrt"
            why = (
                "no engine of the bundle for it runs here" if lacks_engine else "it runs on a host without a GPU alone"
            )
            others.append(MissingCase(label, why))
    return [*first, *kept, *others]
