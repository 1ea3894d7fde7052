"""Every error that the runtime raises on purpose.

::

    ResnetRuntimeError
    ├── InputError (ValueError)      the caller's array, image or request is at fault
    │   └── ImageError               a file that is not a readable image
    ├── BundleError (ValueError)     the directory is not an intact bundle
    │   └── ManifestError            its manifest.json breaks the format's rules
    ├── UnavailableError             this host lacks the backend or the precision that was asked for
    ├── BackendError (RuntimeError)  the backend failed while it loaded or ran
    ├── QueueFullError               a batcher takes no more for now
    ├── DeadlineError (TimeoutError) a sample's time was over before its batch began
    ├── CheckError                   an answer differs from the model's by more than its gate allows
    └── ClosedError (RuntimeError)   a session was used after close()

The message is one sentence that names the thing, what was found and how to mend it. ``details`` holds what is better
read as a list, one finding a line. ``exit_status`` is what the command line returns.
"""

from __future__ import annotations

from collections.abc import Iterable


class DetailedError(Exception):
    """What both packages' errors are: a sentence, and findings that belong to it.

    Args:
        message: one sentence.
        details: findings that belong to it, one a line.
    """

    exit_status: int = 1

    def __init__(self, message: str, *, details: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.details: tuple[str, ...] = tuple(details)

    @property
    def message(self) -> str:
        """The sentence without its details."""
        return str(self.args[0])

    def __str__(self) -> str:
        return "\n  ".join((self.message, *self.details))


class ResnetRuntimeError(DetailedError):
    """Root of the tree."""


class InputError(ResnetRuntimeError, ValueError):
    """The caller's array, image or request is at fault."""

    exit_status = 2


class ImageError(InputError):
    """A file that is not a readable image."""


class BundleError(ResnetRuntimeError, ValueError):
    """The directory is not an intact bundle."""

    exit_status = 2


class ManifestError(BundleError):
    """A manifest.json that breaks the format's rules."""


class UnavailableError(ResnetRuntimeError):
    """This host lacks the backend or the precision that was asked for."""

    exit_status = 2


class BackendError(ResnetRuntimeError, RuntimeError):
    """The backend failed while it loaded or ran."""


class QueueFullError(ResnetRuntimeError):
    """A batcher takes no more for now: try again later, or elsewhere."""


class DeadlineError(ResnetRuntimeError, TimeoutError):
    """A sample's time was over before its batch began."""


class CheckError(ResnetRuntimeError):
    """An answer differs from the model's by more than its gate allows."""


class ClosedError(ResnetRuntimeError, RuntimeError):
    """A session was used after close()."""


def lines_of(error: BaseException) -> list[str]:
    """What any error says, without blank lines; the name of its type where it says nothing."""
    return [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
