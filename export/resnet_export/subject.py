"""What is exported: the model, and every other file and option that says how it takes its images."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from resnet_runtime.manifest import Assumption, Batch, Input, Preprocessing

from .checkpoint import checkpoint_from_file
from .eager import Reference, reference_from_file
from .hugging_face import SETTLED, folder_from_path, is_pretrained_folder
from .labels import labels_from_file
from .options import ExportOptions
from .preprocessing import preprocessing_from_options
from .progress import Timings
from .source import SourceModel, model_from_checkpoint


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
        model = model_from_checkpoint(read, options.model)
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
