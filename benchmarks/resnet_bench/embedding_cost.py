"""What embedding costs: ``Batcher`` beside a session fed by hand, the C++ runtime beside OpenVINO's own API."""

from __future__ import annotations

import statistics
import subprocess
import tempfile
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

import resnet_runtime
from resnet_runtime.backends.base import THROUGHPUT, Pending
from resnet_runtime.session import Session

from .clock import ProcessFailedError, interleaved, process_cost
from .runtime_cost import DifferentAnswersError

CLIENTS: Final = 64
IMAGES: Final = 512
"""In a visit. Its first and its last batches are not full, which a service has once a day."""
_CALLS: Final = 3
"""Of the C++ library and of OpenVINO, in each of their turns; they are short."""
_PROGRAMS: Final = ("cost", "probe")
_TURNS: Final = 5
"""Of each, in a round."""
_ALIKE: Final = 0.02
"""Of the range of the answers: those of another place in a batch may differ in their last bits."""


@dataclass(frozen=True)
class BatcherCost:
    """Images a second, a figure a round.

    Attributes:
        what: backend, precision and batch.
        clients: threads that each wait for an answer before they ask again.
        by_hand: full batches that lie ready, as many under way as the backend computes at once.
        batched: single images, each submitted by a client.
    """

    what: str
    clients: int
    by_hand: tuple[float, ...]
    batched: tuple[float, ...]

    @property
    def share(self) -> float:
        """The median over the rounds of batched / by_hand."""
        return statistics.median(one / other for one, other in zip(self.batched, self.by_hand, strict=True))

    def to_json(self) -> dict[str, Any]:
        """The raw figures and what follows from them."""
        return {**asdict(self), "share": self.share}


@dataclass(frozen=True)
class CppCost:
    """What the C++ runtime takes, one image at a time.

    Attributes:
        precision: of the variant.
        ratio: its time beside that of OpenVINO's own API in the same process, the median over the rounds.
        allocations, own_allocations: of a call, by either.
        seconds: whole processes that load the bundle and answer one image, what was compiled being kept.
    """

    precision: str
    ratio: float
    allocations: float
    own_allocations: float
    seconds: tuple[float, ...]

    @property
    def cold_start(self) -> float:
        """Seconds, the median."""
        return statistics.median(self.seconds)

    def to_json(self) -> dict[str, Any]:
        """The raw figures and what follows from them."""
        return {**asdict(self), "cold_start": self.cold_start}


def batcher_cost(
    bundle: Path, precision: str, *, rounds: int, batch: int = 8, clients: int = CLIENTS, images: int = IMAGES
) -> BatcherCost:
    """Time both in turns, forwards and backwards in each round; the answers are compared.

    Args:
        bundle: a directory.
        precision: of the variant.
        rounds: of two visits to each.
        batch: samples of a batch.
        clients: threads.
        images: answered in a visit, a multiple of ``batch``.

    Raises:
        ResnetRuntimeError: the bundle cannot be run so.
        DifferentAnswersError: a sample did not get its own answer.
    """
    with resnet_runtime.load(bundle, precision=precision, intent=THROUGHPUT) as session:
        samples = _samples(session, images)
        expected = session.infer(samples)[session.signature.outputs[0].name]
        with resnet_runtime.Batcher(session, max_batch=batch, max_queue=max(images, batch)) as batcher:

            def by_hand() -> NDArray[Any]:
                return _fed_by_hand(session, samples, batch)

            def batched() -> NDArray[Any]:
                return _asked_by_clients(batcher, session, samples, clients)

            exchanged = np.abs(np.roll(expected, 1, axis=0) - expected).reshape(images, -1).max(axis=1)
            if np.median(exchanged) <= _ALIKE * np.ptp(expected):
                raise DifferentAnswersError("the images have like answers, so that an exchange would not be seen")
            for warm in (by_hand, batched):
                _refuse_different(warm(), expected)
            seconds = interleaved({"by_hand": by_hand, "batched": batched}, rounds, 1)
            _refuse_different(batched(), expected)
        what = f"{session.description}, batches of {batch}"
    rates = {name: tuple(images / one for one in found) for name, found in seconds.items()}
    return BatcherCost(what, clients, rates["by_hand"], rates["batched"])


