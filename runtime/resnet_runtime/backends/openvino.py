"""OpenVINO on the CPU: static shapes, and the precision always explicit and always looked at.

OpenVINO takes INFERENCE_PRECISION_HINT as a wish: on a CPU without FP16 arithmetic it computes an "f16" model in FP32
and says so only in a property. So every precision is shown on a small convolution before it is offered (``facts``),
and a compiled graph is looked at before it is used, or kept for a later process.
"""

from __future__ import annotations

import functools
import io
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from resnet_runtime.errors import BackendError, ClosedError, UnavailableError, lines_of

from .base import (
    EMULATED,
    LATENCY,
    NATIVE,
    THROUGHPUT,
    Arrays,
    BackendFacts,
    Model,
    OpenOptions,
    Pending,
    Signature,
    bytes_of,
    refuse_stream,
)
from .compiled_cache import CompiledCache
from .cores import quota_in_cores
from .instructions import host_instructions
from .kept_facts import cpu_digest, forget, kept_or_shown
from .openvino_import import openvino_without_conversion
from .openvino_requests import Compiled
from .quantized_probe import QUANTIZED_CONVOLUTION

HINTS: Final = {"fp32": "f32", "bf16": "bf16", "fp16": "f16", "int8": "f32"}
"""INFERENCE_PRECISION_HINT. It is of what is not quantized: what an int8 graph leaves is FP32, and never BF16."""

LEFT_BEHIND: Final = (
    "OpenVINO's threads are in the process that this one was forked from: fork before the first bundle is loaded, or "
    "spawn the process"
)
"""Of a process that was forked after OpenVINO began in its parent: what is loaded there may wait for ever for a lock
that a thread of the parent's held when it was copied."""

_begun: list[bool] = []
_left_behind: list[bool] = []

_INTEGERS: Final = ("i8", "u8")
_MAX_COMPILED: Final = 4
_AS_USUAL: Final = OpenOptions()


@functools.cache
def facts() -> BackendFacts:
    """Which precisions this CPU computes, each shown on a convolution, now or to an earlier process on such a host."""
    if _left_behind:
        return BackendFacts("openvino", None, LEFT_BEHIND)
    return kept_or_shown("openvino", ("openvino",), _shown)


def _shown() -> tuple[BackendFacts, bool]:
    """And whether all of it could be tried."""
    found = shown_facts()
    return found, found.missing is None and _computes_integers() is not None


def shown_facts() -> BackendFacts:
    """Which precisions this CPU computes, each shown on a convolution whose result tells them apart."""
    try:
        listed = _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    except ImportError:
        return BackendFacts("openvino", None, "openvino is not installed here: pip install 'resnet-export[openvino]'")
    except RuntimeError as error:
        return BackendFacts("openvino", None, f"openvino finds no usable CPU device here: {lines_of(error)[-1]}")
    shown = {
        precision: NATIVE if precision.upper() in listed else EMULATED for precision in HINTS if computes_in(precision)
    }
    import importlib.metadata

    version = importlib.metadata.version("openvino")
    return BackendFacts("openvino", version, precisions=shown, instructions=host_instructions())


def computes_in(precision: str) -> bool:
    """Whether OpenVINO, asked for ``precision``, computes in it, shown on a convolution."""
    return bool(_computes_integers()) if precision == "int8" else _rounds_to(precision)


def _computes_integers() -> bool | None:
    """Whether a quantized convolution is an integer one in the graph that OpenVINO executes.

    Its answer would not tell: FP32 holds every sum of so few products exactly. None: it could not be tried.
    """
    try:
        compiled = _core().compile_model(_core().read_model(QUANTIZED_CONVOLUTION), "CPU", _config("int8", LATENCY))
    except RuntimeError:  # a build without the ONNX reader, or no memory
        return None
    types = [found for _, _, found in _convolutions(compiled)]
    return bool(types) and all(found in _INTEGERS for found in types)


def _rounds_to(precision: str) -> bool:
    """Whether OpenVINO, asked for ``precision``, rounds to it: 100 * 300 * 8 is over FP16's range, and BF16 keeps 8
    bits.

    The second convolution brings the value back into every range, so that only the value between the two tells.
    """
    import openvino
    from openvino import opset8 as ops

    data = ops.parameter([1, 8, 4, 4], np.float32, name="input")
    up = ops.constant(np.full((8, 8, 1, 1), 300, np.float32))
    down = ops.constant((np.eye(8, dtype=np.float32) / 301)[:, :, None, None])
    unit: list[int] = [1, 1]
    none: list[int] = [0, 0]
    middle = ops.convolution(data, up, unit, none, none, unit)
    result = ops.convolution(middle, down, unit, none, none, unit)
    compiled = _core().compile_model(openvino.Model([result], [data], "probe"), "CPU", _config(precision, LATENCY))
    answer = float(np.ravel(compiled(np.full((1, 8, 4, 4), 100, np.float32))[0])[0])
    exact = 8 * 100 * 300 / 301
    relative = abs(answer - exact) / exact
    if precision == "fp16":
        return not np.isfinite(answer)
    if precision == "bf16":
        return 1e-4 < relative < 0.03
    return relative < 1e-5


