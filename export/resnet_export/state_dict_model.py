"""The network whose tensors a state_dict holds: recognized, built and filled."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from torch import Tensor

from .checkpoint import Checkpoint
from .errors import AmbiguousArchitectureError, ArchitectureError, LibraryError, RequestError, SignatureError
from .families import TORCHVISION, in_torchvisions_names
from .fingerprints import candidates_from_state_dict, told_candidate
from .libraries import is_of_a_library, network_from_library
from .options import ModelOptions
from .resnet import module_from_state_dict
from .resnet_config import default_input_shape
from .resnet_inference import Inferred, config_from_state_dict
from .source_model import SourceModel, parameters_of, shape_assumption, stem_from_shape


def model_from_state_dict(
    checkpoint: Checkpoint, state_dict: Mapping[str, Tensor], options: ModelOptions
) -> SourceModel:
    """Build it: with this project's own code where that covers the architecture, else with its library's.

    Args:
        checkpoint: that the tensors are of, for its notes and what it says of itself.
        state_dict: by any known family's names, float32 tensors.
        options: ``arch`` and ``stride_in`` say what no tensor does.

    Raises:
        ArchitectureError: no known architecture fits the tensors.
        AmbiguousArchitectureError: several do, and neither ``arch`` nor the file says which it is.
        SignatureError: ``input_shape`` has another number of channels.
        RequestError: the library that builds it is not here, or an option is not for it.
    """
    if options.arch is not None:
        build = _from_library if is_of_a_library(options.arch) else _built_here
        return build(checkpoint, state_dict, options)
    arch, told = _recognized(checkpoint, state_dict)
    checkpoint = dataclasses.replace(checkpoint, notes=(*checkpoint.notes, *told))
    if arch is None or not is_of_a_library(arch):
        return _built_here(checkpoint, state_dict, dataclasses.replace(options, arch=arch))
    try:
        return _from_library(checkpoint, state_dict, dataclasses.replace(options, arch=arch))
    except LibraryError as error:
        raise LibraryError(f"the tensors are those of {arch}, and {error.message}") from None
    except ArchitectureError as error:  # the index was made with another version
        raise LibraryError(
            f"the tensors are those of {arch}, and the version that is installed here builds it otherwise: "
            f"{error.message}",
            details=error.details,
        ) from None


def _recognized(checkpoint: Checkpoint, state_dict: Mapping[str, Tensor]) -> tuple[str | None, tuple[str, ...]]:
    """The architecture whose tensors these are, where one is known, and what settled it where several have them."""
    candidates = candidates_from_state_dict(state_dict)
    if not candidates:
        return None, ()
    if len(candidates) == 1:
        return candidates[0].names[0], ()
    told = told_candidate(candidates, checkpoint.arch, checkpoint.source)
    if told is not None:
        candidate, how = told
        return candidate.names[0], (f"taken for {candidate.names[0]}, as {how}",)
    names = tuple(item.names[0] for item in candidates)
    raise AmbiguousArchitectureError(
        f"the tensors are those of several networks that compute different things, {', '.join(names)}: name yours by "
        "--arch, or give what your own code answers by --reference",
        candidates=names,
    )


def _built_here(checkpoint: Checkpoint, state_dict: Mapping[str, Tensor], options: ModelOptions) -> SourceModel:
    renamed = in_torchvisions_names(state_dict)
    inferred = config_from_state_dict(
        renamed.tensors, arch=options.arch, stride_in=options.stride_in, family=renamed.family
    )
    module = module_from_state_dict(renamed.tensors, inferred.config)
    notes = () if renamed.family is TORCHVISION else (f"the tensors have {renamed.family.name} names",)
    shape = _image_shape(options, default_input_shape(inferred.config))
    return SourceModel(
        module=module,
        architecture=_architecture(inferred),
        parameters=parameters_of(module),
        source=checkpoint.source,
        input_shape=shape,
        stem="imagenet" if inferred.config.stem == "imagenet" else "cifar",
        fixed_batch=None,
        assumptions=(*inferred.assumptions, *shape_assumption(options, shape)),
        notes=(*checkpoint.notes, *notes),
    )


def _from_library(checkpoint: Checkpoint, state_dict: Mapping[str, Tensor], options: ModelOptions) -> SourceModel:
    """``timm:NAME`` or ``torchvision:NAME``: the library's own code, with the checkpoint's tensors."""
    assert options.arch is not None
    if options.stride_in is not None:
        raise RequestError(
            f"--stride-in is for architectures that are built here, and {options.arch} says where it strides"
        )
    found = network_from_library(options.arch, state_dict)
    shape = _image_shape(options, found.input_shape)
    return SourceModel(
        module=found.module,
        architecture=options.arch,
        parameters=parameters_of(found.module),
        source=checkpoint.source,
        input_shape=shape,
        stem=stem_from_shape(shape),
        fixed_batch=None,
        assumptions=shape_assumption(options, shape),
        notes=(*checkpoint.notes, f"built by {found.library}"),
    )


def _image_shape(options: ModelOptions, usual: tuple[int, int, int]) -> tuple[int, int, int]:
    """What the user says, or the usual one, whose channels are those that the tensors take."""
    shape = options.input_shape or usual
    if shape[0] != usual[0]:
        raise SignatureError(
            f"--input-shape has {shape[0]} channels, and the model's first convolution takes {usual[0]}"
        )
    return shape


def _architecture(inferred: Inferred) -> str:
    """The name, and what the name alone would leave open."""
    strides_first = inferred.config.block == "bottleneck" and inferred.config.stride_in == "1x1"
    return f"{inferred.name}, stride in the 1x1" if strides_first else inferred.name
