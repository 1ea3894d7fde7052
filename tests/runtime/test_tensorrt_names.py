"""Every name of TensorRT that is used is one of the real module's, which imports without a GPU."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path
from typing import Any

import pytest

import resnet_export.engine
import resnet_runtime.backends.tensorrt.backend
import resnet_runtime.backends.tensorrt.library
import resnet_runtime.backends.tensorrt.loading
import resnet_runtime.backends.tensorrt.slot
from resnet_runtime.testing.simulated_cuda import SimulatedCuda
from resnet_runtime.testing.simulated_engine import SimulatedContext, SimulatedEngine

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt-rtx-cu13 is not installed: x86-64 Linux alone"
)

# By file, what each variable of TensorRT's is.
USED = {
    resnet_runtime.backends.tensorrt.backend: {"engine": "ICudaEngine"},
    resnet_runtime.backends.tensorrt.slot: {
        "engine": "ICudaEngine",
        "context": "IExecutionContext",
        "_context": "IExecutionContext",
    },
    resnet_runtime.backends.tensorrt.loading: {
        "runtime": "Runtime",
        "engine": "ICudaEngine",
        "_engine": "ICudaEngine",
        "_config": "IRuntimeConfig",
        "_cache": "IRuntimeCache",
    },
    resnet_runtime.backends.tensorrt.library: {"builder": "Builder", "config": "IBuilderConfig"},
    resnet_export.engine: {
        "builder": "Builder",
        "config": "IBuilderConfig",
        "network": "INetworkDefinition",
        "parser": "OnnxParser",
        "profile": "IOptimizationProfile",
        "layer": "ILayer",
        "error": "ParserError",
    },
}
NOT_TENSORRT = {"id", "file", "builder", "builder_version", "profiles", "compatibility", "message"}
"""Of the manifest's Engine and of exceptions, which have the same variable names."""


def attributes(module: Any) -> list[tuple[str, str]]:
    """``variable.name`` and ``self.variable.name`` of a file."""
    found = []
    for node in ast.walk(ast.parse(Path(module.__file__).read_text())):
        if isinstance(node, ast.Attribute):
            base = node.value
            name = base.id if isinstance(base, ast.Name) else base.attr if isinstance(base, ast.Attribute) else ""
            found.append((name, node.attr))
    return found


@pytest.mark.parametrize("module", USED, ids=lambda module: module.__name__)
def test_what_the_code_uses_is_there(module: Any) -> None:
    import tensorrt_rtx

    kinds = USED[module]
    used = {(kinds[name], attribute) for name, attribute in attributes(module) if name in kinds}
    used = {(kind, attribute) for kind, attribute in used if attribute not in NOT_TENSORRT}
    assert {kind for kind, _ in used} == set(kinds.values()), "a variable was renamed, and is not looked at any more"
    missing = [f"{kind}.{name}" for kind, name in sorted(used) if not hasattr(getattr(tensorrt_rtx, kind), name)]
    assert missing == []
    enumerations = {attribute for name, attribute in attributes(module) if name == "module" and attribute[0] != "_"}
    assert [name for name in sorted(enumerations) if not hasattr(tensorrt_rtx, name)] == []


def test_the_simulated_classes_have_no_method_that_the_real_ones_have_not() -> None:
    import tensorrt_rtx

    cuda = SimulatedCuda()
    engine = SimulatedEngine(cuda, dict, (), ())
    own = {"cuda", "function", "inputs", "outputs", "profiles"}
    for simulated, real in (
        (SimulatedEngine, tensorrt_rtx.ICudaEngine),
        (SimulatedContext, tensorrt_rtx.IExecutionContext),
    ):
        names = {name for name in (*vars(simulated), *vars(engine)) if not name.startswith("_")} - own
        assert [name for name in sorted(names) if not hasattr(real, name)] == []
