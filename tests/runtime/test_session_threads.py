"""A session that several threads use at once, and one that is closed under their hands."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from resnet_runtime import ClosedError, Session

from .graphs import answers, colors, write_linear
from .test_session import BACKENDS, assert_answers, loaded

THREADS = 8


@pytest.fixture(params=BACKENDS)
def session(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Session]:
    with loaded(write_linear(tmp_path / "linear.bundle"), request.param) as session:
        yield session


def test_every_thread_gets_its_own_answers(session: Session) -> None:
    together = threading.Barrier(THREADS)

    def work(thread: int) -> int:
        together.wait()
        for step in range(40):
            batch = colors(1 + (thread + step) % 6, seed=1000 * thread + step)
            if len(batch) <= 4 and step % 2:
                outputs = {name: np.empty_like(array) for name, array in answers(batch).items()}
                assert_answers(session.start(batch, outputs).result(), batch)
                assert_answers(outputs, batch)
            else:
                assert_answers(session.infer(batch), batch)
        return thread

    with ThreadPoolExecutor(THREADS) as pool:
        assert list(pool.map(work, range(THREADS))) == list(range(THREADS))


def test_one_pending_call_may_be_asked_by_several_threads(session: Session) -> None:
    pending = session.start(colors(4))
    with ThreadPoolExecutor(THREADS) as pool:
        found = list(pool.map(lambda _: pending.result()["logits"], range(THREADS)))
    np.testing.assert_array_equal(found[0], answers(colors(4))["logits"])
    assert all(array is found[0] for array in found)


def test_close_while_others_use_it(session: Session) -> None:
    working = threading.Barrier(THREADS + 1)

    def work(thread: int) -> bool:
        """Whether the session was closed under this thread's hands; any other error fails the test."""
        batch = colors(1 + thread % 6, seed=thread)
        session.infer(batch)
        working.wait()
        for _ in range(100_000):
            try:
                found = session.infer(batch)
            except ClosedError:
                return True
            assert_answers(found, batch)
        return False

    with ThreadPoolExecutor(THREADS) as pool:
        results = pool.map(work, range(THREADS))
        working.wait()
        session.close()
        assert list(results) == [True] * THREADS