def cpp_cost(bundle: Path, precision: str, build: Path, *, rounds: int) -> CppCost:
    """Ask the programs that ``make test-cpp`` built.

    Args:
        bundle: a directory.
        precision: of the variant.
        build: where the programs ``cost`` and ``probe`` are.
        rounds: of several visits to each, and of a process.

    Raises:
        ProcessFailedError: a program failed, or is not there.
        DifferentAnswersError: the library and OpenVINO do not give the same answers.
    """
    refuse_unbuilt(build)
    command = [str(build / "cost"), str(bundle), precision, str(_TURNS * rounds), str(_CALLS), "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    words = done.stdout.split("\t")
    if done.returncode != 0 or len(words) != 9:
        raise ProcessFailedError(f"{command[0]} failed: {done.stderr.strip() or done.stdout.strip()}")
    if not float(words[8]) <= _ALIKE:
        raise DifferentAnswersError("the C++ library and OpenVINO's own API give different answers")
    with tempfile.TemporaryDirectory() as folder, resnet_runtime.load(bundle, backend="openvino") as session:
        given, made = Path(folder, "input"), Path(folder, "output")
        _samples(session, 1).tofile(given)
        answer = [str(build / "probe"), "infer", str(bundle), "openvino", precision, "0", str(given), "1", str(made)]
        process_cost(answer)  # which keeps what it compiled
        seconds = tuple(process_cost(answer).seconds for _ in range(rounds))
        if not made.with_name(f"output.{session.signature.outputs[0].name}").exists():
            raise ProcessFailedError(f"{answer[0]} gave no answer")
    return CppCost(precision, float(words[1]), float(words[3]), float(words[4]), seconds)


def refuse_unbuilt(build: Path) -> None:
    """Raise ProcessFailedError where a program that ``cpp_cost`` asks is not in the folder."""
    lacking = [name for name in _PROGRAMS if not (build / name).is_file()]
    if lacking:
        raise ProcessFailedError(f"{build} has no program {' and no '.join(lacking)}: make test-cpp builds them")


def _samples(session: Session, count: int) -> NDArray[Any]:
    """The bundle's own inputs, again and again."""
    inputs = session.bundle.check_data().inputs
    return np.ascontiguousarray(np.take(inputs, range(count), axis=0, mode="wrap"))


def _fed_by_hand(session: Session, samples: NDArray[Any], batch: int) -> NDArray[Any]:
    name = session.signature.outputs[0].name
    under_way: deque[Pending] = deque()
    answers = []
    for first in range(0, len(samples), batch):
        if len(under_way) == session.calls_at_once:
            answers.append(under_way.popleft().result()[name])
        under_way.append(session.start(samples[first : first + batch]))
    answers += [call.result()[name] for call in under_way]
    return np.concatenate(answers)


def _asked_by_clients(
    batcher: resnet_runtime.Batcher, session: Session, samples: NDArray[Any], clients: int
) -> NDArray[Any]:
    name = session.signature.outputs[0].name
    answers: list[NDArray[Any]] = [np.empty(0)] * len(samples)
    left = deque(range(len(samples)))
    lock = threading.Lock()

    def client(_: int) -> None:
        while True:
            with lock:
                if not left:
                    return
                index = left.popleft()
            answers[index] = batcher.submit(samples[index]).result()[name]

    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(client, range(clients)))
    return np.stack(answers)


def alike(found: NDArray[Any], expected: NDArray[Any]) -> bool:
    """Whether every answer is the one that was expected."""
    return bool(np.abs(found - expected).max() <= _ALIKE * np.ptp(expected))


def _refuse_different(found: NDArray[Any], expected: NDArray[Any]) -> None:
    if not alike(found, expected):
        raise DifferentAnswersError("a sample got another answer than its own")
