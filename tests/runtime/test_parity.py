"""The figures of parity on arrays of which they are known, and what no gate may let pass."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from resnet_runtime.manifest import Limits, Parity
from resnet_runtime.parity import MAX_TIE, faults, parity, relative_spread, spread, tie_of

GATES = {
    "fp16": Limits(max_error=0.02, mean_error=0.003, top1_agreement=0.995),
    "bf16": Limits(max_error=0.10, mean_error=0.015, top1_agreement=0.98),
    "int8": Limits(centred_cosine=0.98, top1_agreement=0.95),
    "top-1 only": Limits(top1_agreement=0.5),
    "nothing": Limits(),
}
every_gate = pytest.mark.parametrize("limits", GATES.values(), ids=GATES.keys())
UNUSABLE = ("an answer is not finite, or the model's answers do not depend on its input",)

# Three samples of four classes. The range of each class is 4: the spread is 4. All figures are powers of two.
EXPECTED = np.array([[8, 0, 0, 4], [4, 4, 0, 8], [8, 2, 4, 4]], np.float64)


def measure(expected: NDArray[Any], actual: NDArray[Any], tie: float = 0.0) -> Parity:
    return parity({"logits": expected}, {"logits": actual}, tie=tie)


def test_spread_is_the_range_of_the_element_that_moves_most() -> None:
    assert spread(EXPECTED) == 4.0
    assert spread(np.array([[[1.0, 5.0]], [[2.0, 5.0]], [[4.0, 5.0]]])) == 3.0


def test_one_lively_element_does_not_speak_for_all() -> None:
    assert relative_spread(np.array([[[1.0, 5.0]], [[2.0, 5.0]], [[4.0, 5.0]]])) == 0.375


def test_spread_of_one_sample_and_of_a_constant_is_zero() -> None:
    assert spread(EXPECTED[:1]) == 0.0
    assert spread(np.ones((5, 3))) == 0.0


def test_spread_of_float16_does_not_overflow() -> None:
    assert spread(np.array([[-60000.0], [60000.0]], np.float16)) == 2 * float(np.float16(60000.0))


def test_relative_spread() -> None:
    assert relative_spread(EXPECTED) == 0.5
    assert relative_spread(np.ones((5, 3))) == 0.0


def test_the_same_answers_are_perfect() -> None:
    assert measure(EXPECTED, EXPECTED.astype(np.float32)) == Parity(
        samples=3,
        undecided=0,
        max_error=0.0,
        mean_error=0.0,
        centred_cosine=pytest.approx(1, abs=1e-15),  # |a|^2 / |a|^2, the norms rounded in float64
        snr_db=400.0,
        top1_agreement=1.0,
        top5_agreement=1.0,
    )


def test_known_errors_give_known_figures() -> None:
    actual = EXPECTED.copy()
    actual[0, 0] -= 1
    actual[1, 2] += 0.5
    found = measure(EXPECTED, actual)
    assert found.max_error == 1 / 4
    assert found.mean_error == 1.5 / 12 / 4
    signal = np.mean((EXPECTED - EXPECTED.mean(axis=0)) ** 2)
    assert found.snr_db == 10 * math.log10(signal / (1.25 / 12))
    assert found.top1_agreement == 1.0


def test_a_negated_answer_has_the_cosine_minus_one() -> None:
    centre = EXPECTED.mean(axis=0)
    assert measure(EXPECTED, 2 * centre - EXPECTED).centred_cosine == pytest.approx(-1, abs=1e-15)  # sums in float64


def test_a_bias_shows_in_the_errors_and_in_the_cosine() -> None:
    found = measure(EXPECTED, EXPECTED + 100)
    # Both are centred by the expected mean, so that the bias stays: cos = |a| / sqrt(|a|^2 + 12 * 100^2).
    squares = np.sum((EXPECTED - EXPECTED.mean(axis=0)) ** 2)
    assert found.centred_cosine == pytest.approx(math.sqrt(squares / (squares + 120000)), rel=1e-14)  # sums in float64
    assert found.max_error == found.mean_error == 25.0


def test_top_1_counts_samples() -> None:
    actual = EXPECTED.copy()
    actual[0] = [0, 8, 0, 4]
    assert measure(EXPECTED, actual).top1_agreement == 2 / 3


def test_top_5_looks_for_the_expected_best_among_the_actual_five() -> None:
    expected = np.eye(8)[[0, 1, 2, 3]] * 8
    actual = expected.copy()
    actual[0] = [3, 8, 7, 6, 5, 4, 0, 0]
    actual[1] = [8, 4, 7, 6, 5, 0, 0, 0]
    found = measure(expected, actual)
    assert found.top1_agreement == 0.5
    assert found.top5_agreement == 0.75


def test_a_sample_whose_two_best_are_tied_is_not_counted() -> None:
    expected = np.array([[8.0, 0.0, 8.0], [0.0, 8.0, 4.0], [4.0, 0.0, 0.0]])
    actual = expected.copy()
    actual[0, 2] = 9.0
    found = measure(expected, actual)
    assert (found.undecided, found.top1_agreement) == (1, 1.0)


def test_the_tie_is_relative_to_the_spread_and_includes_its_border() -> None:
    # The gaps between the two best are 4, 4 and 4, the spread is 4.
    assert measure(EXPECTED, EXPECTED, tie=0.999).undecided == 0
    assert measure(EXPECTED, EXPECTED, tie=1.0).undecided == 3


def test_the_tie_comes_from_what_the_gate_allows() -> None:
    assert tie_of(Limits(mean_error=0.003)) == 0.006
    assert tie_of(Limits(max_error=0.02)) == 0.0
    assert tie_of(Limits(mean_error=1.0)) == MAX_TIE
    assert tie_of(Limits(top1_agreement=0.5)) == 0.0


def test_the_tie_of_a_gate_that_allows_a_cosine_instead_of_an_error_is_the_largest() -> None:
    assert tie_of(GATES["int8"]) == MAX_TIE
    assert tie_of(Limits(centred_cosine=0.98, max_error=0.1)) == MAX_TIE
    assert tie_of(Limits(centred_cosine=0.98, mean_error=0.003)) == 0.006


def test_int8_is_not_failed_for_answers_that_eager_hardly_tells_apart() -> None:
    expected = np.array([[8.0, 7.9, 0], [0, 8, 4], [4, 0, 8], [8, 0, 4]])
    actual = expected + np.array([[0, 0.2, 0], [0.2, 0, 0], [0, 0, 0.2], [0, 0.2, 0]])  # 2.5% of the spread
    measured = measure(expected, actual, tie=tie_of(GATES["int8"]))
    assert (measured.undecided, measured.top1_agreement) == (1, 1.0)
    assert faults(measured, GATES["int8"]) == ()
    assert measure(expected, actual).top1_agreement == 0.75


def test_of_several_outputs_each_figure_is_of_the_worst() -> None:
    good, bad = EXPECTED, EXPECTED.copy()
    bad[0] = [0, 8, 0, 4]
    both = parity({"a": EXPECTED, "b": EXPECTED}, {"a": good, "b": bad})
    assert both == measure(EXPECTED, bad)
    assert both == parity({"a": EXPECTED, "b": EXPECTED}, {"a": bad, "b": good})


def test_outputs_of_many_axes_are_flattened() -> None:
    shape = (3, 2, 2)
    assert measure(EXPECTED.reshape(shape), EXPECTED.reshape(shape) + 1) == measure(EXPECTED, EXPECTED + 1)


@every_gate
@pytest.mark.parametrize("value", [0.0, 1.0, 1e30])
def test_a_constant_answer_fails_every_gate(limits: Limits, value: float) -> None:
    assert faults(measure(EXPECTED, np.full_like(EXPECTED, value)), limits) == UNUSABLE


@every_gate
def test_one_answer_for_every_input_fails_every_gate(limits: Limits) -> None:
    actual = np.broadcast_to(EXPECTED.mean(axis=0), EXPECTED.shape)
    assert faults(measure(EXPECTED, actual), limits) == UNUSABLE


@every_gate
def test_a_model_whose_answers_do_not_depend_on_the_input_fails_every_gate(limits: Limits) -> None:
    expected = 5 + EXPECTED * 1e-4
    assert faults(measure(expected, expected), limits) == UNUSABLE


@every_gate
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_value_that_is_not_finite_fails_every_gate(limits: Limits, value: float) -> None:
    actual = EXPECTED.copy()
    actual[1, 2] = value
    assert faults(measure(EXPECTED, actual), limits) == UNUSABLE


def test_unusable_figures_can_stand_in_a_manifest() -> None:
    found = measure(EXPECTED, np.full_like(EXPECTED, np.nan))
    assert all(math.isfinite(value) for value in vars(found).values())


def test_a_limit_is_itself_allowed() -> None:
    actual = EXPECTED.copy()
    actual[0, 0] -= 1
    found = measure(EXPECTED, actual)
    limits = Limits(
        max_error=found.max_error,
        mean_error=found.mean_error,
        centred_cosine=found.centred_cosine,
        top1_agreement=found.top1_agreement,
    )
    assert faults(found, limits) == ()


def test_each_figure_outside_its_limit_is_a_sentence() -> None:
    actual = EXPECTED.copy()
    actual[0] = [4, 8, 0, 4]
    found = measure(EXPECTED, actual)
    limits = Limits(max_error=0.5, mean_error=0.05, centred_cosine=0.99, top1_agreement=0.9)
    assert faults(found, limits) == (
        "max error 200.000% of the spread, 50.000% allowed",
        "mean error 25.000% of the spread, 5.000% allowed",
        f"centred cosine {found.centred_cosine:.5g}, at least 0.99 needed",
        "top-1 agreement 0.66667, at least 0.9 needed",
    )


def test_a_limit_of_zero_is_a_limit() -> None:
    assert faults(measure(EXPECTED, EXPECTED + 1e-6), Limits(max_error=0.0)) != ()


def test_answers_of_another_shape_are_not_compared() -> None:
    with pytest.raises(AssertionError):
        measure(EXPECTED, EXPECTED.reshape(4, 3))


def test_a_gate_that_allows_any_error_does_not_leave_every_sample_undecided() -> None:
    limits = Limits(max_error=10.0, mean_error=10.0, top1_agreement=0.995)
    reversed_answers = {"logits": EXPECTED[:, ::-1]}
    measured = parity({"logits": EXPECTED}, reversed_answers, tie=tie_of(limits))
    assert any("top-1" in fault for fault in faults(measured, limits))
