"""What a built engine's convolutions compute in, as TensorRT's engine inspector tells.

The parsed network is compared with what the variant promises before an engine is built; what the builder then made of
it can be seen only where the engine can be deserialized, which needs a GPU. There, between deserializing an engine and
its gate::

    inspected = inspected_convolutions(engine, library.module)   # engine: an ICudaEngine
    unseen = refuse_other_precisions(request, built.nodes, inspected)
    if unseen is not None:
        stage.warn(unseen)

The inspector tells types only of engines that were built with ``ProfilingVerbosity.DETAILED``, as
``engine_from_request`` does. Its JSON is meant for people and changes between versions: a tensor's type stands in
``Format/Datatype``, as ``Half``, ``Int8 NHWC ...`` or ``Channel major FP16 format where channel % 8 == 0``, or by
itself in ``Datatype``. What cannot be read is told, never taken for right.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from .engine import EngineRequest
from .errors import EngineError

_PRECISIONS: Final = {
    "float": "fp32",
    "fp32": "fp32",
    "float32": "fp32",
    "half": "fp16",
    "fp16": "fp16",
    "float16": "fp16",
    "bf16": "bf16",
    "bfloat16": "bf16",
    "int8": "int8",
    "fp8": "fp8",
    "float8": "fp8",
    "int4": "int4",
    "fp4": "fp4",
    "int32": "int32",
    "int64": "int64",
    "uint8": "uint8",
    "bool": "bool",
}
_TYPE_KEYS: Final = ("Datatype", "DataType", "Format/Datatype")
_NODE: Final = re.compile(r"\[ONNX Layer: ([^\]]*)\]")
_PROFILE: Final = re.compile(r" \[profile \d+\]$")
"""An engine of several optimization profiles has each layer once for each."""


@dataclass(frozen=True)
class InspectedConvolution:
    """A layer of an engine that computes one or several convolutions.

    Attributes:
        name: of the layer.
        nodes: names of the ONNX nodes that were fused into it, convolutions and others.
        input: the type of what it convolves, such as ``fp16``; None where the inspector does not tell.
        weights: the type of its weights, likewise.
    """

    name: str
    nodes: frozenset[str]
    input: str | None
    weights: str | None


def inspected_convolutions(engine: Any, module: Any) -> tuple[InspectedConvolution, ...]:
    """The convolutions of an engine.

    Args:
        engine: an ``ICudaEngine``; it needs no execution context.
        module: ``tensorrt`` or ``tensorrt_rtx``.

    Returns:
        In the engine's order; none where the inspector tells no more than names, or something that is not JSON.
    """
    inspector = engine.create_engine_inspector()
    if inspector is None:
        return ()
    layers = _layers(engine, inspector, module.LayerInformationFormat.JSON)
    return tuple(_convolution(layer) for layer in layers if _is_convolution(layer))


def refuse_other_precisions(
    request: EngineRequest, nodes: Iterable[str], inspected: Iterable[InspectedConvolution]
) -> str | None:
    """Compare what an engine computes in with what its variant promises.

    Args:
        request: what the engine was built from.
        nodes: names of the parsed network's convolutions, ``BuiltEngine.nodes``.
        inspected: what the inspector tells.

    Returns:
        A sentence that says of how many convolutions the inspector told nothing; None where it told of all.

    Raises:
        EngineError: a convolution reads another type than is promised, and is not listed as kept.
    """
    expected = tuple(dict.fromkeys(nodes))
    seen: set[str] = set()
    wrong: dict[str, str] = {}
    for layer in inspected:
        if layer.input is None:
            continue
        # One of none of these is the classifier's product, which TensorRT may compute as a convolution.
        own = layer.nodes.intersection(expected)
        seen |= own
        if layer.input != request.precision:
            text = f"{layer.input}, in the layer {layer.name!r} with weights of {layer.weights or 'a type not told'}"
            wrong.update((name, f"{name}: {text}") for name in sorted(own - request.kept))
    if wrong:
        raise EngineError(
            f"{len(wrong)} of {len(expected)} convolutions of {request.name} do not read {request.precision} in the "
            "built engine, as TensorRT's engine inspector tells, and are not listed as kept higher",
            details=wrong.values(),
        )
    return _unseen(request, [name for name in expected if name not in seen], len(expected))


def _unseen(request: EngineRequest, names: list[str], count: int) -> str | None:
    if not names:
        return None
    which = "no type" if len(names) == count else f"the types of only {count - len(names)}"
    some = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return (
        f"TensorRT's engine inspector tells {which} of the {count} convolutions of {request.name}: "
        f"{some} could be compared in the parsed network alone"
    )


def _layers(engine: Any, inspector: Any, form: Any) -> Iterator[dict[str, Any]]:
    """Those that are told in detail; where all together are not JSON, those that are one by one."""
    found = _parsed(inspector.get_engine_information(form))
    layers: Any
    if found is None:
        layers = [_parsed(inspector.get_layer_information(index, form)) for index in range(engine.num_layers)]
    else:
        layers = found.get("Layers") if isinstance(found, dict) else found
    for layer in layers if isinstance(layers, list) else ():
        if isinstance(layer, dict):
            yield layer


def _parsed(text: Any) -> Any:
    """None for what is not JSON. What is not strict is that TensorRT parts a layer's names by control characters."""
    try:
        return json.loads(text, strict=False)
    except (TypeError, ValueError, RecursionError):
        return None


def _is_convolution(layer: dict[str, Any]) -> bool:
    """By what it computes; TensorRT's compiler of fused layers calls it a correlation."""
    kind = str(layer.get("LayerType", "")).lower()
    return layer.get("ParameterType") == "Convolution" or "conv" in kind or kind == "correlation"


def _convolution(layer: dict[str, Any]) -> InspectedConvolution:
    name = _PROFILE.sub("", str(layer.get("Name", "")))
    # Without metadata the name itself lists what was fused: one after the other, or side by side.
    nodes = _NODE.findall(str(layer.get("Metadata", ""))) or re.split(r" \+ | \|\| ", name)
    inputs, weights = layer.get("Inputs"), layer.get("Weights")
    return InspectedConvolution(
        name,
        frozenset(nodes),
        _type_of_tensor(inputs[0]) if isinstance(inputs, list) and inputs else None,
        _precision(weights.get("Type")) if isinstance(weights, dict) else None,
    )


def _type_of_tensor(tensor: Any) -> str | None:
    if not isinstance(tensor, dict):
        return None
    return next(filter(None, (_precision(tensor.get(key)) for key in _TYPE_KEYS)), None)


def _precision(text: Any) -> str | None:
    """The first word that is a type's."""
    words = re.findall(r"[a-z]+\d*", text.lower()) if isinstance(text, str) else []
    return next((_PRECISIONS[word] for word in words if word in _PRECISIONS), None)
