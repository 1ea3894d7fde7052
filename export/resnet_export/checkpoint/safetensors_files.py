"""Tensors in the safetensors format (https://huggingface.co/docs/safetensors), which holds no code."""

from __future__ import annotations

from pathlib import Path

import safetensors
from torch import Tensor

from resnet_export.errors import CheckpointError

from .recognition import safetensors_header_length


def tensors_from_safetensors(path: Path, size: int) -> dict[str, Tensor]:
    """All tensors of the file by name.

    The header's length is compared with the file's size before anything is read; the library checks all the rest.

    Raises:
        CheckpointError: the file is cut off or damaged.
    """
    with path.open("rb") as file:
        length = safetensors_header_length(file.read(8))
    if length > size - 8:
        raise CheckpointError(
            f"{path.name} is cut off or damaged: its safetensors header claims {length} bytes and the file has {size}"
        )
    try:
        with safetensors.safe_open(path, framework="pt", device="cpu") as opened:
            return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  (it is no mapping)
    except (safetensors.SafetensorError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(
            f"{path.name} is a safetensors file that is cut off or damaged ({error}): copy or download it again"
        ) from error
