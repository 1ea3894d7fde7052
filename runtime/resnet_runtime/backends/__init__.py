"""The backends, and what each of them is on this host. A backend's library is imported when it is first asked for."""

from __future__ import annotations

import importlib
from typing import Final

from resnet_runtime.errors import InputError

from .base import Backend, BackendFacts, Signature

BACKENDS: Final = ("openvino", "onnxruntime")
"""The names that ``load(..., backend=name)`` knows. Each is a module here with ``facts()`` and ``open_backend()``."""


def facts_of(name: str) -> BackendFacts:
    """What the backend ``name`` is on this host; imports its library.

    Raises:
        InputError: there is no backend of that name.
    """
    if name not in BACKENDS:
        raise InputError(f"there is no backend {name!r}: take auto, {', '.join(BACKENDS)}")
    facts = importlib.import_module(f"{__name__}.{name}").facts()
    assert isinstance(facts, BackendFacts)
    return facts


def host_facts(only: str = "auto") -> tuple[BackendFacts, ...]:
    """The facts of every backend, or of the one named."""
    return tuple(facts_of(name) for name in (BACKENDS if only == "auto" else (only,)))


def open_backend(
    name: str, model: bytes, signature: Signature, precision: str, kept: frozenset[str] = frozenset()
) -> Backend:
    """Load a graph.

    Args:
        name: one of ``BACKENDS``.
        model: the bytes of an ONNX file.
        signature: what the graph takes and gives.
        precision: what it has to be computed in.
        kept: the names of the nodes that compute in a higher precision on purpose.

    Raises:
        UnavailableError: the backend would compute it in another precision.
        BackendError: the library failed to load the graph.
    """
    backend = importlib.import_module(f"{__name__}.{name}").open_backend(model, signature, precision, kept)
    assert isinstance(backend, Backend)
    return backend
