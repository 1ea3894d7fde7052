"""The gates: what is shipped, run as it is shipped, against what the model itself computes.

The staged bundle's files are opened and run by ``resnet_runtime``. Where this host has no arithmetic of a variant's
precision, ``emulate`` rounds to it, and the gate says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from resnet_runtime.backends import BACKENDS, facts_of
from resnet_runtime.backends.base import EMULATED, misfit
from resnet_runtime.bundle import Bundle, CheckData
from resnet_runtime.errors import BackendError, UnavailableError
from resnet_runtime.loading import backend_from_variant
from resnet_runtime.manifest import Accuracy, Batch, FileRecord, Gate, Limits, Manifest, Parity, Variant
from resnet_runtime.parity import MIN_SPREAD, faults, parity, relative_spread, spread, tie_of
from resnet_runtime.selection import Choice
from resnet_runtime.session import Session

from . import emulate
from .eager import EagerAnswers
from .errors import VerificationError
from .graph import graph_from_bytes
from .observe import Observation
from .quantization.evaluation import EvaluationSet

WITHOUT_FLOAT64 = 1e-5
"""Of the spread: what folding may cost where the module cannot be computed in float64 and its noise is not known."""

LOW_SPREAD = 0.2
"""Below this, relative to the output's range, the varied inputs say little of the model."""


@dataclass(frozen=True)
class FoldingCheck:
    """How far the folded graph is from eager in float64, in the output's own unit, and how far it may be."""

    error: float
    allowed: float
    noise: float
    spread: float
    executor: str


def refuse_constant(answers: EagerAnswers) -> float:
    """The smallest relative spread of the outputs, of which 0.2 and more says much.

    Raises:
        VerificationError: an output hardly depends on the input: nothing could be verified by it.
    """
    for name, array in answers.float32.items():
        if spread(array) <= MIN_SPREAD * float(np.abs(array).max()):
            raise VerificationError(
                f"the output {name!r} is nearly the same for every input, so that no conversion of the model could be "
                "verified: are its weights trained?"
            )
    return min(relative_spread(array) for array in answers.float32.values())


def check_folding(observed: Observation, answers: EagerAnswers) -> FoldingCheck:
    """Hold the folded FP32 graph to eager: at most twice eager's own float32 error, and 1e-6 of the spread.

    Args:
        observed: of the folded graph, on the inputs of ``answers``.

    Raises:
        VerificationError: it is further away.
    """
    checks = []
    for name, actual in observed.outputs.items():
        scale = spread(answers.float32[name])
        if name in answers.exact:
            exact, noise = answers.exact[name], answers.noise(name)
            error = float(np.abs(actual[: len(exact)] - exact).max())
            found = FoldingCheck(error, 2 * noise + 1e-6 * scale, noise, scale, observed.executor)
            why = "in float64, and {} is allowed (twice eager's own float32 error and a millionth of the spread)"
        else:
            error = float(np.abs(actual - answers.float32[name]).max())
            found = FoldingCheck(error, WITHOUT_FLOAT64 * scale, 0.0, scale, observed.executor)
            why = "in float32, and {} is allowed"
        if not found.error <= found.allowed:
            raise VerificationError(
                f"the folded graph is {found.error:.3g} from eager {why.format(f'{found.allowed:.3g}')} "
                f"in the output {name!r}"
            )
        checks.append(found)
    return max(checks, key=lambda check: check.error / check.allowed)


class StagedReader(Bundle):
    """A bundle that is being verified: a file is read once for the variants that share it, and hashed meanwhile.

    Use it with ``with``: at its end every file that was read has been found to be the listed one, or BundleError is
    raised.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        super().__init__(path, manifest)
        self._last: tuple[FileRecord, bytes] | None = None
        self._hashing = ThreadPoolExecutor(1)
        self._checks: list[Future[None]] = []

    def read(self, record: FileRecord) -> bytes:
        """As ``Bundle.read``, but the digest is only known at the end; the bytes of the last file are kept."""
        if self._last is None or self._last[0] != record:
            self._last = None  # not two at a time
            data = self.read_unchecked(record)
            self._checks.append(self._hashing.submit(self.check_digest, record, data))
            self._last = (record, data)
        return self._last[1]

    def __enter__(self) -> StagedReader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._hashing.shutdown()
        if error is None:
            for check in self._checks:
                check.result()


def unmeasured_gate(limits: Limits) -> Gate:
    """A gate that nothing has been put through yet."""
    nothing = Parity(
        samples=1,
        undecided=0,
        max_error=0.0,
        mean_error=0.0,
        centred_cosine=0.0,
        snr_db=0.0,
        top1_agreement=0.0,
        top5_agreement=0.0,
    )
    return Gate(passed=False, executor="none", emulated=False, limits=limits, parity=nothing)


@dataclass(frozen=True)
class Evaluation:
    """Images with what eager makes of them.

    Attributes:
        images: to be gone through again for every variant, in the same order.
        eager: (N,) the class that eager finds in each.
        labels: (N,) the right ones; None: eager's are taken for them, and accuracy is agreement with eager.
        max_drop: how many points a variant may lose.
    """

    images: EvaluationSet
    eager: NDArray[np.int64]
    labels: NDArray[np.int64] | None
    max_drop: float

    @property
    def top1(self) -> float:
        """Eager's accuracy, in 0..1."""
        return 1.0 if self.labels is None else float((self.eager == self.labels).mean())


