"""The backends, and what each of them is on this host. A backend's library is imported when it is first asked for."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Final

from resnet_runtime.errors import InputError
from resnet_runtime.manifest import Engine

from .base import Backend, BackendFacts, Model, OpenOptions, Signature

BACKENDS: Final = ("openvino", "onnxruntime")
"""What runs a variant's ONNX file. Each is a module here with ``facts()`` and ``open_backend()``."""

ENGINE_BACKENDS: Final = ("tensorrt",)
"""What runs the engines of a bundle. Each is a package here with ``facts()`` and ``open_engine()``."""

NAMES: Final = (*ENGINE_BACKENDS, *BACKENDS)
"""What ``load(..., backend=name)`` knows."""


_AS_USUAL: Final = OpenOptions()

EngineOpener = Callable[[str, Engine, bytes, Signature, str], Backend]
"""What ``open_engine`` is, so that a test can pass in another."""


def facts_of(name: str) -> BackendFacts:
    """What the backend ``name`` is on this host; imports its library, unless an earlier process kept what it is.

    Raises:
        InputError: there is no backend of that name.
    """
    if name not in NAMES:
        raise InputError(f"there is no backend {name!r}: take auto, {', '.join(NAMES)}")
    facts = importlib.import_module(f"{__name__}.{name}").facts()
    assert isinstance(facts, BackendFacts)
    return facts


def host_facts(only: str = "auto") -> tuple[BackendFacts, ...]:
    """The facts of every backend, or of the one named."""
    return tuple(facts_of(name) for name in (NAMES if only == "auto" else (only,)))


def open_engine(name: str, engine: Engine, data: bytes, signature: Signature, precision: str) -> Backend:
    """Load an engine.

    Args:
        name: one of ``ENGINE_BACKENDS``.
        engine: of a manifest.
        data: its bytes.
        signature: of the bundle.
        precision: of its variant.

    Raises:
        UnavailableError: the engine was built for something else than what is here.
        BackendError: it cannot be loaded.
    """
    assert name in ENGINE_BACKENDS
    backend = importlib.import_module(f"{__name__}.{name}").open_engine(engine, data, signature, precision)
    assert isinstance(backend, Backend)
    return backend


def open_backend(
    name: str, model: Model, signature: Signature, precision: str, options: OpenOptions = _AS_USUAL
) -> Backend:
    """Load a graph.

    Args:
        name: one of ``BACKENDS``; what runs engines takes no graph.
        model: an ONNX file, or its bytes.
        signature: what the graph takes and gives.
        precision: what it has to be computed in.
        options: how.

    Raises:
        UnavailableError: the backend would compute it in another precision.
        BackendError: the library failed to load the graph.
    """
    assert name in BACKENDS
    backend = importlib.import_module(f"{__name__}.{name}").open_backend(model, signature, precision, options)
    assert isinstance(backend, Backend)
    return backend
