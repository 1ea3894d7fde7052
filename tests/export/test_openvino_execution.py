"""OpenVINO's execution graph of whole INT8 networks: every convolution in i8 or u8, and no other but the classifier."""

from __future__ import annotations

import numpy as np
import pytest

from resnet_runtime.backends import open_backend, openvino
from resnet_runtime.backends.base import OpenOptions, Signature, TensorSpec
from tests.export.int8_graphs import SIDE, folded, images, quantized
from tests.runtime.executed import executed

pytestmark = pytest.mark.skipif("int8" not in openvino.facts().precisions, reason="OpenVINO has no int8 here")


@pytest.mark.parametrize(
    "name",
    [
        "resnet18",
        "resnet50",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("resnet34", "resnet101", "resnet152")),
    ],
)
def test_every_convolution_is_executed_in_integers(name: str) -> None:
    graph = folded(name)
    convolutions = {str(node.name) for node in graph.nodes("Conv")}
    signature = Signature(
        input=TensorSpec(name=graph.input_name, dtype=np.dtype("float32"), shape=(3, SIDE, SIDE)),
        outputs=(TensorSpec(name="logits", dtype=np.dtype("float32"), shape=(1000,)),),
        largest_batch=16,
    )
    backend = open_backend(
        "openvino", quantized(graph, "cpu").to_bytes(), signature, "int8", OpenOptions(kept=frozenset({"fc/Gemm"}))
    )
    found = backend.start({graph.input_name: images(2)}).result()["logits"]
    precisions = executed(backend)
    assert len(precisions) == len(convolutions)
    assert set(precisions.values()) <= {"i8", "u8"}
    assert np.isfinite(found).all()
    backend.close()
