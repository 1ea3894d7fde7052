"""Single samples in full batches: each answered once and with its own answer, whatever happens meanwhile."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import resnet_runtime
from resnet_runtime import Batcher, ClosedError, DeadlineError, InputError, QueueFullError, Session
from resnet_runtime.backends.base import Finished, signature_from_manifest
from resnet_runtime.backends.simulated import SimulatedBackend
from resnet_runtime.bundle import Bundle
from resnet_runtime.manifest import Batch

from .bundles import color_means, replaced, sample_files, sample_manifest, write_bundle
from .threads import in_threads

LARGEST = 64
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    files = sample_files()
    manifest = replaced(sample_manifest(files), "input.batch", Batch(smallest=1, optimal=8, largest=LARGEST))
    return write_bundle(tmp_path_factory.mktemp("batching") / "colors.bundle", files, manifest)


def session_of(path: Path, function: Callable[[Any], Any] = color_means) -> Session:
    signature = signature_from_manifest(Bundle.open(path).manifest)
    return resnet_runtime.load(path, backend=SimulatedBackend(signature, function))


@pytest.fixture
def session(path: Path) -> Iterator[Session]:
    with session_of(path) as session:
        yield session


def sample(number: int) -> np.ndarray:
    """One whose answer is known: ``answer_of`` gives the number back."""
    made = np.zeros((3, 8, 8), np.float32)
    made[0], made[1] = number % 1024, number // 1024
    return made


def answer_of(found: dict[str, np.ndarray]) -> int:
    assert found["logits"].shape == (4,)
    return round(float(found["logits"][0])) + 1024 * round(float(found["logits"][1]))


class Gate:
    """A backend that waits until it is told to go on."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.entered = threading.Semaphore(0)
        self.sizes: list[int] = []

    def __call__(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        self.sizes.append(len(batch))
        self.entered.release()
        assert self.open.wait(60)
        return color_means(batch)


def blocked(path: Path, **options: Any) -> tuple[Gate, Batcher, list[Future[Any]]]:
    """A batcher all of whose threads are in the backend, each with one sample."""
    gate = Gate()
    batcher = Batcher(session_of(path, gate), **options)
    held = []
    for number in range(2):  # one under way, and one that is put together meanwhile
        held.append(batcher.submit(sample(number)))
        assert gate.entered.acquire(timeout=60)
    return gate, batcher, held


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


def test_closing_answers_all_that_was_accepted(path: Path) -> None:
    gate, batcher, held = blocked(path, max_batch=4)
    futures = [batcher.submit(sample(number)) for number in range(50)]
    closing = threading.Thread(target=batcher.close)
    closing.start()
    while not batcher._closed:
        time.sleep(0.001)
    with pytest.raises(ClosedError, match="the batcher is closed: make a new one"):
        batcher.submit(sample(0))
    gate.open.set()
    closing.join(60)
    assert all(future.done() for future in (*held, *futures))
    assert [answer_of(future.result()) for future in futures] == list(range(50))
    batcher.close()


def test_closing_may_cancel_what_still_waits(path: Path) -> None:
    gate, batcher, held = blocked(path, max_batch=4)
    futures = [batcher.submit(sample(number)) for number in range(10)]
    threading.Timer(0.05, gate.open.set).start()
    batcher.close(cancel=True)
    assert [answer_of(future.result()) for future in held] == [0, 1]
    for future in futures:
        with pytest.raises(CancelledError):
            future.result()
    assert batcher.counters().cancelled == 10


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


def test_a_callback_that_raises_harms_no_other_sample(path: Path) -> None:
    gate, batcher, _ = blocked(path, max_batch=8)

    def ending(future: Future[Any]) -> None:
        raise SystemExit

    futures = [batcher.submit(sample(number)) for number in range(40)]
    for future in futures[::3]:
        future.add_done_callback(ending)
    gate.open.set()
    batcher.close()
    assert [answer_of(future.result(0)) for future in futures] == list(range(40))


def test_a_callback_may_close_it(path: Path) -> None:
    gate, batcher, _ = blocked(path, max_batch=2)
    futures = [batcher.submit(sample(number)) for number in range(8)]
    for future in futures:
        future.add_done_callback(lambda _: batcher.close())
    gate.open.set()
    assert [answer_of(future.result(60)) for future in futures] == list(range(8))
    batcher.close()


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


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_batcher_after_a_fork_says_so(session: Session) -> None:
    reader, writer = os.pipe()
    with Batcher(session) as batcher:
        child = os.fork()
        if child == 0:
            try:
                batcher.submit(sample(0))
                said = "accepted"
            except ClosedError as error:
                said = str(error)
            batcher.close()
            os.write(writer, said.encode())
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader) as answer:
            said = answer.read()
        assert os.waitpid(child, 0)[1] == 0
        assert said == "the batcher was made before this process was forked: make one in each process"
        assert answer_of(batcher.submit(sample(5)).result(60)) == 5


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
        ([1.0], "the sample is list, and the model takes one of"),
    ],
)
def test_a_sample_that_is_none(session: Session, given: Any, message: str) -> None:
    with Batcher(session) as batcher, pytest.raises(InputError, match=message):
        batcher.submit(given)


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


SERVICE = """
import signal, sys, threading, time
import numpy as np
from resnet_runtime import Batcher, ClosedError, QueueFullError
from tests.runtime.test_batching import answer_of, color_means, sample, session_of

def slow(batch):
    time.sleep(0.01)
    return color_means(batch)

batcher = Batcher(session_of(sys.argv[1], slow), max_batch=8, max_queue=64)
futures, lock = [], threading.Lock()

def client(index):
    number = index
    while True:
        try:
            future = batcher.submit(sample(number))
        except QueueFullError:
            time.sleep(0.001)
            continue
        except ClosedError:
            return
        with lock:
            futures.append((number, future))
        number += 8

def stop(number, frame):
    closing.start()

closing = threading.Thread(target=batcher.close)

signal.signal(signal.SIGTERM, stop)
threads = [threading.Thread(target=client, args=(index,)) for index in range(8)]
for thread in threads:
    thread.start()
print("ready", flush=True)
for thread in (*threads, closing):
    thread.join()
right = sum(future.done() and answer_of(future.result()) == number for number, future in futures)
counters = batcher.counters()
print(len(futures), right, counters.accepted, counters.answered, counters.waiting, flush=True)
"""


def test_a_signal_to_end_loses_nothing(path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SERVICE), path],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    ) as service:
        assert service.stdout is not None
        assert service.stdout.readline() == "ready\n"
        time.sleep(0.5)
        service.send_signal(signal.SIGTERM)
        rest = service.stdout.readline()
        assert service.wait(60) == 0
    accepted, right, counted, answered, waiting = map(int, rest.split())
    assert accepted == right == counted == answered > 100
    assert waiting == 0
