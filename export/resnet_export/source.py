"""The module to export, from what a checkpoint holds, with everything that had to be assumed about it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch

from resnet_runtime.cli_tables import unicode_name
from resnet_runtime.manifest import Assumption, Source

from .checkpoint import Checkpoint
from .errors import RequestError, SignatureError
from .families import TORCHVISION, in_torchvisions_names
from .libraries import is_of_a_library, network_from_library
from .onnx_network import OnnxNetwork
from .options import ModelOptions
from .resnet import module_from_state_dict
from .resnet_config import default_input_shape
from .resnet_inference import Inferred, config_from_state_dict
from .trace import Traceable


@dataclass(frozen=True, kw_only=True)
class SourceModel:
    """What is exported.

    Attributes:
        module: in evaluation mode, float32, on the CPU.
        architecture: its name.
        parameters: how many numbers training could change.
        source: the file.
        input_shape: (C, H, W).
        stem: ``imagenet`` or ``cifar``: how its images are usually preprocessed.
        fixed_batch: the only batch size that it takes; None: any.
        assumptions: what the file could not tell.
        notes: what reading it ignored or changed.
    """

    module: Traceable
    architecture: str
    parameters: int
    source: Source
    input_shape: tuple[int, int, int]
    stem: str
    fixed_batch: int | None
    assumptions: tuple[Assumption, ...]
    notes: tuple[str, ...]

    def without_module(self) -> SourceModel:
        """The same, so that the memory of the module can be freed."""
        return dataclasses.replace(self, module=torch.nn.Identity())


def model_from_checkpoint(checkpoint: Checkpoint, options: ModelOptions) -> SourceModel:
    """Build or take over the module.

    Raises:
        ArchitectureError: no known architecture fits the tensors of a state_dict.
        SignatureError: a traced program takes something else than one image batch.
        RequestError: an option does not apply to this kind of checkpoint.
    """
    name = unicode_name(checkpoint.source.name)  # the manifest is UTF-8, and a file's name need not be
    checkpoint = dataclasses.replace(checkpoint, source=dataclasses.replace(checkpoint.source, name=name))
    if checkpoint.state_dict is not None:
        return _from_state_dict(checkpoint, options)
    for option, value in (("--arch", options.arch), ("--stride-in", options.stride_in)):
        if value is not None:
            raise RequestError(f"{option} is for a state_dict, and {checkpoint.source.name} holds its own architecture")
    if checkpoint.program is not None:
        return _from_program(checkpoint, checkpoint.program, options)
    if checkpoint.onnx is not None:
        return _from_onnx(checkpoint, checkpoint.onnx, options)
    assert checkpoint.module is not None
    module = checkpoint.module.float().eval()
    shape = options.input_shape or (_first_channels(module), 224, 224)
    return SourceModel(
        module=module,
        architecture=getattr(module, "original_name", type(module).__name__),
        parameters=sum(parameter.numel() for parameter in module.parameters()),
        source=checkpoint.source,
        input_shape=shape,
        stem="imagenet" if max(shape[1:]) > 64 else "cifar",
        fixed_batch=None,
        assumptions=_shape_assumption(options, shape),
        notes=checkpoint.notes,
    )


def _from_state_dict(checkpoint: Checkpoint, options: ModelOptions) -> SourceModel:
    assert checkpoint.state_dict is not None
    if options.arch is not None and is_of_a_library(options.arch):
        return _from_library(checkpoint, options.arch, options)
    renamed = in_torchvisions_names(checkpoint.state_dict)
    inferred = config_from_state_dict(
        renamed.tensors, arch=options.arch, stride_in=options.stride_in, family=renamed.family
    )
    module = module_from_state_dict(renamed.tensors, inferred.config)
    notes = () if renamed.family is TORCHVISION else (f"the tensors have {renamed.family.name} names",)
    shape = options.input_shape or default_input_shape(inferred.config)
    if shape[0] != inferred.config.in_channels:
        raise SignatureError(
            f"--input-shape has {shape[0]} channels, and the model's first convolution takes "
            f"{inferred.config.in_channels}"
        )
    return SourceModel(
        module=module,
        architecture=_architecture(inferred),
        parameters=sum(parameter.numel() for parameter in module.parameters()),
        source=checkpoint.source,
        input_shape=shape,
        stem=inferred.config.stem,
        fixed_batch=None,
        assumptions=(*inferred.assumptions, *_shape_assumption(options, shape)),
        notes=(*checkpoint.notes, *notes),
    )


def _from_library(checkpoint: Checkpoint, arch: str, options: ModelOptions) -> SourceModel:
    """``--arch timm:NAME`` or ``torchvision:NAME``: the library's own code, with the checkpoint's tensors."""
    assert checkpoint.state_dict is not None
    if options.stride_in is not None:
        raise RequestError(f"--stride-in is for architectures that are built here, and {arch} says where it strides")
    found = network_from_library(arch, checkpoint.state_dict)
    shape = options.input_shape or found.input_shape
    if shape[0] != found.input_shape[0]:
        raise SignatureError(
            f"--input-shape has {shape[0]} channels, and the model's first convolution takes {found.input_shape[0]}"
        )
    return SourceModel(
        module=found.module,
        architecture=arch,
        parameters=sum(parameter.numel() for parameter in found.module.parameters()),
        source=checkpoint.source,
        input_shape=shape,
        stem="imagenet" if max(shape[1:]) > 64 else "cifar",
        fixed_batch=None,
        assumptions=_shape_assumption(options, shape),
        notes=(*checkpoint.notes, f"built by {found.library}"),
    )


def _architecture(inferred: Inferred) -> str:
    """The name, and what the name alone would leave open."""
    strides_first = inferred.config.block == "bottleneck" and inferred.config.stride_in == "1x1"
    return f"{inferred.name}, stride in the 1x1" if strides_first else inferred.name


def _from_program(checkpoint: Checkpoint, program: torch.export.ExportedProgram, options: ModelOptions) -> SourceModel:
    """A program carries its own input shape, and its batch axis may be fixed."""
    names = program.graph_signature.user_inputs
    metas = [node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder" and node.name in names]
    if len(metas) != 1 or not isinstance(metas[0], torch.Tensor) or metas[0].ndim != 4:
        raise SignatureError(
            f"{checkpoint.source.name} takes {len(metas)} inputs, or one that is not (N, C, H, W): a ResNet takes one"
        )
    if metas[0].dtype != torch.float32:
        raise SignatureError(f"{checkpoint.source.name} takes {metas[0].dtype}: export it again from a float32 module")
    batch, channels, height, width = metas[0].shape
    if not all(isinstance(dim, int) for dim in (channels, height, width)):
        raise SignatureError(f"{checkpoint.source.name} has a dynamic image size: export it again with a fixed one")
    shape = (channels, height, width)
    if options.input_shape not in (None, shape):
        raise SignatureError(f"--input-shape is {options.input_shape}, and {checkpoint.source.name} takes {shape}")
    return SourceModel(
        module=program,
        architecture="exported program",
        parameters=sum(program.state_dict[name].numel() for name in program.graph_signature.parameters),
        source=checkpoint.source,
        input_shape=shape,
        stem="imagenet" if max(shape[1:]) > 64 else "cifar",
        fixed_batch=batch if isinstance(batch, int) else None,
        assumptions=(),
        notes=checkpoint.notes,
    )


def _from_onnx(checkpoint: Checkpoint, network: OnnxNetwork, options: ModelOptions) -> SourceModel:
    """A file says what images it takes, but for the axes that it leaves open."""
    name, known = checkpoint.source.name, network.image_shape
    if options.input_shape is None and None in known:
        raise SignatureError(f"{name} leaves the size of its images open: give --input-shape C,H,W")
    shape = options.input_shape or tuple(axis for axis in known if axis is not None)
    if any(axis not in (None, given) for axis, given in zip(known, shape, strict=True)):
        found = ", ".join("any" if axis is None else str(axis) for axis in known)
        raise SignatureError(f"--input-shape is {options.input_shape}, and {name} takes ({found})")
    return SourceModel(
        module=network,
        architecture="ONNX model",
        parameters=network.parameters_count,
        source=checkpoint.source,
        input_shape=(shape[0], shape[1], shape[2]),
        stem="imagenet" if max(shape[1:]) > 64 else "cifar",
        fixed_batch=network.fixed_batch,
        assumptions=(),
        notes=checkpoint.notes,
    )


def _first_channels(module: torch.nn.Module) -> int:
    """The channels that the first convolution takes; 3 where the module has none."""
    for parameter in module.parameters():
        if parameter.ndim == 4:
            return int(parameter.shape[1])
    return 3


def _shape_assumption(options: ModelOptions, shape: tuple[int, int, int]) -> tuple[Assumption, ...]:
    if options.input_shape is not None:
        return ()
    return (Assumption(subject="input shape", value=",".join(map(str, shape)), option="--input-shape"),)
