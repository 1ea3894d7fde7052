"""How far a variant's answers are from eager's, and whether a gate lets them pass.

All errors are relative to the *spread*: how far an output moves over different inputs, as the range over the inputs
(maximum - minimum) of the element that moves most. A network whose answers hardly depend on its input would pass any
test that is relative to their size; here it fails.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from .manifest import Limits, Parity

MIN_SPREAD = 1e-3
"""The smallest spread, relative to the largest magnitude of the output, of which anything can be said."""

Float64 = NDArray[np.float64]


def spread(expected: NDArray[np.floating]) -> float:
    """The largest range over the inputs of any element, in the output's own unit.

    Args:
        expected: (N, ...).
    """
    return float(_ranges(expected).max())


def relative_spread(expected: NDArray[np.floating]) -> float:
    """How lively the output is: the mean of the elements' ranges over the inputs, relative to the range of all values.

    0 for a constant, 1 where every element goes over the whole range. A mean: one lively element does not speak for
    all.
    """
    whole = float(expected.max()) - float(expected.min())
    return float(_ranges(expected).mean()) / whole if whole > 0 else 0.0


def _ranges(expected: NDArray[np.floating]) -> Float64:
    flat = expected.reshape(len(expected), -1).astype(np.float64)
    return np.asarray(flat.max(axis=0) - flat.min(axis=0))


def parity(
    expected: Mapping[str, NDArray[np.floating]],
    actual: Mapping[str, NDArray[np.floating]],
    *,
    tie: float = 0.0,
) -> Parity:
    """Compare the outputs in float64; where there are several, each figure is of the worst.

    Args:
        expected: eager's answers by output name, (N, ...).
        actual: the variant's, of the same names and shapes.
        tie: relative to the spread: samples whose two best expected answers are no further apart are not counted in
            the top-1 agreement (see ``tie_of``).

    A value that is not finite gives an infinite error. So does an output that is constant, expected or actual.
    """
    each = [
        _parity(np.asarray(expected[name], np.float64), np.asarray(actual[name], np.float64), tie) for name in expected
    ]
    return Parity(
        samples=each[0].samples,
        undecided=max(p.undecided for p in each),
        max_error=max(p.max_error for p in each),
        mean_error=max(p.mean_error for p in each),
        centred_cosine=min(p.centred_cosine for p in each),
        snr_db=min(p.snr_db for p in each),
        top1_agreement=min(p.top1_agreement for p in each),
        top5_agreement=min(p.top5_agreement for p in each),
    )


MAX_TIE = 0.03
"""A gate that allows any mean error would otherwise leave no sample to agree on."""


def tie_of(limits: Limits) -> float:
    """How close two answers may be, relative to the spread, for an error that the gate allows to exchange them.

    Twice the mean error allowed, one for each answer. It is fixed beforehand: any exchange lies within twice the error
    that was *measured*, so that a rule made from that would excuse every one.

    A gate that allows a centred cosine and names no mean error (INT8's) gets ``MAX_TIE``. A cosine of 0.98 lets the
    error be a fifth of the answers' deviations from their mean, in the root mean square. Those are a sixth of the
    spread or more where they are normally distributed, so that twice the error is 6% of it, which the maximum caps.
    """
    if limits.mean_error is None and limits.centred_cosine is not None:
        return MAX_TIE
    return min(2 * (limits.mean_error or 0.0), MAX_TIE)


_UNUSABLE = 1e30
_MAX_SNR_DB = 400.0


def _parity(expected: Float64, actual: Float64, tie: float) -> Parity:
    assert expected.shape == actual.shape, "the runtime holds every answer to its signature"
    samples = len(expected)
    expected = expected.reshape(samples, -1)
    actual = actual.reshape(samples, -1)
    scale = spread(expected)
    usable = bool(np.isfinite(expected).all() and np.isfinite(actual).all())
    constant = usable and (scale <= MIN_SPREAD * float(np.abs(expected).max()) or spread(actual) <= MIN_SPREAD * scale)
    if not usable or constant:
        return Parity(
            samples=samples, undecided=0, max_error=_UNUSABLE, mean_error=_UNUSABLE, centred_cosine=-1.0,
            snr_db=-_MAX_SNR_DB, top1_agreement=0.0, top5_agreement=0.0,
        )  # fmt: skip
    error = np.abs(actual - expected)
    agreement_1, agreement_5, undecided = _agreement(expected, actual, tie * scale)
    return Parity(
        samples=samples,
        undecided=undecided,
        max_error=float(error.max()) / scale,
        mean_error=float(error.mean()) / scale,
        centred_cosine=_centred_cosine(expected, actual),
        snr_db=_snr_db(expected, error),
        top1_agreement=agreement_1,
        top5_agreement=agreement_5,
    )


def _centred_cosine(expected: Float64, actual: Float64) -> float:
    """The cosine after each element's mean over the inputs was taken away, so that a bias cannot hide an error."""
    centre = expected.mean(axis=0)
    a, b = expected - centre, actual - centre
    norm = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(np.clip(np.sum(a * b) / norm, -1.0, 1.0)) if norm > 0 else -1.0


def _snr_db(expected: Float64, error: Float64) -> float:
    """10 log10(signal / noise), the signal being the variance over the inputs."""
    noise = float(np.mean(error**2))
    signal = float(np.mean((expected - expected.mean(axis=0)) ** 2))
    if noise == 0:
        return _MAX_SNR_DB
    return float(np.clip(10 * math.log10(max(signal, 1e-300) / noise), -_MAX_SNR_DB, _MAX_SNR_DB))


def _agreement(expected: Float64, actual: Float64, tie: float) -> tuple[float, float, int]:
    """Top-1 and top-5 agreement in 0..1, and how many samples are undecided: left out of the first."""
    if expected.shape[1] < 2:
        return 1.0, 1.0, 0
    ranked = np.sort(expected, axis=1)
    decided = ranked[:, -1] - ranked[:, -2] > tie
    best = expected.argmax(axis=1)
    same = best == actual.argmax(axis=1)
    top1 = float(same[decided].mean()) if decided.any() else 1.0
    k = min(5, expected.shape[1])
    top5 = (np.argpartition(actual, -k, axis=1)[:, -k:] == best[:, None]).any(axis=1)
    return top1, float(top5.mean()), int((~decided).sum())


def faults(measured: Parity, limits: Limits) -> tuple[str, ...]:
    """What of ``measured`` is outside ``limits``, a sentence each; empty where the gate is passed."""
    if measured.max_error >= _UNUSABLE:
        return ("an answer is not finite, or the model's answers do not depend on its input",)
    found = []
    for name, value, allowed in (
        ("max error", measured.max_error, limits.max_error),
        ("mean error", measured.mean_error, limits.mean_error),
    ):
        if allowed is not None and not value <= allowed:
            found.append(f"{name} {value:.3%} of the spread, {allowed:.3%} allowed")
    for name, value, needed in (
        ("centred cosine", measured.centred_cosine, limits.centred_cosine),
        ("top-1 agreement", measured.top1_agreement, limits.top1_agreement),
    ):
        if needed is not None and not value >= needed:
            found.append(f"{name} {value:.5g}, at least {needed:.5g} needed")
    return tuple(found)
