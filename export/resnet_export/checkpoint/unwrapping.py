"""Finding the network in what a training script saved around it.

Known wrappers are opened up to three levels deep. Where several networks are found, the trained weights come before
their moving average, each in the order of the tuples below, and a note says what else there is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from torch import Tensor, nn

from resnet_export.errors import CheckpointError

from .tensors import listed

RAW_KEYS: Final = (
    "state_dict", "model_state_dict", "model_state", "model", "net", "network", "module", "weights", "params",
)  # fmt: skip
EMA_KEYS: Final = (
    "ema_state_dict", "state_dict_ema", "model_ema", "ema_model", "model_ema_state_dict", "params_ema", "ema",
)  # fmt: skip
PREFIXES: Final = ("module.", "_orig_mod.", "_forward_module.", "model.", "net.", "network.", "backbone.")
_NO_NETWORK: Final = re.compile(r"optim|sched|scaler|callback|loops|rng|hyper|criterion|loss", re.IGNORECASE)
_MAX_LEVELS: Final = 3
_AVERAGE_COUNTER: Final = "n_averaged"


@dataclass(frozen=True)
class Unwrapped:
    """The network: a state_dict or a module, notes on the way to it, and its architecture where the file names it."""

    value: dict[str, Tensor] | nn.Module
    notes: tuple[str, ...]
    arch: str | None = None


def network_from_object(file: str, loaded: Any, *, weights: str | None = None) -> Unwrapped:
    """Find the network in what a checkpoint file held.

    Args:
        file: the file's name, for messages.
        loaded: what ``torch.load`` gave.
        weights: the name of the entry to take, such as "ema" or "checkpoint.model"; or of a part of the state_dict,
            such as "student" where its names begin with "student.".

    Raises:
        CheckpointError: there are no tensors, or ``weights`` names none of the networks in it, or several have names
            that do not say which is meant.
    """
    found: dict[str, dict[str, Any] | nn.Module] = {}
    _collect(loaded, (), found, set())
    if not found:
        raise CheckpointError(f"{file} holds {_contents(loaded)}, and no tensors of a network: save model.state_dict()")
    part = None
    if weights is None:
        path = _preferred(file, found)
    else:
        path, part = _requested(file, found, weights)
    notes = [f"took {path!r} out of the file"] if path else []
    others = [other for other in found if other != path]
    if others:
        notes.append(f"left {listed(map(repr, others), 8)}: --weights {others[0]} takes that instead")
    notes += _ignored(loaded, path)
    value = found[path]
    if isinstance(value, nn.Module):
        return Unwrapped(value, tuple(notes))
    tensors, more = _cleaned(file, value, part)
    return Unwrapped(tensors, (*notes, *more), _arch(loaded) if path and weights is None else None)


def _collect(value: Any, path: tuple[str, ...], found: dict[str, dict[str, Any] | nn.Module], seen: set[int]) -> None:
    """Put the networks of ``value`` into ``found`` by their path; each mapping is looked at once."""
    name = ".".join(path)
    if isinstance(value, nn.Module):
        found[name] = value
        return
    if not isinstance(value, Mapping) or id(value) in seen:
        return
    seen.add(id(value))
    names = {key for key, entry in value.items() if isinstance(key, str) and isinstance(entry, Tensor)}
    before = len(found)
    if len(path) < _MAX_LEVELS and not any("." in key for key in names):
        for key, entry in value.items():
            if isinstance(key, str) and key and "." not in key and not _NO_NETWORK.search(key):
                _collect(entry, (*path, key), found, seen)
    # What lies beside a wrapped network, such as the best accuracy, may be a tensor too.
    if len(found) == before and names:
        found[name] = {key: entry for key, entry in value.items() if isinstance(key, str)}


def _rank(path: str) -> tuple[int, ...]:
    """Smaller is preferred: trained weights, then unknown names, then averages."""
    keys = path.split(".")
    if any("ema" in key.lower().split("_") or key in EMA_KEYS for key in keys):
        return (2, *(EMA_KEYS.index(key) if key in EMA_KEYS else len(EMA_KEYS) for key in keys))
    if keys[0] in RAW_KEYS:
        return (0, *(RAW_KEYS.index(key) if key in RAW_KEYS else len(RAW_KEYS) for key in keys))
    return (1,)


def _preferred(file: str, found: Mapping[str, Any]) -> str:
    ranked = sorted(found, key=_rank)
    if len(ranked) > 1 and _rank(ranked[0]) == _rank(ranked[1]):
        raise CheckpointError(
            f"{file} holds several networks, {listed(map(repr, ranked), 8)}: name the one to take by --weights"
        )
    return ranked[0]


def _requested(file: str, found: Mapping[str, Any], weights: str) -> tuple[str, str | None]:
    """The path of the network that ``weights`` names, and the part of it where it names a part."""
    matching = [path for path in found if path == weights or path.startswith(f"{weights}.")]
    if len(matching) == 1:
        return matching[0], None
    if not matching:
        matching = [
            path
            for path, value in found.items()
            if isinstance(value, dict) and any(name.startswith(f"{weights}.") for name in value)
        ]
        if len(matching) == 1:
            return matching[0], weights
    candidates = listed((repr(path) for path in found if path), 20) or "one network without a name"
    how = "names several networks" if matching else "is not"
    raise CheckpointError(f"--weights {weights} {how} in {file}, which holds {candidates}: name one of those")


def _ignored(loaded: Any, path: str) -> list[str]:
    """A note on what lies beside the network at each level: the optimizer's state, the epoch and so on."""
    ignored, prefix = [], ""
    for key in path.split(".") if path else ():
        ignored += [
            f"{prefix}{other}"
            for other, value in loaded.items()
            if other != key and not isinstance(value, nn.Module) and other not in (*RAW_KEYS, *EMA_KEYS)
        ]
        loaded, prefix = loaded[key], f"{prefix}{key}."
    return [f"ignored {listed(map(repr, ignored), 8)}"] if ignored else []


