"""What was read from a checkpoint file."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from resnet_export.onnx_network import OnnxNetwork
from resnet_runtime.manifest import Source


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A trained network as its file has it: one of ``state_dict``, ``module``, ``program`` and ``onnx`` is set.

    Attributes:
        source: the file's name without its folder, SHA-256 and size in bytes.
        format: what the file is, such as "torch zip, state_dict", "safetensors" or "TorchScript".
        state_dict: names to contiguous tensors on the CPU, all finite; floating-point numbers are float32, integers
            and booleans are as they were. They may be mapped from the file: do not change it while they are used.
        module: in eval mode, float32, on the CPU.
        program: as ``torch.export.save`` wrote it.
        onnx: of an ONNX file.
        arch: what a training script wrote beside the tensors as the architecture's name.
        notes: what was taken, converted and ignored, a sentence each.
    """

    source: Source
    format: str
    state_dict: dict[str, Tensor] | None = None
    module: nn.Module | torch.jit.ScriptModule | None = None
    program: torch.export.ExportedProgram | None = None
    onnx: OnnxNetwork | None = None
    arch: str | None = None
    notes: tuple[str, ...] = ()
