"""How a batcher ends: what was accepted is answered, in this process and in no other."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future
from pathlib import Path
from typing import Any

import pytest

from resnet_runtime import Batcher, ClosedError, Session

from .batchers import answer_of, blocked, colors_bundle, sample, session_of
from .forks import said_by_a_child

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return colors_bundle(tmp_path_factory.mktemp("batching") / "colors.bundle")


@pytest.fixture
def session(path: Path) -> Iterator[Session]:
    with session_of(path) as session:
        yield session


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


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_batcher_after_a_fork_says_so(session: Session) -> None:
    def child() -> str:
        try:
            batcher.submit(sample(0))
            return "accepted"
        except ClosedError as error:
            return str(error)
        finally:
            batcher.close()

    with Batcher(session) as batcher:
        said = said_by_a_child(child)
        assert said == "the batcher was made before this process was forked: fork first, and make one in each process"
        assert answer_of(batcher.submit(sample(5)).result(60)) == 5


SERVICE = """
import signal, sys, threading, time
import numpy as np
from resnet_runtime import Batcher, ClosedError, QueueFullError
from tests.runtime.batchers import answer_of, color_means, sample, session_of

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
