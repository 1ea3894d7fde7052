"""The gates: what is shipped, run as it is shipped, against what the model itself computes.

The staged bundle's files are opened and run by ``resnet_runtime``. Where this host has no arithmetic of a variant's
precision, ``emulate`` rounds to it, and the gate says so.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from resnet_runtime.backends import BACKENDS, facts_of
from resnet_runtime.backends.base import EMULATED
from resnet_runtime.bundle import Bundle, CheckData
from resnet_runtime.check import check_variant
from resnet_runtime.errors import BackendError, UnavailableError
from resnet_runtime.manifest import FileRecord, Gate, Manifest, Variant
from resnet_runtime.parity import MIN_SPREAD, faults, parity, relative_spread, spread, tie_of

from . import emulate
from .eager import EagerAnswers
from .errors import VerificationError
from .graph import graph_from_bytes
from .observe import Observation

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


def gate_from_variant(bundle: Bundle, variant: Variant, data: CheckData) -> tuple[Gate, tuple[str, ...]]:
    """Run a variant of the staged bundle and judge it.

    Args:
        bundle: the staged one.
        variant: whose ``gate.limits`` are to hold.
        data: inputs and eager's answers.

    Returns:
        The gate, and what was outside its limits.

    Raises:
        VerificationError: nothing on this host can compute the variant's precision.
    """
    limits = variant.gate.limits
    for name in BACKENDS:
        facts = facts_of(name)
        if variant.precision in facts.precisions:
            try:
                measured, executor = check_variant(bundle, data, variant, name)
            except UnavailableError:
                continue  # it computes this graph in another precision after all
            except BackendError as error:
                return variant.gate, (error.message,)
            found = faults(measured, limits)
            emulated = facts.precisions[variant.precision] == EMULATED
            return Gate(passed=not found, executor=executor, emulated=emulated, limits=limits, parity=measured), found
    if variant.precision not in emulate.TYPES or not emulate.rounds(variant.precision):
        raise VerificationError(f"nothing on this host computes {variant.precision}, so that it cannot be verified")
    graph = graph_from_bytes(bundle.read(variant.file))
    answers = emulate.answers_from_emulation(graph, variant.precision, data.inputs)
    measured = parity(data.outputs, answers, tie=tie_of(limits))
    found = faults(measured, limits)
    executor = emulate.description(variant.precision)
    return Gate(passed=not found, executor=executor, emulated=True, limits=limits, parity=measured), found
