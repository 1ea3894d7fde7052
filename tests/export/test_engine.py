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

import pytest

from resnet_export.engine import EngineOptions, EngineRequest, engine_from_request
from resnet_export.errors import EngineError
from resnet_export.graph import Graph
from resnet_export.observe import observation_from_graph
from resnet_export.passes.to_fp16 import Fp16Options, to_fp16
from resnet_runtime.backends.tensorrt.library import Library, library_named
from resnet_runtime.errors import UnavailableError
from resnet_runtime.manifest import Batch
from tests.export.int8_graphs import SIDE, folded, images, quantized

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt-rtx-cu13 is not installed: x86-64 Linux alone"
)

BATCH = Batch(smallest=1, optimal=4, largest=8)


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


def request(graph: Graph, precision: str, **changes: object) -> EngineRequest:
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
    assert built.convolutions == len(list(graph.nodes("Conv")))
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
