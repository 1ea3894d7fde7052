"""Every error that the exporter raises on purpose.

::

    ResnetExportError
    ├── RequestError (ValueError)      the request or an input file is at fault: exit status 2
    │   ├── CheckpointError            the file is not a checkpoint that can be read
    │   │   └── UntrustedError         reading it would run code that it holds, and --trust was not given
    │   ├── ArchitectureError          no known architecture fits its tensors
    │   │   └── AmbiguousArchitectureError  several do, and they compute different things
    │   ├── LibraryError               the library that builds the network is not here
    │   ├── SignatureError             the module does not take or give what was said
    │   ├── ReferenceFileError         --reference cannot be read, or the module disagrees with it
    │   ├── CalibrationError           the images or the calibration table cannot calibrate this model
    │   └── DestinationError           the bundle cannot be written there
    ├── TraceError                     neither exporter of PyTorch traced the module
    ├── PassError                      a graph pass refused what it cannot do exactly
    ├── EngineError                    TensorRT did not build what was promised
    ├── VerificationError              the graph does not compute what the model computes
    └── WriteError                     the disk failed while the bundle was written

The message is one sentence that names the thing, what was found and how to mend it. ``details`` holds what is better
read as a list, one finding a line. ``exit_status`` is what the command line returns.
"""

from __future__ import annotations

from resnet_runtime.errors import DetailedError


class ResnetExportError(DetailedError):
    """Root of the tree."""


class RequestError(ResnetExportError, ValueError):
    """The request or an input file is at fault."""

    exit_status = 2


class CheckpointError(RequestError):
    """The file is not a checkpoint that can be read."""


class UntrustedError(CheckpointError):
    """Reading the file would run code that it holds, and that was not allowed."""


class ArchitectureError(RequestError):
    """No known architecture fits the tensors of a state_dict."""


class AmbiguousArchitectureError(ArchitectureError):
    """Several architectures have the tensors of a state_dict, and they compute different things.

    Attributes:
        candidates: one name for ``--arch`` of each.
    """

    def __init__(self, message: str, *, candidates: tuple[str, ...]) -> None:
        super().__init__(message)
        self.candidates = candidates


class LibraryError(RequestError):
    """The library that builds the network is not installed, cannot be imported, or builds it otherwise."""


class SignatureError(RequestError):
    """The module does not take the input, or does not give the outputs, that were said."""


class ReferenceFileError(RequestError):
    """The reference cannot be read, or the module disagrees with it."""


class CalibrationError(RequestError):
    """The images, or the calibration table, cannot calibrate this model."""


class DestinationError(RequestError):
    """The bundle cannot be written where it was asked for."""


class TraceError(ResnetExportError):
    """Neither exporter of PyTorch traced the module."""


class PassError(ResnetExportError):
    """A graph pass refused what it cannot do exactly."""


class VerificationError(ResnetExportError):
    """The graph does not compute what the model computes."""


class WriteError(ResnetExportError):
    """The disk failed while the bundle was written."""


class EngineError(ResnetExportError):
    """TensorRT's parser or builder refused a graph, or computes it in other types than were promised."""
