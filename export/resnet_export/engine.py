"""Engines: what TensorRT or TensorRT-RTX compiles a variant's ONNX file to.

Nothing here needs torch or onnx: an engine can be added to a bundle on the host that will run it. The network is
always strongly typed, so that the file alone says what is computed in which type, and the parsed network is compared
with what the variant promises: a convolution that lost its type on the way is an error, never a slower engine.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from resnet_runtime.backends.tensorrt.cuda import DeviceInfo
from resnet_runtime.backends.tensorrt.library import Library
from resnet_runtime.manifest import Batch

from .errors import EngineError
from .timing_cache import timing_cache

Told = Callable[[int, int, str], None]
"""Steps done, steps in all, and the phase."""


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """How engines are built.

    Attributes:
        capabilities: compute capabilities that a portable engine has to run on, such as ``8.6``; none: the library's
            default.
        level: the builder's optimization level, 0 to 5; None: its default.
        workspace: bytes that one layer may use while it is tuned and run; None: all of the device's.
        version_compatible: whether newer libraries of the same major version may run it.
        hardware_compatible: whether GPUs of other architectures, from Ampere on, may run it.
    """

    capabilities: tuple[str, ...] = ()
    level: int | None = None
    workspace: int | None = None
    version_compatible: bool = False
    hardware_compatible: bool = False


@dataclass(frozen=True, kw_only=True)
class EngineRequest:
    """What one engine is built from.

    Attributes:
        name: of the variant, for messages.
        model: the bytes of its ONNX file.
        precision: ``fp32``, ``fp16`` or ``int8``: what its convolutions compute in.
        kept: names of the convolutions that do not.
        input: name of the input, and its shape without the batch axis.
        profiles: batch sizes that it is tuned for, one optimization profile each, from 1.
    """

    name: str
    model: bytes
    precision: str
    kept: frozenset[str]
    input: tuple[str, tuple[int, ...]]
    profiles: tuple[Batch, ...]


@dataclass(frozen=True)
class BuiltEngine:
    """An engine's bytes, and what was seen of it.

    Attributes:
        data: what ``Runtime.deserialize_cuda_engine`` takes.
        nodes: names of the parsed network's convolutions.
        messages: warnings: of the timing cache, and the library's own.
    """

    data: bytes
    nodes: tuple[str, ...]
    messages: tuple[str, ...] = field(default=())

    @property
    def convolutions(self) -> int:
        """How many the parsed network had."""
        return len(self.nodes)


@dataclass(frozen=True)
class ParsedConvolution:
    """A convolution of the parsed network.

    Attributes:
        name: of the ONNX node.
        inputs: for the input and the weights, the kind of the layer that makes it and the type of what that reads;
            ``("CONSTANT", type)`` for weights that the layer holds itself.
        types: of its input and its output.
    """

    name: str
    inputs: tuple[tuple[str, str], tuple[str, str]]
    types: tuple[str, str]

    @property
    def precision(self) -> str:
        """``int8`` where input and weights are dequantized INT8 tensors, else the type that goes in and out."""
        if self.inputs == (("DEQUANTIZE", "INT8"), ("DEQUANTIZE", "INT8")):
            return "int8"
        return {"HALF": "fp16", "FLOAT": "fp32", "BF16": "bf16"}.get(self.types[0], self.types[0].lower())


def engine_from_request(
    request: EngineRequest,
    library: Library,
    options: EngineOptions,
    told: Told | None = None,
    stop: threading.Event | None = None,
    device: DeviceInfo | None = None,
    timings: Path | None = None,
) -> BuiltEngine:
    """Parse, compare with what is promised, and build.

    Args:
        request: what of.
        library: what with.
        options: how.
        told: of how far the build is; what it raises stops the build.
        stop: set from another thread, it stops the build.
        device: that TensorRT builds on, so that what it measures there is kept for the next build; None: it is not.
        timings: folder to keep that in; the user's cache folder if not given.

    Raises:
        EngineError: the parser refused the file, a convolution is not what the variant promises, or the build failed
            or was stopped.
        UnavailableError: the library does not know a compute capability.
    """
    module, messages = library.module, list[str]()
    logger = library.logger(messages)
    builder = _builder(library, logger, messages)
    network = library.network(builder)
    parser = module.OnnxParser(network, logger)
    _parse(request, parser, messages)
    convolutions = parsed_convolutions(network, module)
    _compare(request, convolutions)
    config = builder.create_builder_config()
    _configure(config, request, options, library, builder)
    raised: list[BaseException] = []
    monitor = _monitor_class(module)(told or (lambda done, total, phase: None), stop or threading.Event(), raised)
    config.progress_monitor = monitor
    notes = list[str]()
    with timing_cache(library, config, device, notes.append, timings):
        data = builder.build_serialized_network(network, config)
    if raised:
        raise raised[0]
    if stop is not None and stop.is_set():
        raise EngineError(f"the build of {request.name} was stopped")
    if data is None:
        raise EngineError(
            f"{library.name} {library.version} could not build {request.name}: {_last_error(messages)}",
            details=_errors(messages),
        )
    return BuiltEngine(bytes(data), tuple(item.name for item in convolutions), tuple(dict.fromkeys(notes + messages)))


def parsed_convolutions(network: Any, module: Any) -> tuple[ParsedConvolution, ...]:
    """What the convolutions of a parsed network read, in its order.

    Args:
        network: an ``INetworkDefinition``.
        module: ``tensorrt`` or ``tensorrt_rtx``.
    """
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    makers = {layer.get_output(index).name: layer for layer in layers for index in range(layer.num_outputs)}

    def origin(layer: Any, index: int) -> tuple[str, str]:
        tensor = layer.get_input(index) if index < layer.num_inputs else None
        if tensor is None:
            return ("CONSTANT", layer.get_output(0).dtype.name)  # weights that the layer holds itself
        maker = makers.get(tensor.name)
        if maker is None:
            return ("INPUT", tensor.dtype.name)
        return (maker.type.name, (maker.get_input(0) if maker.num_inputs else tensor).dtype.name)

    return tuple(
        ParsedConvolution(
            str(layer.name),
            (origin(layer, 0), origin(layer, 1)),
            (layer.get_input(0).dtype.name, layer.get_output(0).dtype.name),
        )
        for layer in layers
        if layer.type == module.LayerType.CONVOLUTION
    )


def _builder(library: Library, logger: Any, messages: list[str]) -> Any:
    """TensorRT's own error where there is no GPU or no driver is a TypeError about a null pointer."""
    try:
        return library.module.Builder(logger)
    except Exception as error:
        if library.portable:
            raise EngineError(f"{library.name} {library.version} has no builder: {error}", details=messages) from error
        raise EngineError(
            f"{library.name} builds engines on the GPU that will run them, and there is none that it can use here: "
            "build on that host, or take --engine tensorrt-rtx",
            details=_errors(messages),
        ) from error


