"""The module to export, from what a checkpoint holds, with everything that had to be assumed about it."""

from __future__ import annotations

import dataclasses

import torch

from resnet_runtime.cli_tables import unicode_name

from .checkpoint import Checkpoint
from .errors import RequestError, SignatureError
from .onnx_network import OnnxNetwork
from .options import ModelOptions
from .source_model import SourceModel, first_channels, parameters_of, shape_assumption, stem_from_shape
from .state_dict_model import model_from_state_dict


def model_from_checkpoint(checkpoint: Checkpoint, options: ModelOptions) -> SourceModel:
    """Build or take over the module.

    Raises:
        ArchitectureError: no known architecture fits the tensors of a state_dict.
        AmbiguousArchitectureError: several do, and they compute different things.
        SignatureError: a traced program takes something else than one image batch.
        RequestError: an option does not apply to this kind of checkpoint.
    """
    name = unicode_name(checkpoint.source.name)  # the manifest is UTF-8, and a file's name need not be
    checkpoint = dataclasses.replace(checkpoint, source=dataclasses.replace(checkpoint.source, name=name))
    if checkpoint.state_dict is not None:
        return model_from_state_dict(checkpoint, checkpoint.state_dict, options)
    for option, value in (("--arch", options.arch), ("--stride-in", options.stride_in)):
        if value is not None:
            raise RequestError(f"{option} is for a state_dict, and {checkpoint.source.name} holds its own architecture")
    if checkpoint.program is not None:
        return _from_program(checkpoint, checkpoint.program, options)
    if checkpoint.onnx is not None:
        return _from_onnx(checkpoint, checkpoint.onnx, options)
    assert checkpoint.module is not None
    module = checkpoint.module.float().eval()
    shape = options.input_shape or (first_channels(module), 224, 224)
    return SourceModel(
        module=module,
        architecture=getattr(module, "original_name", type(module).__name__),
        parameters=parameters_of(module),
        source=checkpoint.source,
        input_shape=shape,
        stem=stem_from_shape(shape),
        fixed_batch=None,
        assumptions=shape_assumption(options, shape),
        notes=checkpoint.notes,
    )


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
        stem=stem_from_shape(shape),
        fixed_batch=batch if isinstance(batch, int) else None,
        assumptions=(),
        notes=checkpoint.notes,
    )


def _from_onnx(checkpoint: Checkpoint, network: OnnxNetwork, options: ModelOptions) -> SourceModel:
    """A file says what images it takes, but for the axes that it leaves open."""
    name, known = checkpoint.source.name, network.image_shape
    if options.input_shape is None and None in known:
        raise SignatureError(f"{name} leaves the size of its images open: give --input-shape C,H,W")
    channels, height, width = options.input_shape or tuple(axis for axis in known if axis is not None)
    shape = (channels, height, width)
    if any(axis not in (None, given) for axis, given in zip(known, shape, strict=True)):
        found = ", ".join("any" if axis is None else str(axis) for axis in known)
        raise SignatureError(f"--input-shape is {options.input_shape}, and {name} takes ({found})")
    return SourceModel(
        module=network,
        architecture="ONNX model",
        parameters=network.parameters_count,
        source=checkpoint.source,
        input_shape=shape,
        stem=stem_from_shape(shape),
        fixed_batch=network.fixed_batch,
        assumptions=(),
        notes=checkpoint.notes,
    )
