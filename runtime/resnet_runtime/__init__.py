"""resnet_runtime: runs a bundle that resnet-export wrote, without PyTorch.

::

    import resnet_runtime

    with resnet_runtime.load("resnet50.bundle") as session:
        logits = session.infer(session.preprocess(["cat.jpg"]))["logits"]
"""

from __future__ import annotations

from .errors import (
    BackendError,
    BundleError,
    CheckError,
    ClosedError,
    ImageError,
    InputError,
    ManifestError,
    ResnetRuntimeError,
    UnavailableError,
)
from .session import Session, load

__all__ = [
    "BackendError",
    "BundleError",
    "CheckError",
    "ClosedError",
    "ImageError",
    "InputError",
    "ManifestError",
    "ResnetRuntimeError",
    "Session",
    "UnavailableError",
    "load",
]
