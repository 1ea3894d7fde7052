"""A session on every backend: what it answers, what it refuses, and what it leaves alone."""

from __future__ import annotations

import gc
import shutil
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import resnet_runtime
from resnet_runtime import BundleError, ClosedError, InputError, Session, UnavailableError
from resnet_runtime.backends.base import Signature, TensorSpec, signature_from_manifest
from resnet_runtime.backends.simulated import SimulatedBackend
from resnet_runtime.bundle import Bundle
from resnet_runtime.manifest import Batch

from .bundles import LABELS, write_sample
from .graphs import answers, colors, write_linear

BACKENDS = ("simulated", "onnxruntime", "openvino")


def loaded(path: Path, backend: str, function: Callable[..., Any] = answers) -> Session:
    """The bundle in a backend, whose precision is the one that all answer exactly in."""
    if backend == "simulated":
        signature = signature_from_manifest(Bundle.open(path).manifest)
        return resnet_runtime.load(path, backend=SimulatedBackend(signature, function))
    return resnet_runtime.load(path, backend=backend, precision="fp32")


def assert_answers(found: dict[str, np.ndarray], batch: np.ndarray) -> None:
    """Bit for bit: every sum is exact (see ``colors``)."""
    expected = answers(batch)
    assert list(found) == ["logits", "colors"]
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, strict=True)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_linear(tmp_path_factory.mktemp("linear") / "linear.bundle")


@pytest.fixture(scope="module", params=BACKENDS)
def session(request: pytest.FixtureRequest, path: Path) -> Iterator[Session]:
    """Shared: batches of 1 to 4 in one call."""
    with loaded(path, request.param) as session:
        yield session


# The largest batch of one call is 4: these are one sample, sizes that are padded, the largest, and what is split.
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 8, 11])
def test_a_batch_of_any_size(session: Session, count: int) -> None:
    batch = colors(count, seed=count)
    assert_answers(session.infer(batch), batch)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("batch", [Batch(smallest=2, optimal=2, largest=2), Batch(smallest=3, optimal=4, largest=7)])
def test_a_smallest_batch_of_more_than_one(tmp_path: Path, backend: str, batch: Batch) -> None:
    with loaded(write_linear(tmp_path / "b", batch=batch), backend) as session:
        for count in (1, 2, 3, 5, 7, 9):
            images = colors(count, seed=count)
            assert_answers(session.infer(images), images)
        one = colors(1)
        assert_answers(session.start(one).result(), one)


@pytest.mark.parametrize("backend", BACKENDS)
def test_bytes_where_the_preprocessing_is_in_the_graph(tmp_path: Path, backend: str) -> None:
    with loaded(write_linear(tmp_path / "b", dtype="uint8"), backend) as session:
        assert session.signature.input == TensorSpec("images", np.dtype("uint8"), (8, 8, 3))
        for count in (1, 3, 6):
            batch = colors(count, dtype="uint8")
            assert_answers(session.infer(batch), batch)
        batch = session.preprocess(list(colors(2, dtype="uint8")))
        assert_answers(session.infer(batch), colors(2, dtype="uint8"))
        with pytest.raises(InputError, match="the batch has the dtype float32, and the model takes uint8"):
            session.infer(batch.astype(np.float32))


def test_a_large_batch_is_split_at_the_largest_size(path: Path) -> None:
    sizes: list[int] = []

    def counted(batch: np.ndarray) -> dict[str, np.ndarray]:
        sizes.append(len(batch))
        return answers(batch)

    with loaded(path, "simulated", counted) as session:
        session.infer(colors(11))
    assert sizes == [4, 4, 3]


NOT_A_BATCH = {
    "a list": ([[1.0]], "the batch is a list, not a numpy array"),
    "None": (None, "the batch is a NoneType, not a numpy array"),
    "no axes": (np.array(1, np.float32), "the batch has the shape (), and the model takes (N, 3, 8, 8)"),
    "one sample": (colors(1)[0], "the batch has the shape (3, 8, 8), and the model takes (N, 3, 8, 8)"),
    "one axis more": (colors(1)[None], "the batch has the shape (1, 1, 3, 8, 8), and the model takes (N, 3, 8, 8)"),
    "NHWC": (
        np.zeros((2, 8, 8, 3), np.float32),
        "the batch has the shape (2, 8, 8, 3), and the model takes (N, 3, 8, 8)",
    ),
    "float64": (
        colors(1).astype(np.float64),
        "the batch has the dtype float64, and the model takes float32: preprocess() makes it, or convert it yourself",
    ),
    "the other byte order": (
        colors(1).astype(">f4"),
        "the batch has the dtype >f4, and the model takes float32: preprocess() makes it, or convert it yourself",
    ),
    "empty": (np.zeros((0, 3, 8, 8), np.float32), "the batch is empty: give at least one sample"),
}


