"""What the model itself computes, in float32 and in float64, and whether the user's own code agrees."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from resnet_runtime.manifest import Preprocessing
from resnet_runtime.parity import spread

from .errors import ReferenceFileError, SignatureError
from .quantization.evaluation import EvaluationSet
from .source_model import SourceModel
from .trace import Traceable, callable_of, first_line, named_outputs

_AT_ONCE = 4
_EVALUATED_AT_ONCE = 16
_IN_FLOAT64 = 4

Answers = Mapping[str, NDArray[np.floating]]


@dataclass(frozen=True)
class EagerAnswers:
    """Eager's outputs by name.

    Attributes:
        float32: (N, ...), computed as training did: what every gate compares with.
        exact: (K, ...), the first K <= N of them computed in float64: how far float32 is from it is the noise that
            folding is allowed twice. float32's own error is a thousandth of what the gates of 16 bits allow. Empty
            where the module cannot be computed in float64.
    """

    float32: Mapping[str, NDArray[np.float32]]
    exact: Mapping[str, NDArray[np.float64]]

    def noise(self, name: str) -> float:
        """The largest difference between the two, in the output's own unit."""
        exact = self.exact[name]
        return float(np.abs(exact - self.float32[name][: len(exact)]).max())


def answers_from_module(
    module: Traceable, inputs: NDArray[np.generic], preprocessing: Preprocessing, fixed_batch: int | None = None
) -> EagerAnswers:
    """Run the module on inputs of the graph.

    Args:
        module: in evaluation mode, on the CPU.
        inputs: (N, C, H, W) float32, or (N, H, W, C) uint8 where ``preprocessing.in_graph``, which is applied here.
        preprocessing: of the bundle.
        fixed_batch: the only batch size that the module takes; None: any.

    Raises:
        SignatureError: the module does not take the inputs, does not return tensors, or computes a value that is not
            finite.
    """
    network = callable_of(module)
    single = _first_run(network, inputs, preprocessing, fixed_batch)
    exact = _in_float64(network, inputs[: fixed_batch or _IN_FLOAT64], preprocessing, fixed_batch)
    for name, array in single.items():
        if not np.isfinite(array).all():
            raise SignatureError(
                f"the model answers varied images with values that are not finite in its output {name!r}: "
                "its weights cannot have been trained"
            )
    return EagerAnswers(
        {name: array.astype(np.float32) for name, array in single.items()},
        {name: array.astype(np.float64) for name, array in exact.items()},
    )


def classes_from_module(
    module: Traceable,
    images: EvaluationSet,
    preprocessing: Preprocessing,
    fixed_batch: int | None = None,
    on_images: Callable[[int], None] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.int64] | None]:
    """The class that the module finds in every evaluation image, and the right ones.

    Args:
        module, preprocessing, fixed_batch: as ``answers_from_module`` takes them.
        images: in the graph's dtype and layout.
        on_images: told of how many are done.

    Returns:
        (N,) the index of the first output's largest element, and (N,) the labels, or None where there are none.
    """
    network = callable_of(module)
    found: list[NDArray[np.int64]] = []
    right: list[NDArray[np.int64]] = []
    size = fixed_batch or _EVALUATED_AT_ONCE
    for batch, labels in images.batches(size):
        short = size - len(batch) if fixed_batch is not None else 0
        whole = np.concatenate([batch, np.zeros((short, *batch.shape[1:]), batch.dtype)]) if short else batch
        answers = next(iter(_run(network, whole, preprocessing, torch.float32, fixed_batch).values()))
        found.append(answers[: len(batch)].argmax(axis=1).astype(np.int64))
        if labels is not None:
            right.append(labels)
        if on_images is not None:
            on_images(sum(map(len, found)))
    return np.concatenate(found), np.concatenate(right) if right else None


def _in_float64(
    network: torch.nn.Module, inputs: NDArray[np.generic], preprocessing: Preprocessing, fixed_batch: int | None
) -> dict[str, NDArray[np.floating]]:
    """Empty where the module cannot be computed in float64, as one that names float32 in its own code."""
    try:
        return _run(copy.deepcopy(network).double(), inputs, preprocessing, torch.float64, fixed_batch)
    except Exception:  # whatever the module's own code raises
        return {}


def _first_run(
    network: torch.nn.Module,
    inputs: NDArray[np.generic],
    preprocessing: Preprocessing | None,
    fixed_batch: int | None,
) -> dict[str, NDArray[np.floating]]:
    """In float32; what the module's own code raises becomes a SignatureError."""
    try:
        return _run(network, inputs, preprocessing, torch.float32, fixed_batch)
    except SignatureError:
        raise
    except Exception as error:  # whatever the module's own code raises
        in_graph = preprocessing is not None and preprocessing.in_graph
        height, width, channels = inputs.shape[1:] if in_graph else (*inputs.shape[2:], inputs.shape[1])
        raise SignatureError(
            f"the model does not take images of {height}x{width} pixels in {channels} channels: "
            f"{first_line(error)}; give the right size with --input-shape C,H,W"
        ) from None


