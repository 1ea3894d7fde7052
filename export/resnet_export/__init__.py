"""resnet_export: from a trained PyTorch ResNet to a bundle that resnet_runtime serves.

::

    import resnet_export

    result = resnet_export.bundle_from_checkpoint("model.pt", "model.bundle")
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .options import ExportOptions, ModelOptions, PreprocessingOptions
    from .pipeline import ExportResult, bundle_from_checkpoint

__all__ = ["ExportOptions", "ExportResult", "ModelOptions", "PreprocessingOptions", "bundle_from_checkpoint"]


# torch and the rest are imported when they are first needed: `resnet-export --help` needs none of it. Type checkers do
# not see these functions, and so still report a name that does not exist.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        from importlib import import_module

        if name in ("ExportOptions", "ModelOptions", "PreprocessingOptions"):
            return getattr(import_module(".options", __name__), name)
        if name in ("ExportResult", "bundle_from_checkpoint"):
            return getattr(import_module(".pipeline", __name__), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
