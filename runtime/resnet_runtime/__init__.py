"""resnet_runtime: runs a bundle that resnet-export wrote, without PyTorch.

::

    import resnet_runtime

    with resnet_runtime.load("resnet50.bundle") as session:
        logits = session.infer(session.preprocess(["cat.jpg"]))["logits"]
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .errors import (
    BackendError,
    BundleError,
    CheckError,
    ClosedError,
    DeadlineError,
    ImageError,
    InputError,
    ManifestError,
    QueueFullError,
    ResnetRuntimeError,
    UnavailableError,
)

if TYPE_CHECKING:
    from .batching import Batcher
    from .loading import load
    from .session import Session

__all__ = [
    "BackendError",
    "Batcher",
    "BundleError",
    "CheckError",
    "ClosedError",
    "DeadlineError",
    "ImageError",
    "InputError",
    "ManifestError",
    "QueueFullError",
    "ResnetRuntimeError",
    "Session",
    "UnavailableError",
    "load",
]

# The rest is imported when it is first asked for: a program that only catches the errors need not wait for it. Type
# checkers do not see this function, and so still report a name that does not exist.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name == "load":
            from .loading import load

            return load
        if name == "Session":
            from .session import Session

            return Session
        if name == "Batcher":
            from .batching import Batcher

            return Batcher
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