@pytest.mark.parametrize(("batch", "message"), NOT_A_BATCH.values(), ids=NOT_A_BATCH.keys())
def test_what_is_not_a_batch(session: Session, batch: Any, message: str) -> None:
    for call in (session.infer, session.start):
        with pytest.raises(InputError) as caught:
            call(batch)
        assert str(caught.value) == message


def test_start_takes_no_more_than_one_call_does(session: Session) -> None:
    with pytest.raises(InputError) as caught:
        session.start(colors(5))
    assert str(caught.value) == (
        "the batch holds 5 samples, and one call takes 4: split it, or call infer(), which does"
    )


LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "every other sample": lambda batch: np.repeat(batch, 2, axis=0)[::2],
    "backwards": lambda batch: batch[::-1].copy()[::-1],
    "NHWC seen as NCHW": lambda batch: np.moveaxis(np.ascontiguousarray(np.moveaxis(batch, 1, -1)), -1, 1),
    "Fortran's order": np.asfortranarray,
    "a broadcast": lambda batch: np.broadcast_to(batch[:, :, :1, :1], batch.shape),
}


@pytest.mark.parametrize("count", [1, 3, 4, 6])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_an_array_of_any_layout(session: Session, layout: Callable[..., np.ndarray], count: int) -> None:
    batch = layout(colors(count, seed=count))
    assert_answers(session.infer(batch), colors(count, seed=count))
    np.testing.assert_array_equal(batch, colors(count, seed=count), strict=True)


@pytest.mark.parametrize("count", [1, 3, 4, 6])
def test_a_read_only_array(session: Session, count: int) -> None:
    batch = colors(count)
    batch.flags.writeable = False
    assert_answers(session.infer(batch), colors(count))
    np.testing.assert_array_equal(batch, colors(count), strict=True)


@pytest.mark.parametrize("count", [3, 4])
def test_an_answer_is_not_touched_by_the_next_call(session: Session, count: int) -> None:
    first, second = colors(count, seed=1), colors(count, seed=2)
    answer = session.infer(first)
    assert_answers(session.infer(second), second)
    assert_answers(answer, first)
    answer["logits"][:] = -1
    assert_answers(session.infer(first), first)


def test_an_answer_shares_nothing_with_what_a_simulated_function_keeps(path: Path) -> None:
    kept = answers(colors(2))
    with loaded(path, "simulated", lambda batch: kept) as session:
        session.infer(colors(2))["logits"][:] = -1
    assert_answers(kept, colors(2))


def test_pending_calls_overlap_and_answer_in_any_order(session: Session) -> None:
    batches = [colors(count, seed=seed) for seed, count in enumerate([1, 4, 4, 3, 2, 4])]
    pending = [session.start(batch) for batch in batches]
    for started, batch in reversed(list(zip(pending, batches, strict=True))):
        first = started.result()
        assert_answers(first, batch)
        assert started.result()["logits"] is first["logits"]


def test_a_pending_call_whose_result_nobody_takes(path: Path) -> None:
    for backend in BACKENDS:
        with loaded(path, backend) as session:
            session.start(colors(4))
            batch = colors(4, seed=5)
            assert_answers(session.infer(batch), batch)


def test_the_input_is_let_go_with_the_result(session: Session) -> None:
    batch = colors(4)
    kept = weakref.ref(batch)
    pending = session.start(batch)
    del batch
    pending.result()
    gc.collect()
    assert kept() is None


def test_outputs_of_the_callers_own(session: Session) -> None:
    batch = colors(3)
    canvas = np.full((3, 8), 7, np.float32)
    outputs = {"logits": canvas[:, ::2], "colors": np.zeros((3, 3), np.float32)}
    found = session.start(batch, outputs=outputs).result()
    assert found["logits"] is outputs["logits"]
    assert found["colors"] is outputs["colors"]
    assert_answers(found, batch)
    np.testing.assert_array_equal(canvas[:, 1::2], np.full((3, 4), 7, np.float32))  # what lies between is the caller's


def test_one_output_of_the_callers_own(session: Session) -> None:
    batch = colors(2)
    outputs = {"colors": np.zeros((2, 3), np.float32)}
    found = session.start(batch, outputs=outputs).result()
    assert found["colors"] is outputs["colors"]
    assert_answers(found, batch)
    assert list(outputs) == ["colors"]


