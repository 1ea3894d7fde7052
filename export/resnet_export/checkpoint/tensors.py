"""From what a checkpoint holds to tensors that can be computed with: float32, finite, contiguous, on the CPU."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from resnet_export.errors import CheckpointError

_CONVERTED = (torch.float16, torch.bfloat16, torch.float64)
_KEPT = (torch.float32, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.bool)


def listed(names: Iterable[str], limit: int = 3) -> str:
    """The first names of several, and how many more there are."""
    names = list(names)
    shown = ", ".join(name if len(name) <= 100 else f"{name[:97]}..." for name in names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"


def tensors_from_state_dict(
    file: str, state_dict: Mapping[str, Tensor], size: int
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Check and convert the tensors of a state_dict.

    Args:
        file: the file's name, for messages.
        state_dict: as it was loaded.
        size: the file's size in bytes; the tensors cannot have more numbers than that.

    Returns:
        Names to contiguous CPU tensors, float32 where they were floating-point, and notes on what was converted.

    Raises:
        CheckpointError: a tensor is quantized, sparse, complex or without data, or a number is NaN or infinite.
    """
    faults = {name: fault for name, tensor in state_dict.items() if (fault := _fault(tensor))}
    if faults:
        fault, count = Counter(faults.values()).most_common(1)[0]
        names = listed(name for name, found in faults.items() if found == fault)
        verb, plural = ("are", "tensors") if count > 1 else ("is", "tensor")
        raise CheckpointError(
            f"the {plural} {names} of {file} {verb} {fault}, and a network of float32 is needed: save the trained"
            " network before it was converted"
        )
    if any(tensor.numel() > size for tensor in state_dict.values()):
        name = next(name for name, tensor in state_dict.items() if tensor.numel() > size)
        raise CheckpointError(f"the tensor {name} of {file} has more elements than the file has bytes: it is damaged")
    notes = []
    for dtype in _CONVERTED:
        number = sum(tensor.dtype == dtype for tensor in state_dict.values())
        if number:
            notes.append(f"converted {number} tensors from {_dtype_name(dtype)} to float32")
    tensors = {name: _plain(tensor) for name, tensor in state_dict.items()}
    require_finite(file, tensors)
    return tensors, tuple(notes)


def _plain(tensor: Tensor) -> Tensor:
    tensor = tensor.detach().cpu()
    if tensor.dtype in _CONVERTED:
        tensor = tensor.to(torch.float32)
    tensor = tensor.contiguous()
    # A record mapped from a file may lie anywhere in it; kernels are written for aligned numbers.
    return tensor.clone() if tensor.data_ptr() % tensor.element_size() else tensor


def _fault(tensor: Tensor) -> str | None:
    if tensor.is_quantized or tensor.dtype in (torch.qint8, torch.quint8, torch.qint32):
        return "quantized"
    if tensor.layout != torch.strided or tensor.is_nested:
        return "sparse"
    if tensor.is_complex():
        return "complex"
    if tensor.device.type == "meta":
        return "without data (on the meta device)"
    if tensor.dtype not in (*_CONVERTED, *_KEPT):
        return f"of type {_dtype_name(tensor.dtype)}"
    return None


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def require_finite(file: str, tensors: Mapping[str, Tensor]) -> None:
    """Refuse NaN and infinity.

    Raises:
        CheckpointError: naming the tensors that have some.
    """
    bad = [
        name
        for name, tensor in tensors.items()
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all())
    ]
    if bad:
        raise CheckpointError(
            f"{file} has NaN or infinity in {listed(bad)}: the training diverged or the file is damaged, so take an"
            " earlier checkpoint"
        )


def module_ready(file: str, module: nn.Module) -> tuple[nn.Module, tuple[str, ...]]:
    """The module in eval mode, in float32, on the CPU, without gradients; and notes on what was changed.

    Raises:
        CheckpointError: as ``tensors_from_state_dict``, for its parameters and buffers.
    """
    notes = []
    while (inner := _inner(module)) is not None:
        notes.append(f"took the network out of its {type(module).__name__}")
        module = inner
    tensors: dict[str, Any] = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    faults = {name: fault for name, tensor in tensors.items() if (fault := _fault(tensor))}
    if faults:
        name, fault = next(iter(faults.items()))
        raise CheckpointError(f"the tensor {name} of the module in {file} is {fault}: save the network before that")
    require_finite(file, tensors)
    other = {tensor.dtype for tensor in tensors.values() if tensor.dtype in _CONVERTED}
    if other:
        names = " and ".join(sorted(map(_dtype_name, other)))
        notes.append(f"converted the module from {names} to float32")
        module = module.float()
    if module.training:
        notes.append("put the module into eval mode")
    for parameter in module.parameters():
        parameter.requires_grad_(False)  # one by one: a ScriptModule has no requires_grad_ of its own
    return module.cpu().eval(), tuple(notes)


def _inner(module: nn.Module) -> nn.Module | None:
    """The network within a wrapper that only distributes, compiles or averages it."""
    if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
        inner = module.module
    elif type(module).__name__ == "AveragedModel":
        inner = getattr(module, "module", None)
    elif type(module).__name__ == "OptimizedModule":
        inner = getattr(module, "_orig_mod", None)
    else:
        return None
    return inner if isinstance(inner, nn.Module) else None