@dataclass(frozen=True)
class Executor:
    """What computes a variant here.

    Attributes:
        name: for the gate.
        emulated: whether this host has no arithmetic of the variant's precision.
        infer: from inputs (N, ...) to the outputs by name.
    """

    name: str
    emulated: bool
    infer: Callable[[NDArray[np.generic]], Mapping[str, NDArray[np.floating]]]


def gate_from_variant(
    bundle: Bundle,
    variant: Variant,
    data: CheckData,
    evaluation: Evaluation | None = None,
    on_images: Callable[[int], None] | None = None,
) -> tuple[Gate, tuple[str, ...]]:
    """Run a variant of the staged bundle and judge it.

    Args:
        bundle: the staged one.
        variant: whose ``gate.limits`` are to hold.
        data: inputs and eager's answers.
        evaluation: what its accuracy is measured with, where it is.
        on_images: told of how many of those were evaluated.

    Returns:
        The gate, and what was outside its limits.

    Raises:
        VerificationError: nothing on this host can compute the variant's precision.
    """
    limits = variant.gate.limits
    for opened in (*_backends(bundle, variant), _emulation(bundle, variant)):
        try:
            with opened as executor:
                measured = parity(data.outputs, executor.infer(data.inputs), tie=tie_of(limits))
                found = faults(measured, limits)
                accuracy = None
                if evaluation is not None and not found:
                    accuracy = accuracy_from_executor(executor, evaluation, bundle.manifest.input.batch, on_images)
                    found = drop_faults(accuracy)
                gate = Gate(
                    passed=not found,
                    executor=executor.name,
                    emulated=executor.emulated,
                    limits=limits,
                    parity=measured,
                    accuracy=accuracy,
                )
                return gate, found
        except UnavailableError:
            continue  # it computes this graph in another precision after all
        except BackendError as error:
            return variant.gate, (error.message,)
    raise VerificationError(f"nothing on this host computes {variant.precision}, so that it cannot be verified")


def accuracy_from_executor(
    executor: Executor, evaluation: Evaluation, batch: Batch, on_images: Callable[[int], None] | None = None
) -> Accuracy:
    """The top-1 accuracy of the first output over all evaluation images."""
    right = done = 0
    for inputs, _ in evaluation.images.batches(batch.largest):
        answers = next(iter(executor.infer(inputs).values()))
        wanted = evaluation.eager if evaluation.labels is None else evaluation.labels
        right += int((answers.argmax(axis=1) == wanted[done : done + len(inputs)]).sum())
        done += len(inputs)
        if on_images is not None:
            on_images(done)
    return Accuracy(
        samples=done,
        labelled=evaluation.labels is not None,
        eager=evaluation.top1,
        measured=right / done,
        max_drop=evaluation.max_drop,
    )


def drop_faults(accuracy: Accuracy) -> tuple[str, ...]:
    """What is wrong with the accuracy; empty where it drops by no more than is allowed."""
    if accuracy.max_drop is None or accuracy.drop <= accuracy.max_drop + 1e-9:
        return ()
    what = "top-1 accuracy" if accuracy.labelled else "agreement with the model"
    return (
        f"{what} drops by {accuracy.drop:.2f} points over {accuracy.samples} images "
        f"({accuracy.eager:.2%} to {accuracy.measured:.2%}), {accuracy.max_drop:g} allowed",
    )


def _backends(bundle: Bundle, variant: Variant) -> Iterator[AbstractContextManager[Executor]]:
    for name in BACKENDS:
        facts = facts_of(name)
        if variant.precision in facts.precisions and misfit(variant, facts) is None:
            yield _backend(bundle, variant, name, facts.precisions[variant.precision] == EMULATED)


@contextmanager
def _backend(bundle: Bundle, variant: Variant, name: str, emulated: bool) -> Iterator[Executor]:
    """As a user would run it: through a session."""
    choice = Choice(name, variant.id, variant.precision, ("the variant is being checked",))
    with Session(bundle, backend_from_variant(bundle, variant, name), choice, None) as session:
        yield Executor(session.description, emulated, session.infer)


@contextmanager
def _emulation(bundle: Bundle, variant: Variant) -> Iterator[Executor]:
    precision = "fp16" if variant.scheme == "tensorrt" else variant.precision
    if precision not in emulate.TYPES or not emulate.rounds(precision):
        raise UnavailableError(f"{variant.precision} cannot be emulated")
    emulated = emulate.Emulation(graph_from_bytes(bundle.read(variant.file)), precision)
    what = "int8 and fp16" if variant.scheme == "tensorrt" else precision
    yield Executor(emulate.description(what), True, emulated.infer)