def _parse(request: EngineRequest, parser: Any, messages: list[str]) -> None:
    if parser.parse(request.model):
        return
    found = [_parser_error(parser.get_error(index)) for index in range(parser.num_errors)]
    more = f" and {len(found) - 1} more" if len(found) > 1 else ""
    first = found[0] if found else _last_error(messages)
    raise EngineError(f"the parser refuses {request.name}: {first}{more}", details=found[1:])


def _parser_error(error: Any) -> str:
    name, operator = error.node_name(), error.node_operator()
    where = f"{operator} {name!r}" if name or operator else "the file"
    return f"{where}: {error.desc().strip()}"


def _compare(request: EngineRequest, convolutions: Iterable[ParsedConvolution]) -> None:
    """Every convolution that is not listed as kept computes in the variant's precision."""
    found = {item.name: item for item in convolutions}
    wrong = [
        f"{name}: {item.precision}, its input by {item.inputs[0][0]} of {item.inputs[0][1]}, its weights by "
        f"{item.inputs[1][0]} of {item.inputs[1][1]}"
        for name, item in found.items()
        if item.precision != request.precision and name not in request.kept
    ]
    if wrong:
        raise EngineError(
            f"{len(wrong)} of {len(found)} convolutions of {request.name} are not {request.precision} in the parsed "
            "network, and are not listed as kept higher",
            details=wrong,
        )


def _configure(config: Any, request: EngineRequest, options: EngineOptions, library: Library, builder: Any) -> None:
    module = library.module
    config.profiling_verbosity = module.ProfilingVerbosity.DETAILED  # else the engine inspector tells names alone
    if options.capabilities:
        library.set_capabilities(config, options.capabilities)
    if options.level is not None:
        config.builder_optimization_level = options.level
    if options.workspace is not None:
        config.set_memory_pool_limit(module.MemoryPoolType.WORKSPACE, options.workspace)
    if options.version_compatible:
        config.set_flag(module.BuilderFlag.VERSION_COMPATIBLE)
    if options.hardware_compatible:
        config.hardware_compatibility_level = module.HardwareCompatibilityLevel.AMPERE_PLUS
    name, shape = request.input
    for batch in request.profiles:
        profile = builder.create_optimization_profile()
        sizes = (batch.smallest, batch.optimal, batch.largest)
        profile.set_shape(name, *((size, *shape) for size in sizes))
        if config.add_optimization_profile(profile) < 0:
            raise EngineError(f"{library.name} refuses the batch sizes {','.join(map(str, sizes))} of {request.name}")


def _errors(messages: list[str]) -> list[str]:
    return [text for text in messages if not text.startswith("warning")]


def _last_error(messages: list[str]) -> str:
    return next(reversed(_errors(messages)), "it gave no reason")


@functools.cache
def _monitor_class(module: Any) -> Any:
    """An ``IProgressMonitor`` that tells of the outermost phase, and stops where that raises or it is asked to."""

    class Monitor(module.IProgressMonitor):  # type: ignore[misc]
        def __init__(self, told: Told, stop: threading.Event, raised: list[BaseException]) -> None:
            module.IProgressMonitor.__init__(self)
            self._told = told
            self._stop = stop
            self._raised = raised
            self._outermost: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if not parent_phase:
                self._outermost[phase_name] = num_steps

        def phase_finish(self, phase_name: str) -> None:
            self._outermost.pop(phase_name, None)

        def step_complete(self, phase_name: str, step: int) -> bool:
            """An exception must not go through TensorRT's frames: it is kept, and the build is told to stop."""
            if self._stop.is_set() or self._raised:
                return False
            try:
                if phase_name in self._outermost:
                    self._told(step + 1, self._outermost[phase_name], phase_name)
            except BaseException as error:
                self._raised.append(error)
                return False
            return True

    return Monitor
