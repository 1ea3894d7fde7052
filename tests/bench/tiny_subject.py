"""A bundle of a tiny network."""

from __future__ import annotations

from pathlib import Path

from resnet_export import ExportOptions, ModelOptions, PreprocessingOptions, bundle_from_checkpoint
from resnet_runtime.bundle import Bundle


def exported(checkpoint: Path, folder: Path, *, in_graph: bool = False) -> Bundle:
    options = ExportOptions(
        model=ModelOptions(input_shape=(3, 32, 32)),
        preprocessing=PreprocessingOptions(in_graph=in_graph),
        variants=("fp32",),
        engines=None,
    )
    return Bundle.open(bundle_from_checkpoint(checkpoint, folder / "tiny.bundle", options).path)