def _run(
    network: torch.nn.Module,
    inputs: NDArray[np.generic],
    preprocessing: Preprocessing | None,
    dtype: torch.dtype,
    fixed_batch: int | None,
) -> dict[str, NDArray[np.floating]]:
    step = fixed_batch or _AT_ONCE
    parts = []
    with torch.inference_mode():
        for first in range(0, len(inputs), step):
            batch = torch.from_numpy(np.ascontiguousarray(inputs[first : first + step])).to(dtype)
            if preprocessing is not None and preprocessing.in_graph:
                mean = torch.tensor(preprocessing.mean, dtype=torch.float64).to(dtype)
                std = torch.tensor(preprocessing.std, dtype=torch.float64).to(dtype)
                batch = ((batch * preprocessing.scale - mean) / std).permute(0, 3, 1, 2).contiguous()
            parts.append({name: tensor.numpy() for name, tensor in named_outputs(network(batch)).items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


@dataclass(frozen=True)
class Reference:
    """A pair of arrays from the user's own code: ``input`` (N, C, H, W) float32, ``output`` (N, ...)."""

    input: NDArray[np.float32]
    output: NDArray[np.float64]


def reference_from_file(path: Path) -> Reference:
    """Read ``--reference``.

    Raises:
        ReferenceFileError: it is no .npz file with the two arrays, or their shapes do not fit.
    """
    try:
        data = path.read_bytes()
        loaded = np.load(io.BytesIO(data), allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            raise ReferenceFileError(
                f"the reference {path} is one array alone: save both by np.savez(path, input=..., output=...)"
            )
        with loaded as archive:
            arrays = {key: archive[key] for key in ("input", "output") if key in archive}
    except ReferenceFileError:
        raise
    except OSError as error:
        raise ReferenceFileError(f"the reference {path} cannot be read: {error.strerror or error}") from None
    except Exception as error:  # a damaged archive raises whatever its parser meets
        raise ReferenceFileError(
            f"the reference {path} is not an .npz file with numeric arrays 'input' and 'output': {first_line(error)}"
        ) from None
    missing = [key for key in ("input", "output") if key not in arrays]
    if missing:
        raise ReferenceFileError(f"the reference {path} has no array {' and no array '.join(map(repr, missing))}")
    given, expected = arrays["input"], arrays["output"]
    shapes_fit = given.ndim == 4 and given.size > 0 and expected.size > 0 and given.shape[:1] == expected.shape[:1]
    if given.dtype.kind not in "fiu" or expected.dtype.kind != "f" or not shapes_fit:
        raise ReferenceFileError(
            f"the reference {path} has an input of {given.shape} {given.dtype} and an output of {expected.shape} "
            f"{expected.dtype}: give the float32 input (N, C, H, W) of your model and its output (N, ...)"
        )
    if not np.isfinite(given).all() or not np.isfinite(expected).all():
        raise ReferenceFileError(f"the reference {path} holds values that are not finite")
    return Reference(given.astype(np.float32), expected.astype(np.float64))


def check_reference(model: SourceModel, reference: Reference, tolerance: float) -> float:
    """Compare the module's first output with the reference's.

    Args:
        model: as it will be traced.
        reference: what the user's own code gave.
        tolerance: the largest difference allowed, relative to the spread of ``reference.output`` (to its range where it
            holds one sample alone).

    Returns:
        The largest relative difference seen.

    Raises:
        ReferenceFileError: the shapes do not fit, or the module disagrees; the message names the assumptions made.
    """
    shape = reference.input.shape[1:]
    if shape != model.input_shape:
        raise ReferenceFileError(
            f"the reference has an input of shape (N, {', '.join(map(str, shape))}), and the model is exported for "
            f"(N, {', '.join(map(str, model.input_shape))}): set --input-shape {','.join(map(str, shape))}"
        )
    if model.fixed_batch is not None and len(reference.input) % model.fixed_batch:
        raise ReferenceFileError(
            f"the reference holds {len(reference.input)} samples, and the model takes batches of {model.fixed_batch}"
        )
    outputs = _first_run(callable_of(model.module), reference.input, None, model.fixed_batch)
    name, array = next(iter(outputs.items()))
    if array.shape != reference.output.shape:
        raise ReferenceFileError(
            f"the reference's output has the shape {reference.output.shape}, and the model's {name!r} has {array.shape}"
        )
    whole = float(np.ptp(reference.output))
    scale = spread(reference.output) if len(reference.output) > 1 else whole
    worst = float(np.abs(array.astype(np.float64) - reference.output).max()) / max(scale, 1e-3 * whole, 1e-30)
    if not worst <= tolerance:
        assumed = [f"{item.subject}: {item.value} ({item.option})" for item in model.assumptions]
        raise ReferenceFileError(
            f"the model disagrees with the reference by {worst:.2%} of its spread, and {tolerance:.2%} is allowed"
            + (": one of the assumptions is wrong, or the reference is of other weights" if assumed else ""),
            details=assumed,
        )
    return worst
