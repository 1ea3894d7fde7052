"""Engines that TensorRT-RTX builds, which needs no GPU: what goes in, what is refused, what is promised."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from resnet_export.engine import EngineOptions, EngineRequest, engine_from_request
from resnet_export.errors import EngineError
from resnet_export.graph import Graph
from resnet_export.observe import observation_from_graph
from resnet_export.passes.to_fp16 import Fp16Options, to_fp16
from resnet_export.timing_cache import timing_file, timings_from_file
from resnet_runtime.backends.tensorrt.cuda import DeviceInfo
from resnet_runtime.backends.tensorrt.library import Library, library_named
from resnet_runtime.errors import UnavailableError
from resnet_runtime.manifest import Batch
from tests.export.int8_graphs import SIDE, folded, images, quantized

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt-rtx-cu13 is not installed: x86-64 Linux alone"
)

BATCH = Batch(smallest=1, optimal=4, largest=8)
DEVICE = DeviceInfo("Simulated GPU", "8.6", "13.0")


@pytest.fixture(scope="module")
def library() -> Library:
    return library_named("tensorrt-rtx")


def half(graph: Graph) -> Graph:
    return to_fp16(graph, observation_from_graph(folded("basic"), images(4)).ranges, Fp16Options()).graph


def graph_in(precision: str) -> Graph:
    graph = folded("basic")
    if precision == "int8":
        return quantized(graph, "tensorrt")
    return half(graph) if precision == "fp16" else graph


def request(graph: Graph, precision: str, **changes: Any) -> EngineRequest:
    made = EngineRequest(
        name=precision,
        model=graph.to_bytes(),
        precision=precision,
        kept=frozenset(),
        input=(graph.input_name, (3, SIDE, SIDE)),
        profiles=(BATCH,),
    )
    return dataclasses.replace(made, **changes)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_each_precision_is_built(library: Library, precision: str) -> None:
    graph = folded("basic")
    graph = {"fp32": lambda: graph, "fp16": lambda: half(graph), "int8": lambda: quantized(graph, "tensorrt")}[
        precision
    ]()
    told: list[tuple[int, int, str]] = []
    built = engine_from_request(
        request(graph, precision),
        library,
        EngineOptions(),
        lambda done, total, phase: told.append((done, total, phase)),
    )
    assert len(built.data) > 1000
    assert built.nodes == tuple(str(node.name) for node in graph.nodes("Conv"))
    assert built.convolutions == len(built.nodes) > 3
    assert told
    assert all(0 < done <= total for done, total, _ in told)


@pytest.mark.parametrize(("made", "promised"), [("fp32", "fp16"), ("fp32", "int8"), ("fp16", "int8"), ("int8", "fp16")])
def test_a_network_that_is_not_what_was_promised_is_refused(library: Library, made: str, promised: str) -> None:
    graph = folded("basic")
    graph = {"fp32": lambda: graph, "fp16": lambda: half(graph), "int8": lambda: quantized(graph, "tensorrt")}[made]()
    count = len(list(graph.nodes("Conv")))
    with pytest.raises(
        EngineError, match=f"{count} of {count} convolutions of {promised} are not {promised}"
    ) as caught:
        engine_from_request(request(graph, promised), library, EngineOptions())
    assert len(caught.value.details) == count
    assert f": {made}, its input by" in caught.value.details[0]


def test_layers_that_are_listed_as_kept_may_be_higher(library: Library) -> None:
    graph = folded("basic")
    kept = str(next(graph.nodes("Conv")).name)
    mixed = quantized(graph, "tensorrt", frozenset({kept}))
    with pytest.raises(EngineError, match="1 of"):
        engine_from_request(request(mixed, "int8"), library, EngineOptions())
    assert engine_from_request(request(mixed, "int8", kept=frozenset({kept})), library, EngineOptions()).data


def test_the_engine_is_made_for_the_capabilities_that_are_named(library: Library) -> None:
    assert {"7.5", "8.6", "8.9"} <= set(library.capabilities)
    assert "7.5" not in library.default_capabilities
    graph = half(folded("basic"))
    for capabilities in (("7.5",), ("8.6", "8.9")):
        assert engine_from_request(request(graph, "fp16"), library, EngineOptions(capabilities=capabilities)).data
    with pytest.raises(UnavailableError, match=r"builds no engines for compute capability 9\.9: it knows 7\.5"):
        engine_from_request(request(graph, "fp16"), library, EngineOptions(capabilities=("8.6", "9.9")))


def test_several_profiles(library: Library) -> None:
    profiles = (Batch(smallest=1, optimal=1, largest=1), Batch(smallest=2, optimal=8, largest=16))
    assert engine_from_request(request(half(folded("basic")), "fp16", profiles=profiles), library, EngineOptions()).data
    wrong = (Batch(smallest=4, optimal=2, largest=1),)
    with pytest.raises(EngineError, match="4,2,1"):
        engine_from_request(request(half(folded("basic")), "fp16", profiles=wrong), library, EngineOptions())


def test_a_node_that_the_parser_does_not_know_is_named(library: Library) -> None:
    data = folded("basic").to_bytes()
    assert data.count(b"\x04Relu") > 1
    unknown = data.replace(b"\x04Relu", b"\x04Rulu", 1)
    with pytest.raises(EngineError, match=r"the parser refuses fp32: Rulu '.*Relu'"):
        engine_from_request(request(folded("basic"), "fp32", model=unknown), library, EngineOptions())
    with pytest.raises(EngineError, match="the parser refuses fp32"):
        engine_from_request(request(folded("basic"), "fp32", model=b"no ONNX file"), library, EngineOptions())


@pytest.mark.filterwarnings("ignore:Use del obj:DeprecationWarning")  # of a builder that Python code inherits from
def test_the_engine_is_built_so_that_its_layers_can_be_inspected(library: Library) -> None:
    module, seen = ModuleType("tensorrt_rtx"), list[Any]()
    builder: Any = library.module.Builder

    class Recorded(builder):  # type: ignore[misc]
        def build_serialized_network(self, network: Any, config: Any) -> Any:
            seen.append(config.profiling_verbosity)
            return super().build_serialized_network(network, config)

    vars(module).update({**vars(library.module), "Builder": Recorded})
    recording = Library(library.name, module)
    assert engine_from_request(request(folded("basic"), "fp32"), recording, EngineOptions()).data
    assert seen == [library.module.ProfilingVerbosity.DETAILED]


@pytest.mark.filterwarnings("ignore:.*no-ops in TensorRT-RTX:DeprecationWarning")
def test_a_library_with_a_timing_cache_keeps_it_and_tells_of_a_damaged_one(library: Library, tmp_path: Path) -> None:
    """TensorRT-RTX under the other name: its cache holds nothing, and goes the way that TensorRT's goes."""
    tensorrt = Library("tensorrt", library.module)
    path = timing_file(tmp_path, tensorrt, DEVICE)
    arguments = (request(folded("basic"), "fp32"), tensorrt, EngineOptions())

    def damaged() -> list[str]:
        messages = engine_from_request(*arguments, device=DEVICE, timings=tmp_path).messages
        assert timings_from_file(path.read_bytes())
        return [text for text in messages if str(path) in text]

    assert damaged() == []
    path.write_bytes(b"half a f")
    (warning,) = damaged()
    assert "is damaged and is made anew: it ends after 8 bytes" in warning
    assert damaged() == []