def _cleaned(file: str, value: Mapping[str, Any], part: str | None) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors alone, their names without the wrappers' prefixes, and notes on what was left out."""
    notes = []
    tensors = {name: tensor for name, tensor in value.items() if isinstance(tensor, Tensor)}
    if len(tensors) < len(value):
        others = [repr(name) for name in value if name not in tensors]
        notes.append(f"ignored {listed(others, 8)} of the state_dict, which are no tensors")
    if part is not None:
        kept = {name.removeprefix(f"{part}."): t for name, t in tensors.items() if name.startswith(f"{part}.")}
        notes.append(f"took the {len(kept)} tensors of {part!r}, and left {len(tensors) - len(kept)}")
        tensors = kept
    if _AVERAGE_COUNTER in tensors and len(tensors) > 1:
        del tensors[_AVERAGE_COUNTER]
        notes.append(f"ignored {_AVERAGE_COUNTER!r}, the counter of a moving average")
    while prefix := next((p for p in PREFIXES if all(name.startswith(p) for name in tensors)), None):
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
        notes.append(f"took {prefix!r} off every name")
    odd = [ascii(name) for name in tensors if not name.isprintable() or not name or len(name) > 1000]
    if odd:
        raise CheckpointError(f"{file} has tensors whose names are no text: {listed(odd)}")
    return tensors, notes


def _arch(loaded: Mapping[str, Any]) -> str | None:
    """What PyTorch's ImageNet example and timm's training script write beside the tensors that they trained."""
    arch = loaded.get("arch")
    return arch if isinstance(arch, str) else None


def _contents(loaded: Any) -> str:
    """What a file without a network holds, in a few words."""
    if isinstance(loaded, Mapping):
        return f"a dict of {listed((ascii(key) for key in loaded), 8)}" if loaded else "an empty dict"
    article = "an" if type(loaded).__name__[0].lower() in "aeiou" else "a"
    return f"{article} {type(loaded).__name__}"
