"""What is exported: the model, and every other file and option that says how it takes its images."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from resnet_runtime.manifest import Assumption, Batch, Input, Preprocessing

from .checkpoint import Checkpoint, checkpoint_from_file
from .eager import Reference, check_reference, reference_from_file
from .errors import AmbiguousArchitectureError, LibraryError, ReferenceFileError, RequestError
from .hugging_face import SETTLED, folder_from_path, is_pretrained_folder
from .labels import labels_from_file
from .options import ExportOptions, ModelOptions
from .preprocessing import preprocessing_from_options
from .progress import Timings
from .source import model_from_checkpoint
from .source_model import SourceModel


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is exported, once everything about it is settled."""

    model: SourceModel
    assumptions: tuple[Assumption, ...]
    input: Input
    preprocessing: Preprocessing
    reference: Reference | None
    labels: tuple[str, ...] | None


def subject_from_checkpoint(checkpoint: Path, options: ExportOptions, timings: Timings) -> Subject:
    """The checkpoint and every other file that the user named."""
    with timings.stage("read") as stage:
        labels = None if options.labels is None else labels_from_file(options.labels)
        told: tuple[str, ...] = ()
        settled: tuple[str, ...] = ()
        if is_pretrained_folder(checkpoint):
            folder = folder_from_path(checkpoint)
            checkpoint, options = folder.weights, folder.filled_in(options)
            told, settled = folder.notes, SETTLED
            labels = folder.labels if labels is None else labels
        reference = None
        if options.model.reference is not None:
            reference = reference_from_file(options.model.reference)
        read = checkpoint_from_file(checkpoint, trust=options.model.trust, weights=options.model.weights)
        model = _settled(read, options.model, reference)
        stage.tell(f"{model.architecture}, {model.parameters / 1e6:.2f} M parameters, {read.format}")
        model = dataclasses.replace(
            model,
            notes=(*told, *model.notes),
            assumptions=tuple(item for item in model.assumptions if item.subject not in settled),
        )
        for note in model.notes:
            stage.tell(note)
    preprocessing, assumed = preprocessing_from_options(options.preprocessing, model.input_shape, model.stem)
    return Subject(
        model=model,
        assumptions=(*model.assumptions, *assumed),
        input=_input(model, options),
        preprocessing=preprocessing,
        reference=reference,
        labels=labels,
    )


def _settled(checkpoint: Checkpoint, options: ModelOptions, reference: Reference | None) -> SourceModel:
    """The model; of several that have its tensors, the one that answers as the reference does."""
    try:
        return model_from_checkpoint(checkpoint, options)
    except AmbiguousArchitectureError as error:
        if reference is None:
            raise
        ambiguity = error
    channels, height, width = reference.input.shape[1:]
    shape = options.input_shape or (channels, height, width)  # libraries have other sizes for one and the same tensors
    agreeing: dict[str, SourceModel] = {}
    against: list[str] = []
    untried: list[LibraryError] = []
    for arch in ambiguity.candidates:
        try:
            model = model_from_checkpoint(checkpoint, dataclasses.replace(options, arch=arch, input_shape=shape))
            check_reference(model, reference, options.reference_tolerance)
        except LibraryError as error:
            untried.append(error)
        except RequestError as error:  # it answers otherwise, takes no such image, or has no such option
            against += [f"{arch}: {error.message}", *(f"{arch}: {detail}" for detail in error.details)]
        else:
            agreeing[arch] = model
    if len(agreeing) > 1:
        names = tuple(agreeing)
        raise AmbiguousArchitectureError(
            f"{' and '.join(names)} have these tensors, and all agree with the reference: name yours by --arch",
            candidates=names,
        )
    if not agreeing:
        if untried:
            raise LibraryError(f"which network it is cannot be found out: {untried[0].message}", details=against)
        raise ReferenceFileError(
            "none of the networks that have these tensors agrees with the reference", details=against
        )
    ((arch, model),) = agreeing.items()
    note = f"taken for {arch}, which agrees with the reference"
    if untried:
        note += f"; not all others could be tried: {untried[0].message}"
    return dataclasses.replace(model, notes=(*model.notes, note))


def _input(model: SourceModel, options: ExportOptions) -> Input:
    channels, height, width = model.input_shape
    in_graph = options.preprocessing.in_graph
    fixed = model.fixed_batch
    batch = options.batch if fixed is None else Batch(smallest=fixed, optimal=fixed, largest=fixed)
    return Input(
        name="input",
        layout="NHWC" if in_graph else "NCHW",
        dtype="uint8" if in_graph else "float32",
        shape=(height, width, channels) if in_graph else (channels, height, width),
        batch=batch,
    )
