"""The gates: a right graph passes, and each way to be wrong does not."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from resnet_export import verify
from resnet_export.check_inputs import varied_pixels
from resnet_export.eager import EagerAnswers
from resnet_export.errors import VerificationError
from resnet_export.observe import Observation


def eager_answers(*, noise: float = 1e-6, constant: bool = False) -> EagerAnswers:
    random = np.random.default_rng(0)
    exact = random.normal(0, 1, (8, 10))
    if constant:
        exact = np.broadcast_to(exact[:1], exact.shape) + random.normal(0, 1e-6, exact.shape)
    return EagerAnswers({"logits": (exact + noise).astype(np.float32)}, {"logits": exact[:4]})


def observed(answers: EagerAnswers, error: float) -> Observation:
    """What a folded graph gave whose answers are ``error`` away from float64 where that is known."""
    outputs = {"logits": answers.float32["logits"].astype(np.float64)}
    outputs["logits"][:4] = answers.exact["logits"] + error
    return Observation({}, outputs, "test")


def test_a_fold_within_twice_the_noise_passes() -> None:
    answers = eager_answers()
    allowed = 2 * answers.noise("logits")
    found = verify.check_folding(observed(answers, allowed * 0.99), answers)
    assert found.error <= found.allowed
    assert found.noise == answers.noise("logits")


def test_a_fold_beyond_it_is_an_error() -> None:
    answers = eager_answers()
    spread = float(np.max(np.ptp(answers.float32["logits"].astype(np.float64), axis=0)))
    allowed = 2 * answers.noise("logits") + 1e-6 * spread
    verify.check_folding(observed(answers, allowed * 0.999), answers)
    with pytest.raises(VerificationError, match=r"the folded graph is .* from eager in float64"):
        verify.check_folding(observed(answers, allowed * 1.001), answers)


def test_a_fold_that_is_not_finite_is_an_error() -> None:
    answers = eager_answers()
    broken = observed(answers, 0.0)
    broken.outputs["logits"][3, 4] = np.nan  # one of the four that are known in float64
    with pytest.raises(VerificationError):
        verify.check_folding(broken, answers)


def test_a_constant_output_cannot_be_verified() -> None:
    with pytest.raises(VerificationError, match="nearly the same for every input"):
        verify.refuse_constant(eager_answers(constant=True))
    assert verify.refuse_constant(eager_answers()) > verify.LOW_SPREAD


def test_every_output_has_to_depend_on_the_input() -> None:
    good, constant = eager_answers(), eager_answers(constant=True)
    both = dataclasses.replace(good, float32={"logits": good.float32["logits"], "other": constant.float32["logits"]})
    with pytest.raises(VerificationError, match="'other'"):
        verify.refuse_constant(both)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_varied_pixels_vary(channels: int) -> None:
    pixels = varied_pixels(8, 20, 30, channels)
    assert pixels.shape == (8, 20, 30, channels)
    assert pixels.dtype == np.uint8
    assert len({image.tobytes() for image in pixels}) == 8
    assert all(np.ptp(image) >= 32 for image in pixels)
    assert np.ptp(pixels.mean(axis=(1, 2, 3))) > 30
    np.testing.assert_array_equal(pixels, varied_pixels(8, 20, 30, channels))
    assert not np.array_equal(pixels, varied_pixels(8, 20, 30, channels, seed=1))