def test_without_a_device_or_a_timing_cache_nothing_is_kept(library: Library, tmp_path: Path) -> None:
    tensorrt = Library("tensorrt", library.module)
    for other, device in ((library, DEVICE), (tensorrt, None)):
        built = engine_from_request(
            request(folded("basic"), "fp32"), other, EngineOptions(), device=device, timings=tmp_path
        )
        assert built.messages == ()
    assert list(tmp_path.iterdir()) == []


def test_what_the_progress_raises_stops_the_build(library: Library) -> None:
    def full(done: int, total: int, phase: str) -> None:
        raise OSError("the terminal is gone")

    with pytest.raises(OSError, match="the terminal is gone"):
        engine_from_request(request(half(folded("basic")), "fp16"), library, EngineOptions(), full)


def test_a_build_is_stopped_from_another_thread(library: Library) -> None:
    stop = threading.Event()
    with pytest.raises(EngineError, match="the build of fp16 was stopped"):
        engine_from_request(
            request(half(folded("basic")), "fp16"), library, EngineOptions(), lambda *_: stop.set(), stop
        )


def test_what_is_not_installed_is_a_sentence_with_the_command() -> None:
    if importlib.util.find_spec("tensorrt") is not None:
        pytest.skip("tensorrt is installed here")
    with pytest.raises(UnavailableError, match=r"tensorrt is not installed: pip install 'resnet-export\[tensorrt\]'"):
        library_named("tensorrt")


INTERRUPTED = """
import signal, threading, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # it is ignored where the tests run in the background
from resnet_export.engine_stages import _in_a_thread

def work(stop):
    print("at work", flush=True)
    assert stop.wait(60)
    time.sleep(0.2)
    print("stopped", flush=True)

try:
    _in_a_thread(work)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


def test_ctrl_c_stops_the_build_and_waits_for_it() -> None:
    process = subprocess.Popen([sys.executable, "-c", INTERRUPTED], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "at work\n"
    time.sleep(0.2)
    os.kill(process.pid, signal.SIGINT)
    rest, _ = process.communicate(timeout=60)
    assert rest == "stopped\ninterrupted\n"


def test_tensorrt_without_a_gpu_is_a_sentence_with_the_next_command(library: Library) -> None:
    """As TensorRT's own Builder fails there: a TypeError about a null pointer, and the reason in its log."""

    def builder(logger: Any) -> Any:
        logger.log(library.module.ILogger.ERROR, "CUDA initialization failure with error: 35")
        raise TypeError("pybind11::init(): factory function returned nullptr")

    module: Any = ModuleType("tensorrt")
    module.ILogger, module.Builder, module.__version__ = library.module.ILogger, builder, "10.13"
    with pytest.raises(EngineError) as caught:
        engine_from_request(request(folded("basic"), "fp32"), Library("tensorrt", module), EngineOptions())
    assert str(caught.value).startswith(
        "tensorrt builds engines on the GPU that will run them, and there is none that it can use here: "
        "build on that host, or take --engine tensorrt-rtx"
    )
    assert list(caught.value.details) == ["error: CUDA initialization failure with error: 35"]


def test_a_builder_that_is_alive_takes_no_messages_of_the_next_one(library: Library) -> None:
    first: list[str] = []
    alive = library.module.Builder(library.logger(first))
    with pytest.raises(EngineError, match="the parser refuses fp32"):
        engine_from_request(request(folded("basic"), "fp32", model=b"no ONNX file"), library, EngineOptions())
    built = engine_from_request(request(folded("basic"), "fp32"), library, EngineOptions())
    assert not any("logger" in text for text in (*first, *built.messages))
    assert alive is not None