def open_backend(
    model: Model, signature: Signature, precision: str, options: OpenOptions = _AS_USUAL
) -> OpenVINOBackend:
    """Load the bytes of an ONNX file; see ``OpenVINOBackend``."""
    return OpenVINOBackend(model, signature, precision, options)


class OpenVINOBackend:
    """A graph in OpenVINO, compiled for each batch size of a small set when that is first used.

    Args:
        model: an ONNX file, or its bytes.
        signature: what the graph takes and gives.
        precision: fp32, bf16, fp16 or int8.
        options: how; the nodes that are kept are those that an int8 graph computes in FP32 on purpose.

    Raises:
        UnavailableError: this CPU does not compute in that precision.
        BackendError: OpenVINO refuses the graph.
    """

    def __init__(self, model: Model, signature: Signature, precision: str, options: OpenOptions = _AS_USUAL) -> None:
        if (missing := facts().missing) is not None:
            raise UnavailableError(missing)
        if precision not in facts().precisions:
            raise UnavailableError(
                f"OpenVINO does not compute {precision} on this CPU, it would compute the graph in another precision: "
                f"take one of {', '.join(facts().precisions)}"
            )
        self.signature = signature
        self._precision = precision
        self._options = options
        self._config = _config(precision, options.intent, options.threads)
        self._lock = threading.Lock()
        self._compiled: OrderedDict[int, Compiled] = OrderedDict()
        self._store = (
            None
            if options.kept_as is None
            else _Store(options.kept_as, precision, self._config, options.kept, signature)
        )
        self._streams: int | None = None
        self._data: Model | None = model
        self._model: Any = None
        kept = self._kept_and_verified(model)
        if kept is None:
            self._read()
        else:
            self._compiled[signature.smallest_batch] = kept
        kind = "" if facts().precisions[precision] == NATIVE else ", emulated"
        intent = ", for throughput" if options.intent == THROUGHPUT else ""
        self.description = f"OpenVINO {facts().version}, {precision}{kind}{intent}"
        self._closed = False

    @property
    def calls_at_once(self) -> int:
        """The streams of the compiled graph: one for latency."""
        if self._options.intent == LATENCY:
            return 1
        if self._streams is None:
            with self._lock:
                some = next(reversed(self._compiled.values()), None)
            some = some or self._compiled_for(self.signature.smallest_batch)
            self._streams = int(some.model.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
        return self._streams

    def start(self, inputs: Arrays, outputs: Arrays | None = None, stream: object | None = None) -> Pending:
        """See ``Backend.start``. The batch is padded with zeros up to the next size that is compiled."""
        refuse_stream(stream, "openvino")
        batch = inputs[self.signature.input.name]
        count = len(batch)
        size = self._size_for(count)
        compiled = self._compiled_for(size)
        if size != count:
            padded = np.zeros((size, *batch.shape[1:]), batch.dtype)
            padded[:count] = batch
            batch = padded
        elif not batch.flags.writeable:
            batch = batch.copy()  # OpenVINO shares no memory that it could not write to
        return compiled.start(batch, count, outputs)

    def close(self) -> None:
        """Free the compiled graphs once their last calls are done."""
        with self._lock:
            self._closed = True
            self._compiled.clear()
            self._model = self._data = None

    def _size_for(self, count: int) -> int:
        size = self.signature.smallest_batch
        while size < count:
            size *= 2
        return min(size, self.signature.largest_batch)

    def _compiled_for(self, size: int) -> Compiled:
        with self._lock:
            if self._closed:
                raise ClosedError("the backend was closed: load the bundle again")
            compiled = self._compiled.get(size)
            if compiled is None:
                compiled = self._compiled[size] = self._compile(size)
                while len(self._compiled) > _MAX_COMPILED:
                    self._compiled.popitem(last=False)
            self._compiled.move_to_end(size)
            return compiled

    def _kept_and_verified(self, model: Model) -> Compiled | None:
        """What an earlier process compiled for the smallest batch, of a file that is still the one that was listed.

        Both are read and hashed while the library is being imported.
        """
        if self._store is None:
            _check_importable()
            return None
        size, shape = self.signature.smallest_batch, self.signature.input.shape
        with ThreadPoolExecutor(2) as pool:
            reading = pool.submit(self._store.read, size, shape)
            verifying = None if isinstance(model, bytes) else pool.submit(model.verify)
            _check_importable()
        if verifying is not None:
            verifying.result()
        return self._store.imported(reading.result())

    def _read(self) -> Any:
        if self._model is None:
            assert self._data is not None
            try:
                self._model = _core().read_model(bytes_of(self._data))
            except RuntimeError as error:
                raise BackendError(f"OpenVINO cannot read the {self._precision} graph: {lines_of(error)[-1]}") from None
            self._data = None
        return self._model

    def _compile(self, size: int) -> Compiled:
        if self._store is not None:
            kept = self._store.imported(self._store.read(size, self.signature.input.shape))
            if kept is not None:
                return kept
        model = self._read().clone()
        try:
            model.reshape([size, *self.signature.input.shape])
            compiled = Compiled(_core().compile_model(model, "CPU", self._config), self.signature)
        except RuntimeError as error:
            raise BackendError(
                f"OpenVINO cannot compile the {self._precision} graph for batches of {size}: {lines_of(error)[-1]}"
            ) from None
        _refuse_other_precision(compiled.model, self._precision, self._options.kept)
        if self._store is not None:
            self._store.keep(compiled.model, size, self.signature.input.shape)
        return compiled


class _Store:
    """The compiled graphs of one model in the user's cache folder. Only what was seen to compute as asked is kept."""

    def __init__(
        self, digest: str, precision: str, config: dict[str, Any], kept: frozenset[str], signature: Signature
    ) -> None:
        self._config = config
        self._signature = signature
        self._cache = None if cpu_digest() is None else CompiledCache("openvino")
        self._depends_on: dict[str, object] = {
            "model": digest,
            "precision": precision,
            "version": facts().version,
            "cpu": cpu_digest(),
            "config": config,
            "kept": sorted(kept),
        }

    def read(self, size: int, shape: tuple[int, ...]) -> NDArray[np.uint8] | None:
        """The file of one batch size; None where there is none that is whole. The library need not be imported."""
        return None if self._cache is None else self._cache.load(self._cache.path(self._about(size, shape)))

    def imported(self, data: NDArray[np.uint8] | None) -> Compiled | None:
        """The compiled graph; None where it has to be made."""
        if data is None:
            return None
        import openvino

        try:
            found = _core().import_model(openvino.Tensor(data, shared_memory=True), "CPU", self._config)
        except RuntimeError:  # it is what was written, and still not what this build takes
            return None
        return Compiled(found, self._signature, data)

    def keep(self, compiled: Any, size: int, shape: tuple[int, ...]) -> None:
        """Write it."""
        if self._cache is None:
            return
        try:
            exported: io.BytesIO = compiled.export_model()
        except RuntimeError:  # it costs the next process its time
            return
        self._cache.store(self._cache.path(self._about(size, shape)), exported.getvalue())

    def _about(self, size: int, shape: tuple[int, ...]) -> dict[str, object]:
        return {**self._depends_on, "shape": [size, *shape]}


@functools.cache
def _core() -> Any:
    _begun.append(True)  # first: a process that is forked meanwhile has the half of it
    try:
        return openvino_without_conversion().Core()
    except ImportError:
        _begun.clear()
        raise


def _after_a_fork() -> None:
    """In the child."""
    if _begun:
        _left_behind.append(True)
        facts.cache_clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_a_fork)


