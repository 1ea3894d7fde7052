"""What ``resnet-bench run`` measures: a case is one way to answer one batch, set up as its own documentation says.

A case knows nothing of how it is measured, and the loop of ``speed.py`` nothing of what a case does: another peer is
another class here, or in a file beside this one, and its name in a table. The cases of this file run on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from resnet_runtime.backends.base import Backend
from resnet_runtime.bundle import Bundle, CheckData
from resnet_runtime.errors import DetailedError, UnavailableError
from resnet_runtime.manifest import Limits, Variant
from resnet_runtime.selection import Choice
from resnet_runtime.session import Session

if TYPE_CHECKING:
    from .eager_network import Network

Array = NDArray[Any]

Answers: TypeAlias = Mapping[str, Array]
"""By output name, (N, ...) on the host."""

WHOLE_CALL: Final = "the call"
"""Of a CPU: from an array of the caller's to the answers."""

WITH_TRANSFERS: Final = "with transfers"
"""From an array of the host to answers on the host."""

WITHOUT_TRANSFERS: Final = "no transfers"
"""From an array on the device to answers on the device."""


class RunError(DetailedError):
    """What was asked for cannot be measured on any host."""

    exit_status = 2


@dataclass(frozen=True, kw_only=True)
class Label:
    """What a row says of its case.

    Attributes:
        name: as ``--against`` knows it, if it is a peer.
        batch: how many samples are answered together.
        timed: ``WHOLE_CALL``, ``WITH_TRANSFERS`` or ``WITHOUT_TRANSFERS``; or how many batches are under way at once.
        limits: what its answers are held to.
        yardstick: the name of the case that does the same work without the runtime, timed alike; None: there is none.
        calls: how many batches a call of the case answers. What is timed is given for one of them.
    """

    name: str
    batch: int
    timed: str
    limits: Limits
    yardstick: str | None = None
    calls: int = 1


class Case(Protocol):
    """One configuration. ``prepare`` comes first, ``close`` last and always; cases are closed in reverse order."""

    @property
    def label(self) -> Label:
        """What it is."""

    def prepare(self, inputs: Array) -> str:
        """Load it.

        Args:
            inputs: (batch, ...) as the bundle's graph takes them: what ``call`` answers.

        Returns:
            The library, its version, and what else a reader of the figures has to know.

        Raises:
            UnavailableError: it cannot run on this host.
        """

    def call(self) -> None:
        """Answer the inputs of ``prepare`` once, and wait until the answers are there."""

    def answers(self, inputs: Array) -> Answers:
        """The answers to other inputs of the same shape, computed as ``call`` does it."""

    def device_seconds(self, calls: int) -> float | None:
        """Seconds a call by the device's own clock, of ``calls`` that are queued at once; None where it has none."""

    def close(self) -> None:
        """Free what ``prepare`` loaded, even where that was not all."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is measured.

    Attributes:
        bundle: with its variants and engines.
        check: the inputs, and eager's answers.
        network: of ``--model``; None: not given.
    """

    bundle: Bundle
    check: CheckData
    network: Network | None = None


@dataclass(frozen=True)
class MissingCase:
    """A case that cannot run here, so that its row says why."""

    label: Label
    reason: str

    def prepare(self, inputs: Array) -> str:
        """Say why not."""
        raise UnavailableError(self.reason)

    def call(self) -> None:
        """Never called."""
        raise AssertionError(self.reason)

    def answers(self, inputs: Array) -> Answers:
        """Never called."""
        raise AssertionError(self.reason)

    def device_seconds(self, calls: int) -> float | None:
        """Never called."""
        raise AssertionError(self.reason)

    def close(self) -> None:
        """There is nothing to free."""


class SessionCase:
    """This runtime, as its users call it: ``session.infer``.

    Args:
        label: of the row.
        bundle: of the session.
        variant: of the bundle.
        open_backend: loads it.
    """

    def __init__(self, label: Label, bundle: Bundle, variant: Variant, open_backend: Callable[[], Backend]) -> None:
        self.label = label
        self._bundle = bundle
        self._variant = variant
        self._open_backend = open_backend
        self._session: Session | None = None
        self._inputs: Array = np.empty(0)

    def prepare(self, inputs: Array) -> str:
        """Open a session."""
        choice = Choice(self.label.name, self._variant.id, self._variant.precision, ("it is being measured",))
        self._session = Session(self._bundle, self._open_backend(), choice, None)
        self._inputs = inputs
        return self._session.description

    def call(self) -> None:
        """``infer``, which waits."""
        self.answers(self._inputs)

    def answers(self, inputs: Array) -> Answers:
        """As ``infer`` gives them."""
        assert self._session is not None
        return self._session.infer(inputs)

    def device_seconds(self, calls: int) -> float | None:
        """Each call waits for its answers, so that the wall clock says all."""
        return None

    def close(self) -> None:
        """Close the session."""
        if self._session is not None:
            self._session.close()


Opened: TypeAlias = tuple[Callable[[Array], Answers], str]
"""What answers a batch by a library's own API, and its description."""


class FunctionCase:
    """A peer that is a function from arrays of the host to answers on the host.

    Args:
        label: of the row.
        opened: makes the function for the shape of a batch; raises UnavailableError.
        close: frees what it leaves in the process; None: nothing.
    """

    def __init__(
        self,
        label: Label,
        opened: Callable[[tuple[int, ...]], Opened],
        close: Callable[[], None] | None = None,
    ) -> None:
        self.label = label
        self._close = close
        self._opened = opened
        self._function: Callable[[Array], Answers] | None = None
        self._inputs: Array = np.empty(0)

    def prepare(self, inputs: Array) -> str:
        """Make the function."""
        self._function, description = self._opened(inputs.shape)
        self._inputs = inputs
        return description

    def call(self) -> None:
        """Answer once."""
        self.answers(self._inputs)

    def answers(self, inputs: Array) -> Answers:
        """The function's."""
        assert self._function is not None
        return self._function(inputs)

    def device_seconds(self, calls: int) -> float | None:
        """The wall clock says all."""
        return None

    def close(self) -> None:
        """Drop the function and what it holds."""
        if self._function is not None and self._close is not None:
            self._close()
        self._function = None


NEEDS_MODEL: Final = "it needs the checkpoint: give --model model.pt"


def peer_name(library: str, precision: str) -> str:
    """Of a library's own API, as ``--against`` knows it."""
    return library if precision == "fp32" else f"{library}-{precision}"
