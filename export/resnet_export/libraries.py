"""A network that timm or torchvision builds, filled with the tensors of a state_dict: ``--arch timm:NAME``."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import torch
from torch import Tensor, nn

from .errors import ArchitectureError, LibraryError
from .resnet_config import COUNTER
from .resnet_inference import differences_from_shapes
from .source_model import first_channels
from .trace import first_line

SIDE: Final = 224
"""Of the images, where the library does not say."""


@dataclass(frozen=True)
class LibraryNetwork:
    """What was built.

    Attributes:
        module: in evaluation mode, float32, on the CPU; it computes with the given tensors.
        input_shape: (C, H, W): the channels that its tensors take, and the size that the library trains on.
        library: its name and version.
    """

    module: nn.Module
    input_shape: tuple[int, int, int]
    library: str


def is_of_a_library(arch: str) -> bool:
    """Whether it has the form LIBRARY:NAME."""
    return ":" in arch


def network_from_library(arch: str, state_dict: Mapping[str, Tensor]) -> LibraryNetwork:
    """Build it with as many classes and channels as the tensors have.

    Args:
        arch: ``timm:NAME`` or ``torchvision:NAME``.
        state_dict: the library's names, float32 tensors.

    Raises:
        LibraryError: the library is not installed, or cannot be imported.
        ArchitectureError: it has no such network, or one with other tensors: ``details`` lists all differences.
    """
    library, _, name = arch.partition(":")
    if library not in _BUILDERS:
        raise ArchitectureError(
            f"--arch {arch} names no library that is known here: take timm:NAME or torchvision:NAME"
        )
    found = _imported(library)
    module, size = _BUILDERS[library](found, name, state_dict)
    tensors = module.state_dict()
    expected = {key: tuple(tensor.shape) for key, tensor in tensors.items() if not key.endswith(f".{COUNTER}")}
    other = differences_from_shapes(state_dict, expected)
    if other:
        raise ArchitectureError(f"the tensors are not those of {arch}: {len(other)} differences", details=other.lines())
    counters = {key: tensor for key, tensor in tensors.items() if key.endswith(f".{COUNTER}")}
    module.load_state_dict({**counters, **state_dict}, strict=True, assign=True)
    module.eval().requires_grad_(False)
    version = getattr(found, "__version__", "of an unknown version")
    return LibraryNetwork(module, (first_channels(module), *size), f"{library} {version}")


def _imported(library: str) -> Any:
    try:
        return importlib.import_module(library)
    except ImportError as error:
        if error.name in (library, None) and isinstance(error, ModuleNotFoundError):
            raise LibraryError(f"{library} is not installed here: pip install {library}") from None
        raise LibraryError(f"{library} cannot be imported here: {first_line(error)}") from None
    except Exception as error:  # torchvision's operators, where it is of another build than PyTorch
        raise LibraryError(
            f"{library} cannot be imported here: {first_line(error)}; install the torchvision that fits this PyTorch"
        ) from None


def _timm(timm: Any, name: str, state_dict: Mapping[str, Tensor]) -> tuple[nn.Module, tuple[int, int]]:
    if not timm.is_model(name):
        raise _unknown("timm", name, timm.list_models())
    config = _timm_config(timm, name)
    given: dict[str, int] = {}
    head = _weight(state_dict, config.get("classifier"))
    if head is not None:
        given["num_classes"] = int(head.shape[0])
    first = _weight(state_dict, config.get("first_conv"))
    if first is not None and first.ndim == 4:
        given["in_chans"] = int(first.shape[1])
    with torch.random.fork_rng(devices=[]):  # it draws weights that are then replaced
        module = timm.create_model(name, pretrained=False, **given)
    _, height, width = config.get("input_size") or (3, SIDE, SIDE)
    return module, (int(height), int(width))


def _timm_config(timm: Any, name: str) -> Mapping[str, Any]:
    """What timm knows of a network before it is built."""
    config = timm.get_pretrained_cfg(name)
    found: dict[str, Any] = {} if config is None else config.to_dict()
    return found


def _torchvision(torchvision: Any, name: str, state_dict: Mapping[str, Tensor]) -> tuple[nn.Module, tuple[int, int]]:
    models = importlib.import_module(f"{torchvision.__name__}.models")
    known = models.list_models(module=models)
    if name not in known:
        raise _unknown("torchvision", name, known)
    head = _weight(state_dict, ("fc", "classifier"))
    classes = {} if head is None else {"num_classes": int(head.shape[0])}
    with torch.random.fork_rng(devices=[]):
        return models.get_model(name, weights=None, **classes), (SIDE, SIDE)


_BUILDERS: Final[Mapping[str, Callable[[Any, str, Mapping[str, Tensor]], tuple[nn.Module, tuple[int, int]]]]] = (
    MappingProxyType({"timm": _timm, "torchvision": _torchvision})
)


def _weight(state_dict: Mapping[str, Tensor], layers: str | Sequence[str] | None) -> Tensor | None:
    """The weight of the first of these layers that has one."""
    names = (layers,) if isinstance(layers, str) else layers or ()
    return next((state_dict[f"{name}.weight"] for name in names if f"{name}.weight" in state_dict), None)


def _unknown(library: str, name: str, known: Sequence[str]) -> ArchitectureError:
    near = difflib.get_close_matches(name, known, n=3)
    hint = f": there is {', '.join(near)}" if near else ""
    return ArchitectureError(f"{library} has no network {name!r}{hint}")
