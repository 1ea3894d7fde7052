"""What OpenVINO computes a network in, from its execution graph."""

from __future__ import annotations

from resnet_runtime.backends import openvino
from resnet_runtime.backends.base import Backend


def executed(backend: Backend) -> dict[str, str]:
    """The precision of every convolution, by the name that OpenVINO gives it; after a call of one batch size alone."""
    assert isinstance(backend, openvino.OpenVINOBackend)
    (compiled,) = backend._compiled.values()
    found = {}
    for node in compiled.model.get_runtime_model().get_ops():
        info = {key: str(value.astype(str)) for key, value in node.get_rt_info().items()}
        if info.get("layerType") == "Convolution":
            found[node.get_friendly_name()] = info["runtimePrecision"]
    return found
