"""What the exporter knows of a bare state_dict before anything is built."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from resnet_export.families import in_torchvisions_names
from resnet_export.fingerprints import candidates_from_state_dict
from resnet_export.libraries import is_of_a_library
from resnet_export.resnet_inference import config_from_state_dict


def builder_of(state_dict: Mapping[str, Tensor]) -> str | None:
    """By whose code a bare state_dict is built: ``here``, or a library's; None where several networks have it.

    Args:
        state_dict: by the family's own names.

    Raises:
        ArchitectureError: no known architecture fits the tensors.
    """
    candidates = candidates_from_state_dict(state_dict)
    if len(candidates) > 1:
        return None
    if candidates and is_of_a_library(candidates[0].names[0]):
        return candidates[0].names[0].partition(":")[0]
    renamed = in_torchvisions_names(state_dict)
    config_from_state_dict(renamed.tensors, family=renamed.family)
    return "here"
