"""The stages of an export in which the model itself is in memory and is asked: all that later ones compare with."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from resnet_runtime.bundle import CheckData

from . import verify
from .check_inputs import check_inputs
from .eager import EagerAnswers, answers_from_module, check_reference, classes_from_module
from .errors import RequestError
from .options import ExportOptions
from .progress import Timings
from .quantization.evaluation import evaluation_from_source
from .quantization.images import ImageStream, check_varied, images_from_source
from .subject import Subject

_MADE_SAMPLES = 8
_CALIBRATED_SAMPLES = 32


def calibration_images(subject: Subject, options: ExportOptions) -> ImageStream | None:
    """The calibration images; those that will be held in memory are read now, so that what is wrong is said first."""
    calibration = options.calibration
    if calibration.images is None or "int8" not in options.wanted:
        return None
    images = images_from_source(
        calibration.images, subject.input, subject.preprocessing, skip_bad=calibration.skip_bad_images
    )
    fixed = subject.model.fixed_batch
    head = images.head(max(calibration.quantize.images, options.check_samples or _CALIBRATED_SAMPLES, fixed or 1))
    check_varied(head)
    if fixed is not None and len(head) < fixed:
        raise RequestError(
            f"--calibration gives {len(head)} images, and the model takes batches of {fixed} alone: give as many"
        )
    return images


def compare_with_reference(subject: Subject, options: ExportOptions, timings: Timings) -> None:
    """Before anything is made, so that no assumption passes as right."""
    if subject.reference is None:
        return
    with timings.stage("reference") as stage:
        worst = check_reference(subject.model, subject.reference, options.model.reference_tolerance)
        stage.tell(f"{len(subject.reference.input)} samples, agrees within {worst:.1e} of the spread")


def ask_eager(
    subject: Subject, images: ImageStream | None, options: ExportOptions, timings: Timings
) -> tuple[CheckData, EagerAnswers]:
    """Varied inputs, the reference's among them, and what the model itself makes of them."""
    with timings.stage("eager") as stage:
        fixed = subject.model.fixed_batch
        inputs = _check_inputs(subject, images, options)
        taken = images is not None or subject.reference is not None or subject.preprocessing.in_graph
        taken = taken or fixed is not None
        answers = answers_from_module(subject.model.module, inputs, subject.preprocessing, fixed)
        relative = verify.refuse_constant(answers)
        if not answers.exact:
            stage.warn("the model cannot be computed in float64, so that its folding is compared with float32")
        if fixed is not None:
            stage.warn(f"the model takes batches of {fixed} alone, so that --batch does not apply")
        kind = "varied inputs" if images is None else "inputs"
        stage.tell(f"{len(inputs)} {kind}, answers spread over {relative:.0%} of their range")
        if relative < verify.LOW_SPREAD:
            stage.warn(
                f"the answers move by only {relative:.0%} of their range over varied inputs: the gates say little"
                + ("" if taken else "; give inputs of your own by --reference")
            )
    return CheckData(inputs, answers.float32), answers


def _check_inputs(subject: Subject, images: ImageStream | None, options: ExportOptions) -> NDArray[np.generic]:
    """The calibration images where there are some, else made ones; the reference's before them."""
    fixed = subject.model.fixed_batch or 1
    if images is not None:
        inputs = images.head(options.check_samples or _CALIBRATED_SAMPLES)
        if len(inputs) < 2:  # one image says nothing of how the answers vary
            made = check_inputs(_MADE_SAMPLES - len(inputs), subject.input, subject.preprocessing)
            inputs = np.concatenate([inputs, made])
        repeated = np.take(inputs, range(-(-max(2, len(inputs)) // fixed) * fixed), axis=0, mode="wrap")
        inputs = repeated if len(repeated) > len(inputs) else inputs
    else:
        count = options.check_samples or _MADE_SAMPLES
        inputs = check_inputs(-(-count // fixed) * fixed, subject.input, subject.preprocessing)
    if subject.reference is not None and not subject.preprocessing.in_graph and subject.model.fixed_batch is None:
        inputs = np.concatenate([subject.reference.input[: options.check_samples or _MADE_SAMPLES], inputs])
    return inputs


def evaluate_eager(
    subject: Subject, answers: EagerAnswers, options: ExportOptions, timings: Timings
) -> verify.Evaluation | None:
    """What the model itself makes of the evaluation images, while it is in memory."""
    if options.evaluation.images is None:
        return None
    with timings.stage("evaluate") as stage:
        name, logits = next(iter(answers.float32.items()))
        if logits.ndim != 2 or logits.shape[1] < 2:
            raise RequestError(f"--evaluation needs a classifier, and the output {name!r} has the shape {logits.shape}")
        found = evaluation_from_source(
            options.evaluation.images,
            subject.input,
            subject.preprocessing,
            classes=logits.shape[1],
            labels=subject.labels,
            labels_file=options.evaluation.labels,
            skip_bad=options.calibration.skip_bad_images,
        )
        classes, labels = classes_from_module(
            subject.model.module,
            found,
            subject.preprocessing,
            subject.model.fixed_batch,
            lambda done: stage.advance(done, found.count, "images"),
        )
        evaluation = verify.Evaluation(found, classes, labels, options.evaluation.max_drop)
        stage.tell(
            f"{len(classes)} images, eager's top-1 accuracy {evaluation.top1:.2%}"
            if labels is not None
            else f"{len(classes)} images without labels: agreement with the model is measured"
        )
        for note in found.notes:
            stage.warn(note)
        if found.skipped:
            stage.warn(f"evaluation images that were skipped: {len(found.skipped)}, the first: {found.skipped[0]}")
    return evaluation
