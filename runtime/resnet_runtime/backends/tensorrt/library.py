"""TensorRT 10, TensorRT 11 and TensorRT-RTX behind one adapter.

The three modules share almost all of their API; what differs stands in this file, and nothing else asks which one it
has:

* networks are strongly typed: TensorRT 10 has to be told, the others know nothing else and ignore the flag;
* TensorRT-RTX builds without a GPU, for compute capabilities that are named; TensorRT builds for the GPU that is there;
* TensorRT has a timing cache; in TensorRT-RTX it does nothing, and asking for it asks for a GPU.
"""

from __future__ import annotations

import functools
import importlib
from dataclasses import dataclass
from typing import Any, Final

from resnet_runtime.errors import UnavailableError, lines_of

LIBRARIES: Final = ("tensorrt", "tensorrt-rtx")
"""By the names that manifests and command lines have."""

_OLDEST: Final = (10, 8)
"""TensorRT-RTX counts from 1, and every version of it will do."""


@dataclass(frozen=True)
class Library:
    """One of the modules.

    Attributes:
        name: of ``LIBRARIES``.
        module: ``tensorrt`` or ``tensorrt_rtx``.
    """

    name: str
    module: Any

    @property
    def version(self) -> str:
        """Of the module."""
        return str(self.module.__version__)

    @property
    def portable(self) -> bool:
        """Whether engines are built for named compute capabilities, without a GPU."""
        return self.name == "tensorrt-rtx"

    @property
    def has_timing_cache(self) -> bool:
        """Whether a timing cache makes a second build faster."""
        return not self.portable

    @property
    def capabilities(self) -> tuple[str, ...]:
        """The compute capabilities that a portable engine can be built for, such as ``8.6``; none for TensorRT."""
        if not self.portable:
            return ()
        names = (str(name) for name in self.module.ComputeCapability.__members__)
        return tuple(f"{name[2:-1]}.{name[-1]}" for name in names if name.startswith("SM"))

    @property
    def default_capabilities(self) -> tuple[str, ...]:
        """Those that a portable engine is built for where none are named: from Ampere on, as its documentation says."""
        return tuple(name for name in self.capabilities if float(name) >= 8.0)

    def logger(self, messages: list[str]) -> Any:
        """An ``ILogger`` that keeps warnings and errors, ``severity: text``, rather than print them.

        TensorRT takes one logger in a process and warns of any other as long as an object with the first is alive. So
        there is one, and who asked last gets what is logged.
        """
        logger = _logger(self.module)
        logger.messages = messages
        return logger

    def network(self, builder: Any) -> Any:
        """An empty, strongly typed network."""
        return builder.create_network(1 << int(self.module.NetworkDefinitionCreationFlag.STRONGLY_TYPED))

    def check_capabilities(self, capabilities: tuple[str, ...]) -> None:
        """Refuse what portable engines cannot be built for.

        Raises:
            UnavailableError: the library does not know one of them, or builds for the GPU that is there.
        """
        if not self.portable:
            raise UnavailableError(
                f"{self.name} builds engines for the GPU that is there, not for compute capability "
                f"{', '.join(capabilities)}: take --engine tensorrt-rtx for that"
            )
        unknown = [name for name in capabilities if name not in self.capabilities]
        if unknown:
            raise UnavailableError(
                f"{self.name} {self.version} builds no engines for compute capability {', '.join(unknown)}: "
                f"it knows {', '.join(self.capabilities)}"
            )

    def set_capabilities(self, config: Any, capabilities: tuple[str, ...]) -> None:
        """Build for these instead of what is the default.

        Raises:
            UnavailableError: as ``check_capabilities``.
        """
        self.check_capabilities(capabilities)
        config.num_compute_capabilities = len(capabilities)
        for index, name in enumerate(capabilities):
            member = self.module.ComputeCapability.__members__["SM" + name.replace(".", "")]
            config.set_compute_capability(member, index)


def library_named(name: str) -> Library:
    """Import one of ``LIBRARIES``.

    Raises:
        UnavailableError: it is not installed, too old, or its shared libraries cannot be loaded.
    """
    assert name in LIBRARIES
    module = name.replace("-", "_")
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        hint = f"pip install 'resnet-export[{name}]'"
        if getattr(error, "name", None) == module:
            raise UnavailableError(f"{name} is not installed: {hint}") from error
        raise UnavailableError(
            f"{name} cannot be imported: {lines_of(error)[0]}; install it anew with {hint}"
        ) from error
    library = Library(name, found)
    if name == "tensorrt" and _numbers(library.version) < _OLDEST:
        raise UnavailableError(
            f"tensorrt {library.version} is too old: {_OLDEST[0]}.{_OLDEST[1]} or newer is needed, for its strongly "
            "typed networks: pip install --upgrade tensorrt"
        )
    return library


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())


@functools.cache
def _logger(module: Any) -> Any:
    """The one of the process. Its class is made when the module is there to inherit from."""

    class Kept(module.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            module.ILogger.__init__(self)
            self.messages: list[str] = []

        def log(self, severity: Any, text: str) -> None:
            if severity <= module.ILogger.WARNING:
                self.messages.append(f"{severity.name.lower()}: {text}")

    return Kept()