READ_ONLY = np.zeros((2, 4), np.float32)
READ_ONLY.flags.writeable = False
NOT_OUTPUTS = {
    "another name": (
        {"logit": np.zeros((2, 4), np.float32)},
        "there is no output 'logit': the model has logits, colors",
    ),
    "a list": ({"logits": [[0.0] * 4] * 2}, "the output array 'logits' is a list, not a numpy array"),
    "None": ({"logits": None}, "the output array 'logits' is a NoneType, not a numpy array"),
    "more rows": (
        {"logits": np.zeros((4, 4), np.float32)},
        "the output array 'logits' is (4, 4) float32, and the answer is (2, 4) float32",
    ),
    "float64": (
        {"logits": np.zeros((2, 4))},
        "the output array 'logits' is (2, 4) float64, and the answer is (2, 4) float32",
    ),
    "read-only": ({"logits": READ_ONLY}, "the output array 'logits' is read-only: give one that can be written to"),
}


@pytest.mark.parametrize(("outputs", "message"), NOT_OUTPUTS.values(), ids=NOT_OUTPUTS.keys())
def test_outputs_that_do_not_fit(session: Session, outputs: Any, message: str) -> None:
    with pytest.raises(InputError) as caught:
        session.start(colors(2), outputs=outputs)
    assert str(caught.value) == message


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_stream_is_refused(path: Path, backend: str) -> None:
    with loaded(path, backend) as session, pytest.raises(InputError) as caught:
        session.start(colors(1), stream=object())
    assert str(caught.value) == f"the backend {backend} runs on the CPU and takes no stream: leave stream out"


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_closed_session(path: Path, backend: str) -> None:
    session = loaded(path, backend)
    pending = session.start(colors(2))
    session.close()
    session.close()
    assert_answers(pending.result(), colors(2))  # it was started before
    uses: list[Callable[[], object]] = [
        lambda: session.infer(colors(1)),
        lambda: session.start(colors(1)),
        lambda: session.description,
    ]
    for use in uses:
        with pytest.raises(ClosedError) as caught:
            use()
        assert str(caught.value) == "the session is closed: load the bundle again"


def test_with_closes(path: Path) -> None:
    with pytest.raises(ZeroDivisionError), loaded(path, "simulated") as session:
        raise ZeroDivisionError
    with pytest.raises(ClosedError):
        session.infer(colors(1))


@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_of_the_bundle_is_read_after_loading(tmp_path: Path, backend: str) -> None:
    with loaded(write_linear(tmp_path / "b"), backend) as session:
        shutil.rmtree(tmp_path / "b")
        for count in (1, 2, 4):
            assert_answers(session.infer(colors(count)), colors(count))
        assert session.labels == LABELS


def test_what_a_session_says_of_itself(path: Path) -> None:
    with loaded(path, "onnxruntime") as session:
        assert session.description.startswith("ONNX Runtime ")
        assert session.description.endswith(", fp32")
        assert (session.choice.backend, session.choice.variant, session.choice.precision) == (
            "onnxruntime",
            "fp32",
            "fp32",
        )
        assert session.labels == LABELS
        assert session.signature == Signature(
            TensorSpec("images", np.dtype("float32"), (3, 8, 8)),
            (TensorSpec("logits", np.dtype("float32"), (4,)), TensorSpec("colors", np.dtype("float32"), (3,))),
            largest_batch=4,
            smallest_batch=1,
        )


def test_a_backend_of_another_signature(path: Path) -> None:
    other = Signature(TensorSpec("images", np.dtype("float32"), (3, 9, 9)), (), 4)
    with pytest.raises(UnavailableError, match="does not have the signature of the bundle"):
        resnet_runtime.load(path, backend=SimulatedBackend(other, answers))


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"backend": "cuda"}, "there is no backend 'cuda': take auto, tensorrt, openvino, onnxruntime"),
        ({"precision": "fp8"}, "there is no precision 'fp8': take auto, fp32, bf16, fp16, int8"),
        ({"backend": None}, "the backend is a NoneType: give a name, or an object with the methods of Backend"),
        ({"backend": answers}, "the backend is a function: give a name, or an object with the methods of Backend"),
    ],
)
def test_a_keywordsthat_does_not_exist(path: Path, keywords: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        resnet_runtime.load(path, **keywords)
    assert str(caught.value) == message


def test_the_precision_is_checked_for_a_backend_that_is_passed_in_too(path: Path) -> None:
    backend = SimulatedBackend(signature_from_manifest(Bundle.open(path).manifest), answers)
    with pytest.raises(InputError, match="there is no precision 'fp8'"):
        resnet_runtime.load(path, backend=backend, precision="fp8")


def test_labels_that_do_not_fit_are_found_by_load(tmp_path: Path) -> None:
    bundle = write_sample(tmp_path / "b", files={"labels.txt": b"red\ngreen\n"})
    with pytest.raises(BundleError, match=r"labels.txt has 2 labels, and the model has 4 classes"):
        resnet_runtime.load(bundle)
