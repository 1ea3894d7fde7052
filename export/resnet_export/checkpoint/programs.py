"""Files that hold the computation itself: TorchScript and torch.export archives."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import torch

from resnet_export.errors import CheckpointError, UntrustedError

from .torch_files import HOW


def module_from_torchscript(path: Path, *, trust: bool) -> torch.jit.ScriptModule:
    """The module of a TorchScript archive, on the CPU.

    Raises:
        UntrustedError: ``trust`` is false.
        CheckpointError: it is damaged.
    """
    if not trust:
        raise UntrustedError(
            f"{path.name} is a TorchScript archive, and loading it runs the program inside: {HOW} model.state_dict()"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            module: torch.jit.ScriptModule = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
    except Exception as error:  # the program inside may raise anything
        raise _unreadable(path, "TorchScript archive", error) from error
    return module


def program_from_export(path: Path, *, trust: bool) -> torch.export.ExportedProgram:
    """The program of a torch.export archive.

    Raises:
        UntrustedError: ``trust`` is false.
        CheckpointError: it is damaged, or of a version that this PyTorch does not read.
    """
    if not trust:
        raise UntrustedError(
            f"{path.name} is a torch.export archive, and loading it runs the program inside: {HOW} model.state_dict()"
        )
    logger = logging.getLogger("torch.export")
    level = logger.level
    try:
        # A file rather than its name: torch warns of names that do not end in ".pt2".
        logger.setLevel(logging.ERROR)
        with path.open("rb") as file:
            return torch.export.load(file)
    except Exception as error:  # the program inside may raise anything
        raise _unreadable(path, "torch.export archive", error) from error
    finally:
        logger.setLevel(level)


def _unreadable(path: Path, kind: str, error: Exception) -> CheckpointError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
    return CheckpointError(
        f"{path.name} is a {kind} that cannot be loaded, being damaged or of a PyTorch unknown here: {reason}"
    )
