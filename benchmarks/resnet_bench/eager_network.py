"""The checkpoint of ``--model`` as a module, after it was seen to be the one that the bundle was exported from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from resnet_export.checkpoint import checkpoint_from_file
from resnet_export.eager import answers_from_module
from resnet_export.errors import RequestError
from resnet_export.libraries import is_of_a_library
from resnet_export.options import DEFAULT_LIMITS, ModelOptions
from resnet_export.resnet_config import ARCHITECTURES
from resnet_export.source import model_from_checkpoint
from resnet_export.trace import callable_of, named_outputs
from resnet_runtime.bundle import Bundle
from resnet_runtime.manifest import Input, Preprocessing
from resnet_runtime.parity import faults, parity, tie_of


@dataclass(frozen=True, kw_only=True)
class Network:
    """What eager PyTorch runs.

    Attributes:
        module: in evaluation mode, float32, on the CPU; it takes what the bundle's graph takes. A case that changes it
            changes a copy.
        fixed_batch: the only batch size that it takes; None: any.
    """

    module: nn.Module
    fixed_batch: int | None

    @property
    def description(self) -> str:
        """The library and its version."""
        return f"PyTorch {torch.__version__}, fp32, eager"

    @torch.inference_mode()
    def answers(self, batch: NDArray[Any]) -> Mapping[str, NDArray[Any]]:
        """Eager's, on the CPU, by output name."""
        found = named_outputs(self.module(torch.from_numpy(batch)))
        return {name: tensor.numpy() for name, tensor in found.items()}


class Preprocessed(nn.Module):
    """A network behind the preprocessing that the bundle's graph begins with.

    Args:
        network: takes (N, C, H, W).
        rules: of the bundle, with ``in_graph``.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, rules: Preprocessing) -> None:
        super().__init__()
        self.network = network
        self.scale = rules.scale
        self.register_buffer("mean", torch.tensor(rules.mean))
        self.register_buffer("std", torch.tensor(rules.std))

    def forward(self, pixels: Tensor) -> Any:
        """From (N, H, W, C) uint8 to what the network gives."""
        scaled = (pixels.to(self.mean.dtype) * self.scale - self.mean) / self.std
        return self.network(scaled.permute(0, 3, 1, 2).contiguous())


def network_from_file(path: Path, bundle: Bundle, *, trust: bool = False) -> Network:
    """Read a checkpoint, and hold its answers to those that the bundle records.

    Args:
        path: of the checkpoint.
        bundle: that was exported from it.
        trust: whether code in the file may be run.

    Raises:
        RequestError: it cannot be read, or it does not compute what the bundle's model did: to compare the speed of
            two different models says nothing.
    """
    manifest, check = bundle.manifest, bundle.check_data()
    checkpoint = checkpoint_from_file(path, trust=trust)
    options = ModelOptions(input_shape=_image_shape(manifest.input))
    if checkpoint.state_dict is not None:  # which does not tell all of it
        options = _as_exported(options, manifest.model.architecture)
    source = model_from_checkpoint(checkpoint, options)
    found = answers_from_module(source.module, check.inputs, manifest.preprocessing, source.fixed_batch).float32
    wanted = {name: array.shape for name, array in check.outputs.items()}
    if {name: array.shape for name, array in found.items()} != wanted:
        raise RequestError(f"{path.name} has other outputs than the bundle: {_EXPORTED_FROM}")
    limits = DEFAULT_LIMITS["fp32"]
    different = faults(parity(check.outputs, found, tie=tie_of(limits)), limits)
    if different:
        raise RequestError(f"{path.name} does not compute what the bundle does ({different[0]}): {_EXPORTED_FROM}")
    module = callable_of(source.module)
    if manifest.preprocessing.in_graph:
        module = Preprocessed(module, manifest.preprocessing).eval()
    return Network(module=module, fixed_batch=source.fixed_batch)


def _as_exported(options: ModelOptions, architecture: str) -> ModelOptions:
    """Together with what the bundle's architecture says."""
    name, *rest = architecture.split(", ")
    return dataclasses.replace(
        options,
        arch=name if name in ARCHITECTURES or is_of_a_library(name) else None,
        stride_in="1x1" if "stride in the 1x1" in rest else None,
    )


_EXPORTED_FROM = "give the checkpoint that the bundle was exported from"


def _image_shape(entry: Input) -> tuple[int, int, int]:
    """(C, H, W)."""
    return (entry.channels, *entry.height_width)
