"""The GPU's cases: the runtime's and the bare loop on the simulated device."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from resnet_bench.cases import WITH_TRANSFERS, WITHOUT_TRANSFERS, Label, Subject
from resnet_bench.gpu_cases import EngineSource, engine_cases, gpu_cases, profile_of
from resnet_bench.gpu_peers import BARE, GPU_PEERS, OnnxRuntimeCudaCase
from resnet_bench.speed import FAILED, MEASURED
from resnet_bench.speed_figures import DEVICE, compared_with_yardstick
from resnet_runtime.backends.tensorrt.cuda import Event, Graph, Memory, Pinned, Stream
from resnet_runtime.bundle import Bundle
from resnet_runtime.errors import UnavailableError
from tests.bench.simulated_gpu import (
    SimulatedGpu,
    engine_of,
    measured,
    only,
    subject_of,
)
from tests.runtime.bundles import color_means, record, write_sample


@pytest.mark.parametrize("batch", [1, 3])
def test_the_runtime_and_the_bare_loop_on_an_engine(tmp_path: Path, batch: int) -> None:
    host = SimulatedGpu()
    subject = subject_of(tmp_path, engine_of("tensorrt", "10.9"))
    rows = measured(subject, engine_cases(subject, batch, host), host)
    assert [(row.label.name, row.label.timed, row.state, row.reason) for row in rows] == [
        ("runtime-tensorrt-fp32", WITH_TRANSFERS, MEASURED, None),
        ("runtime-tensorrt-fp32-without-graphs", WITH_TRANSFERS, MEASURED, None),
        ("runtime-tensorrt-fp32", WITHOUT_TRANSFERS, MEASURED, None),
        ("tensorrt", WITHOUT_TRANSFERS, MEASURED, None),
    ]
    assert all(row.parity is not None and row.parity.max_error < 1e-6 for row in rows)
    assert [row.device for row in rows[:2]] == [[], []], "each call waits"
    assert rows[3].device == [1.0] * 3, "a computation a call, and nothing else"
    assert rows[2].device == [1.0] * 3
    compared = compared_with_yardstick(rows[2], rows, DEVICE)
    assert compared is not None
    assert (compared.name, compared.ratio.median) == ("tensorrt", 1.0)
    assert rows[1].description == "tensorrt 10.9 on Simulated GPU, fp32, no CUDA graphs"


def test_graphs_are_on_in_one_row_and_off_in_the_other(tmp_path: Path) -> None:
    host = SimulatedGpu()
    subject = subject_of(tmp_path, engine_of("tensorrt", "10.9"))
    with_graphs, without = engine_cases(subject, 2, host)[:2]
    measured(subject, [without], host)
    assert host.simulated.launched == 0
    measured(subject, [with_graphs], host)
    assert host.simulated.launched > 0


def test_everything_is_given_back(tmp_path: Path) -> None:
    host = SimulatedGpu()
    subject = subject_of(tmp_path, engine_of("tensorrt", "10.9"))
    measured(subject, engine_cases(subject, 2, host), host)
    assert host.simulated.closed == 4
    with host.simulated.current():
        host.made.free()
    assert [host.simulated.alive(kind) for kind in (Memory, Pinned, Event, Stream, Graph)] == [0] * 5


def test_tensorrt_rtx_captures_its_graphs_itself_but_in_the_row_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    host = SimulatedGpu("tensorrt-rtx", "1.7")
    subject = subject_of(tmp_path, engine_of("tensorrt-rtx", "1.7"))
    rows = measured(subject, engine_cases(subject, 2, host), host)
    assert {row.state for row in rows} == {MEASURED}
    assert host.strategies == ["whole graph", "disabled", "whole graph", "whole graph"]


def test_wrong_answers_of_an_engine_are_failed_rows(tmp_path: Path) -> None:
    host = SimulatedGpu(function=lambda images: {"logits": color_means(images)["logits"] * np.float32(1.01)})
    subject = subject_of(tmp_path, engine_of("tensorrt", "10.9"))
    rows = measured(subject, engine_cases(subject, 2, host), host)
    assert [row.state for row in rows] == [FAILED] * 4
    assert all(row.reason and row.reason.startswith("its answers are wrong") for row in rows)


def test_an_engine_that_cannot_be_loaded_is_a_failed_row_and_the_context_is_released(tmp_path: Path) -> None:
    host = SimulatedGpu()
    damaged = dataclasses.replace(engine_of("tensorrt", "10.9"), file=record("engines/a.engine", b"damage"))
    files = {"engines/a.engine": b"damage"}
    bundle = Bundle.open(write_sample(tmp_path / "a.bundle", engines=(damaged,), files=files))
    subject = Subject(bundle=bundle, check=bundle.check_data())
    rows = measured(subject, engine_cases(subject, 2, host), host)
    assert [row.state for row in rows] == [FAILED] * 4
    assert all(row.reason and "it is damaged" in row.reason for row in rows)
    assert host.simulated.closed == 4


def test_what_has_no_engine_that_runs_here_says_why(tmp_path: Path) -> None:
    host = SimulatedGpu()
    name, said = only(engine_cases(subject_of(tmp_path / "none"), 1, host))
    assert name == "runtime-tensorrt-fp32"
    assert (
        said
        == "no engine in the bundle: resnet-export BUNDLE --engine tensorrt --engine-precision fp32 builds one here"
    )
    other = subject_of(tmp_path / "other", engine_of("tensorrt", "10.8"))
    assert "was built by TensorRT 10.8" in only(engine_cases(other, 1, host))[1]
    small = subject_of(tmp_path / "small", engine_of("tensorrt", "10.9"))
    assert only(engine_cases(small, 128, host))[1] == (
        "the engine fp32-tensorrt takes batches of 1 to 1, 1 to 4: build one with --batch MIN,OPT,MAX"
    )


def test_the_profile_is_the_one_that_the_runtime_takes() -> None:
    engine = engine_of("tensorrt", "10.9")
    assert [profile_of(engine, batch) for batch in (1, 2, 4, 5)] == [0, 1, 1, None]


def test_against_chooses_the_peers_and_the_bare_loops(tmp_path: Path) -> None:
    host = SimulatedGpu()
    subject = subject_of(tmp_path, engine_of("tensorrt", "10.9"))

    def names(against: tuple[str, ...] | None) -> list[str]:
        return list(dict.fromkeys(case.label.name for case in gpu_cases(subject, 1, against, host, GPU_PEERS)))

    runtime = ["runtime-tensorrt-fp32", "runtime-tensorrt-fp32-without-graphs"]
    assert names(()) == runtime
    assert names(("tensorrt",)) == [*runtime, "tensorrt"]
    assert names(("graphed-fp16", "eager")) == ["eager", *runtime, "graphed-fp16"]
    assert names(None) == ["eager", *runtime, "tensorrt", *(name for name in GPU_PEERS if name != "eager")]
    assert {"tensorrt"} <= set(BARE)
    missing = gpu_cases(subject, 1, ("tensorrt-int8", "openvino"), host, GPU_PEERS)[-2:]
    assert [only([case]) for case in missing] == [
        ("tensorrt-int8", "no engine of the bundle for it runs here"),
        ("openvino", "it runs on a host without a GPU alone"),
    ]


def test_a_case_that_never_opened_can_be_closed(tmp_path: Path) -> None:
    subject, host = subject_of(tmp_path, engine_of("tensorrt", "10.9")), SimulatedGpu()
    variant = subject.bundle.manifest.variants[0]
    label = Label(name="a", batch=1, timed=WITHOUT_TRANSFERS, limits=variant.gate.limits)
    for case in (*engine_cases(subject, 1, host), OnnxRuntimeCudaCase(label, subject.bundle, variant, host)):
        case.close()
    assert host.simulated.closed == 0


def test_a_source_is_closed_where_its_library_refuses_the_engine(tmp_path: Path) -> None:
    host = SimulatedGpu()
    subject = subject_of(tmp_path, engine_of("tensorrt", "10.8"))
    source = EngineSource(
        bundle=subject.bundle, variant=subject.bundle.manifest.variants[0],
        engine=subject.bundle.manifest.engines[0], host=host,
    )  # fmt: skip
    with pytest.raises(UnavailableError, match=r"was built by TensorRT 10\.8"):
        source.backend(graphs=True)
    assert host.simulated.closed == 1
