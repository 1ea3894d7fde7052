"""Tracing: names that last, nothing of the machine, and both exporters."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from resnet_export import trace
from resnet_export.errors import SignatureError, TraceError
from resnet_export.passes import fold_batchnorm
from resnet_export.trace import graph_from_module, named_outputs
from tests.export.graphs import answers, operators, random

SHAPE = (3, 16, 16)


class Small(nn.Module):
    """A residual block with a head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.layer1 = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8))
        self.relu = nn.ReLU()
        self.fc = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.layer1(x) + x)
        return self.fc(x.mean((2, 3)).view(x.size(0), -1))


@pytest.fixture(scope="module")
def small() -> Small:
    torch.manual_seed(0)
    module = Small()
    with torch.no_grad():
        module(torch.from_numpy(random((8, *SHAPE), 1)))  # statistics that are not 0 and 1
    return module.eval()


@pytest.fixture(scope="module")
def traced(small: Small) -> trace.Traced:
    return graph_from_module(small, SHAPE, ["logits"])


def eager(module: nn.Module, batch: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return module(torch.from_numpy(batch)).numpy()


def test_torch_export_is_taken_first(traced: trace.Traced) -> None:
    assert traced.exporter == "torch.export"
    assert traced.notes == ()


def test_nothing_is_folded_yet(traced: trace.Traced) -> None:
    assert operators(traced.graph).count("BatchNormalization") == 2
    assert operators(traced.graph).count("Conv") == 2


def test_nodes_are_named_after_their_modules(traced: trace.Traced) -> None:
    names = [node.name for node in traced.graph.nodes()]
    assert names[:3] == ["conv1/Conv", "bn1/BatchNormalization", "relu/Relu"]
    assert "layer1.0/Conv" in names
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_the_batch_is_dynamic(traced: trace.Traced, small: Small, count: int) -> None:
    batch = random((count, *SHAPE), 2)
    # two implementations of float32 arithmetic on values of the order of 1
    np.testing.assert_allclose(answers(traced.graph, batch), eager(small, batch), rtol=0, atol=2e-6)


def test_the_signature(traced: trace.Traced) -> None:
    assert traced.graph.input_name == "input"
    assert [str(dim) for dim in traced.graph.input.shape] == ["batch", "3", "16", "16"]
    assert traced.graph.output_names == ("logits",)
    assert traced.graph.output_shapes == ((5,),)
    assert traced.graph.model.opset_imports == {"": 20}


def test_no_stack_trace_and_no_path_is_kept(traced: trace.Traced) -> None:
    data = traced.graph.to_bytes()
    for text in (b"stack_trace", b"File ", b".py", b"site-packages", b"torch.nn", b"class_hierarchy"):
        assert text not in data, text


def test_a_torchscript_module_goes_by_its_own_exporter(small: Small) -> None:
    scripted = torch.jit.script(small)
    traced = graph_from_module(scripted, SHAPE, ["logits"])
    assert traced.exporter == "TorchScript"
    assert traced.notes == ()
    assert operators(traced.graph).count("BatchNormalization") == 2
    result = fold_batchnorm(traced.graph)
    assert len(result.done) == 2
    for count in (1, 3):
        batch = random((count, *SHAPE), 2)
        np.testing.assert_allclose(answers(result.graph, batch), eager(small, batch), rtol=0, atol=2e-6)


def test_a_program_is_taken_as_it_is(small: Small) -> None:
    shapes = ({0: torch.export.Dim("n", min=1, max=64)},)
    program = torch.export.export(small, (torch.zeros(2, *SHAPE),), dynamic_shapes=shapes)
    traced = graph_from_module(program, SHAPE, ["logits"])
    assert traced.exporter == "torch.export"
    batch = random((3, *SHAPE), 2)
    np.testing.assert_allclose(answers(traced.graph, batch), eager(small, batch), rtol=0, atol=2e-6)
    assert str(traced.graph.input.shape[0]) == "batch"


def test_what_torch_export_cannot_trace_falls_back() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3 * 16 * 16, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            flat = x.flatten(1)
            return self.fc(flat if float(flat.sum()) > -1e30 else -flat)

    module = Branching().eval()
    traced = graph_from_module(module, SHAPE, ["logits"])
    assert traced.exporter == "TorchScript"
    assert traced.notes[0].startswith("torch.export could not trace the model, and TorchScript did: ")
    batch = random((3, *SHAPE), 2)
    np.testing.assert_allclose(answers(traced.graph, batch), eager(module, batch), rtol=0, atol=2e-6)


def test_what_neither_can_trace_says_why_of_both() -> None:
    class Impossible(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("no forward today")

    with pytest.raises(TraceError) as caught:
        graph_from_module(Impossible(), SHAPE, ["logits"])
    assert "\n" not in caught.value.message
    assert [line.split(":")[0] for line in caught.value.details] == ["torch.export", "TorchScript"]
    assert all("no forward today" in line for line in caught.value.details)


def test_names_of_outputs() -> None:
    one, two = torch.zeros(2, 3), torch.zeros(2, 4)
    assert list(named_outputs(one)) == ["logits"]
    assert list(named_outputs((one, two))) == ["logits", "output_1"]
    assert list(named_outputs({"out": one})) == ["logits"]
    assert list(named_outputs({"main": one, "aux": two})) == ["main", "aux"]


@pytest.mark.parametrize("result", [(), None, torch.tensor(1.0), (torch.zeros(2, 3), 5)])
def test_outputs_that_are_not_tensors_are_refused(result: object) -> None:
    with pytest.raises(SignatureError, match="only tensors with a batch axis can be exported"):
        named_outputs(result)
