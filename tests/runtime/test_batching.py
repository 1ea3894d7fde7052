"""Single samples in full batches: each answered once and with its own answer, whatever happens meanwhile."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import wait as futures_wait
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import resnet_runtime
from resnet_runtime import Batcher, DeadlineError, InputError, QueueFullError, Session
from resnet_runtime.backends.base import Finished, signature_from_manifest
from resnet_runtime.bundle import Bundle

from .batchers import answer_of, blocked, color_means, colors_bundle, sample, session_of
from .threads import in_threads


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return colors_bundle(tmp_path_factory.mktemp("batching") / "colors.bundle")


@pytest.fixture
def session(path: Path) -> Iterator[Session]:
    with session_of(path) as session:
        yield session


def test_every_thread_gets_its_own_answers(session: Session) -> None:
    with Batcher(session, max_batch=16, max_delay_ms=1) as batcher:

        def client(index: int) -> None:
            for call in range(40):
                number = 1000 * index + call
                assert answer_of(batcher.submit(sample(number)).result(60)) == number

        in_threads(64, client)
        counters = batcher.counters()
    assert (counters.accepted, counters.answered, counters.waiting) == (2560, 2560, 0)
    assert (counters.refused, counters.failed, counters.expired, counters.cancelled) == (0, 0, 0, 0)
    assert counters.batch_size.total == counters.latency.count == 2560
    assert counters.batch_size.count < 2560  # several were together


def test_a_batch_is_full_where_enough_wait(path: Path) -> None:
    gate, batcher, held = blocked(path, max_batch=8, max_delay_ms=1)
    futures = [batcher.submit(sample(number)) for number in range(20)]
    gate.open.set()
    batcher.close()
    assert [answer_of(future.result()) for future in (*held, *futures)] == [0, 1, *range(20)]
    assert gate.sizes == [1, 1, 8, 8, 4]


def test_the_oldest_waits_no_longer_than_it_was_said(session: Session) -> None:
    with Batcher(session, max_batch=64, max_delay_ms=50) as batcher:
        start = time.perf_counter()
        batcher.submit(sample(1)).result(60)
        assert 0.045 <= time.perf_counter() - start < 2


def test_an_answer_is_the_callers_own(session: Session) -> None:
    with Batcher(session) as batcher:
        first, second = (batcher.submit(sample(5)).result(60)["logits"] for _ in range(2))
    first[:] = -1
    assert second[0] == 5
    assert first.base is None


def test_a_full_queue_refuses_at_once_and_stays_bounded(path: Path) -> None:
    gate, batcher, _ = blocked(path, max_batch=4, max_queue=10)
    accepted = [batcher.submit(sample(number)) for number in range(10)]
    start = time.perf_counter()
    for _ in range(100):
        with pytest.raises(QueueFullError, match="10 samples wait, and max_queue is 10: try again later"):
            batcher.submit(sample(0))
    assert (time.perf_counter() - start) / 100 < 0.005
    gate.open.set()
    batcher.close()
    assert [answer_of(future.result()) for future in accepted] == list(range(10))
    counters = batcher.counters()
    assert (counters.refused, counters.most_waiting) == (100, 10)


def test_a_sample_whose_time_is_over_is_not_computed(path: Path) -> None:
    gate, batcher, _ = blocked(path, max_batch=4)
    late, patient = batcher.submit(sample(1), timeout_s=0.01), batcher.submit(sample(2))
    time.sleep(0.05)
    gate.open.set()
    assert answer_of(patient.result(60)) == 2
    with pytest.raises(DeadlineError, match="the sample's time was over"):
        late.result(60)
    batcher.close()
    assert sum(gate.sizes) == 3
    assert batcher.counters().expired == 1


def test_what_could_not_be_answered_in_time_is_refused(path: Path) -> None:
    def slow(batch: np.ndarray) -> dict[str, np.ndarray]:
        time.sleep(0.05)
        return color_means(batch)

    with session_of(path, slow) as session, Batcher(session, max_batch=1, max_queue=100) as batcher:
        batcher.submit(sample(0)).result(60)  # which shows how long a batch takes
        waiting = [batcher.submit(sample(number)) for number in range(20)]
        with pytest.raises(QueueFullError, match=r"an answer would take about [01]\.\d+ s, more than 0.2 s"):
            batcher.submit(sample(0), timeout_s=0.2)
        assert answer_of(batcher.submit(sample(7), timeout_s=30).result(60)) == 7
        assert [answer_of(future.result(60)) for future in waiting] == list(range(20))


def test_cancelling_takes_back_what_still_waits(path: Path) -> None:
    gate, batcher, held = blocked(path, max_batch=4)
    futures = [batcher.submit(sample(number)) for number in range(6)]
    assert futures[1].cancel()
    assert futures[4].cancel()
    assert not held[0].cancel()  # it is being computed
    gate.open.set()
    batcher.close()
    assert [answer_of(future.result()) for index, future in enumerate(futures) if index not in (1, 4)] == [0, 2, 3, 5]
    counters = batcher.counters()
    assert (counters.cancelled, counters.answered) == (2, 6)


def test_what_was_cancelled_takes_no_place_in_the_queue(path: Path) -> None:
    gate, batcher, held = blocked(path, max_batch=4, max_queue=10)
    futures = [batcher.submit(sample(number)) for number in range(10)]
    with pytest.raises(QueueFullError):
        batcher.submit(sample(10))
    assert all(future.cancel() for future in futures[:6])
    more = [batcher.submit(sample(number)) for number in range(20, 26)]
    with pytest.raises(QueueFullError):
        batcher.submit(sample(10))
    gate.open.set()
    batcher.close()
    assert [answer_of(future.result()) for future in (*futures[6:], *more)] == [6, 7, 8, 9, *range(20, 26)]
    counters = batcher.counters()
    assert (counters.accepted, counters.cancelled, counters.answered) == (16 + len(held), 6, 10 + len(held))


def test_one_that_is_cancelled_while_others_are_dropped_is_told(path: Path) -> None:
    """Whoever waits for it would wait for ever."""
    gate, batcher, _ = blocked(path, max_batch=4, max_queue=8)
    futures = [batcher.submit(sample(number)) for number in range(8)]
    futures[0].cancel()
    told, look = futures[5], futures[5].cancelled

    def cancelled_when_looked_at() -> bool:
        before = look()
        told.cancel()
        return before

    told.cancelled = cancelled_when_looked_at  # type: ignore[method-assign]
    batcher.submit(sample(8))
    assert told.cancelled()
    gate.open.set()
    batcher.close()
    done, waiting = futures_wait([told], timeout=60)
    assert (done, waiting) == ({told}, set())
    counters = batcher.counters()
    assert counters.accepted == counters.answered + counters.cancelled


def test_one_that_is_left_as_much_time_as_batches_take_does_not_wait(path: Path) -> None:
    def slow(batch: np.ndarray) -> dict[str, np.ndarray]:
        time.sleep(0.4)
        return color_means(batch)

    with session_of(path, slow) as session, Batcher(session, max_delay_ms=20_000) as batcher:
        batcher.submit(sample(0), timeout_s=2).result(60)  # which shows how long a batch takes
        began = time.monotonic()
        assert answer_of(batcher.submit(sample(1), timeout_s=0.5).result(60)) == 1
        assert time.monotonic() - began < 0.6  # half of its time would be 0.25 s more than a batch takes


def test_one_in_a_hurry_does_not_wait_for_a_full_batch(path: Path) -> None:
    with session_of(path) as session, Batcher(session, max_delay_ms=20_000) as batcher:
        for number in range(5):
            assert answer_of(batcher.submit(sample(number), timeout_s=0.4).result(60)) == number


def test_a_backend_that_fails_fails_its_own_batch_alone(path: Path) -> None:
    def failing(batch: np.ndarray) -> dict[str, np.ndarray]:
        if batch.max() == 13:
            raise RuntimeError("no luck")
        return color_means(batch)

    with session_of(path, failing) as session, Batcher(session, max_batch=1) as batcher:
        futures = [batcher.submit(sample(number)) for number in (12, 13, 14)]
        assert answer_of(futures[0].result(60)) == 12
        with pytest.raises(RuntimeError, match="no luck"):
            futures[1].result(60)
        assert answer_of(futures[2].result(60)) == 14
        assert batcher.counters().failed == 1


def test_a_batch_that_took_long_is_no_reason_to_refuse_where_nothing_waits(path: Path) -> None:
    pauses = iter([1.0])

    def once_slow(batch: np.ndarray) -> dict[str, np.ndarray]:
        time.sleep(next(pauses, 0))
        return color_means(batch)

    with session_of(path, once_slow) as session, Batcher(session) as batcher:
        batcher.submit(sample(0)).result(60)
        time.sleep(0.05)
        for number in range(20):
            assert answer_of(batcher.submit(sample(number), timeout_s=0.5).result(60)) == number


def test_an_answer_of_too_few_rows_fails_its_batch(path: Path) -> None:
    class Short:
        description = "short"

        def __init__(self) -> None:
            self.signature = signature_from_manifest(Bundle.open(path).manifest)

        def start(self, inputs: Any, outputs: Any = None, stream: Any = None) -> Any:
            return Finished({"logits": np.zeros((0, 4), np.float32)})

        def close(self) -> None:
            pass

    with resnet_runtime.load(path, backend=Short()) as session, Batcher(session) as batcher:
        for _ in range(5):
            with pytest.raises(IndexError):
                batcher.submit(sample(0)).result(60)


def test_from_asyncio(session: Session) -> None:
    async def all_of_them() -> list[int]:
        found = await asyncio.gather(*(batcher.infer_async(sample(number)) for number in range(200)))
        return [answer_of(answer) for answer in found]

    with Batcher(session, max_batch=32) as batcher:
        assert asyncio.run(all_of_them()) == list(range(200))


def test_a_task_that_is_cancelled_takes_its_sample_back(path: Path) -> None:
    gate, batcher, _ = blocked(path, max_batch=4)

    async def given_up() -> None:
        task = asyncio.create_task(batcher.infer_async(sample(9)))
        await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(given_up())
    gate.open.set()
    batcher.close()
    assert batcher.counters().cancelled == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_batch": 0}, "max_batch is 0, and the session takes batches of 1 to 64"),
        ({"max_batch": 65}, "max_batch is 65, and the session takes batches of 1 to 64"),
        ({"max_delay_ms": -1}, "max_delay_ms is -1, and a delay is a number of at least 0"),
        ({"max_delay_ms": float("nan")}, "max_delay_ms is nan"),
        ({"max_queue": 31}, "max_queue is 31, and a batch of 32 has to fit into the queue"),
    ],
)
def test_numbers_that_are_none(session: Session, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Batcher(session, **options)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.zeros((3, 8, 7), np.float32), r"the sample is \(3, 8, 7\) float32"),
        (np.zeros((1, 3, 8, 8), np.float32), r"the sample is \(1, 3, 8, 8\) float32"),
        (np.zeros((3, 8, 8)), r"the sample is \(3, 8, 8\) float64"),
        ([1.0], "the sample is a list, not a numpy array"),
    ],
)
def test_a_sample_that_is_none(session: Session, given: Any, message: str) -> None:
    with Batcher(session) as batcher, pytest.raises(InputError, match=message):
        batcher.submit(given)


def test_a_sample_of_another_library(session: Session) -> None:
    torch = pytest.importorskip("torch", reason="an array of another library is needed")
    with Batcher(session) as batcher:
        futures = [batcher.submit(torch.from_numpy(sample(number))) for number in range(5)]
        assert [answer_of(future.result(60)) for future in futures] == list(range(5))


def test_no_time_is_no_timeout(session: Session) -> None:
    with Batcher(session) as batcher, pytest.raises(InputError, match="timeout_s is 0, and has to be above 0"):
        batcher.submit(sample(0), timeout_s=0)


def test_prometheus_reads_what_is_counted(session: Session) -> None:
    parser = pytest.importorskip("prometheus_client.parser", reason="of the extra dev")
    with Batcher(session, max_batch=4, max_delay_ms=0) as batcher:
        for number in range(9):
            batcher.submit(sample(number)).result(60)
        counters = batcher.counters()
    families = {family.name: family for family in parser.text_string_to_metric_families(counters.prometheus_text())}
    values = {
        (item.name, *sorted(item.labels.values())): item.value for found in families.values() for item in found.samples
    }
    assert families["resnet_batcher_latency_seconds"].type == "histogram"
    assert values["resnet_batcher_accepted_total",] == 9
    assert values["resnet_batcher_ended_total", "answered"] == 9
    assert values["resnet_batcher_latency_seconds_count",] == 9
    assert values["resnet_batcher_latency_seconds_bucket", "+Inf"] == 9
    assert values["resnet_batcher_batch_size_sum",] == 9
    assert values["resnet_batcher_latency_seconds_sum",] == pytest.approx(counters.latency.total)