def _check_importable() -> None:
    """Facts that were kept are older than the library's last update."""
    try:
        _core()
    except (ImportError, RuntimeError) as error:
        facts.cache_clear()
        forget("openvino")
        hint = "install it anew with pip install 'resnet-export[openvino]'"
        raise UnavailableError(f"openvino cannot be imported: {lines_of(error)[-1]}; {hint}") from error


def _config(precision: str, intent: str, threads: int | None = None) -> dict[str, Any]:
    """OpenVINO's own hint decides on threads and streams, within ``threads``; it is told of a quota, which it does not
    see."""
    found: dict[str, Any] = {"INFERENCE_PRECISION_HINT": HINTS[precision], "PERFORMANCE_HINT": intent.upper()}
    limit = threads or quota_in_cores()
    if limit is not None:
        found["INFERENCE_NUM_THREADS"] = limit
    return found


def _refuse_other_precision(compiled: Any, precision: str, kept: frozenset[str]) -> None:
    """Raise UnavailableError where a convolution of the compiled graph computes in another type than asked for."""
    wanted = _INTEGERS if precision == "int8" else (HINTS[precision],)
    for name, originals, found in _convolutions(compiled):
        if found not in wanted and not (found == "f32" and _may_be_float(precision, originals & kept)):
            raise UnavailableError(
                f"OpenVINO computes {name} in {found} where {precision} was asked for: take --precision fp32"
            )


def _may_be_float(precision: str, kept: frozenset[str]) -> bool:
    """In an fp16 graph the layers that the exporter kept higher are FP32 on purpose; of an int8 graph it lists them."""
    return precision == "fp16" or (precision == "int8" and bool(kept))


def _convolutions(compiled: Any) -> Iterator[tuple[str, frozenset[str], str]]:
    """Of each convolution that is executed: its name, the names of the ONNX nodes in it, and the type it computes in.

    OpenVINO takes a Conv's bias away and adds it again, so that ``layer1.0.conv1`` is executed as
    ``layer1.0.conv1/WithoutBiases``; its own name, and those of the nodes that were fused after it, stand in
    ``originalLayersNames``, which is a comma-separated list.
    """
    for node in compiled.get_runtime_model().get_ordered_ops():
        info = node.get_rt_info()
        if "layerType" in info and str(info["layerType"].astype(str)) == "Convolution":
            originals = frozenset(str(info["originalLayersNames"].astype(str)).split(","))
            name = node.get_friendly_name().removesuffix("/WithoutBiases")
            yield name, originals, str(info["runtimePrecision"].astype(str))
