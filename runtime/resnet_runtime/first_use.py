"""An engine that was never verified on this kind of device answers ``check.npz`` before its first use.

What was measured is kept in the user's cache folder, in a file for each engine, ``check.npz``, library version, GPU and
driver, so that the next process need not run it again. The file holds figures: the gate's limits are applied to them
anew each time. One that is damaged, or of something else, is as good as none.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from numpy.typing import NDArray

from . import strictjson
from .bundle import Bundle
from .engine_fit import Host, build_command, is_verified, verified_name
from .errors import CheckError
from .json_fields import Fields
from .manifest import ZEROS, Engine, Parity, Variant, own_digest
from .manifest_parser import parity_from_fields
from .parity import faults, parity, tie_of
from .user_cache import cache_folder, keep

SCHEMA: Final = "resnet-verdict/1"

_MAX_BYTES: Final = 64 * 1024


@dataclass(frozen=True, kw_only=True)
class FirstUse:
    """An engine that is about to be used.

    Attributes:
        bundle: that it is in.
        engine: its record.
        variant: that it was built of.
        host: that it runs on.
    """

    bundle: Bundle
    engine: Engine
    variant: Variant
    host: Host

    def passed(self) -> bool:
        """Whether it is known to answer rightly on such a host; False where nobody has tried.

        Raises:
            CheckError: it is known not to.
        """
        if is_verified(self.engine, self.host):
            return True
        measured = self._kept()
        if measured is None:
            return False
        self._refuse_wrong(measured, f" (found at its first use; remove {self.file} to have it checked again)")
        return True

    def check(self, infer: Callable[[NDArray[Any]], Mapping[str, NDArray[Any]]]) -> None:
        """Have it answer ``check.npz``, keep what was measured, and hold it to the gate of its variant.

        Args:
            infer: from inputs (N, ...), of any N, to the outputs by name.

        Raises:
            BundleError: check.npz is damaged.
            BackendError: it failed; nothing is kept of that, which may be for want of memory.
            CheckError: its answers are outside the limits.
        """
        data = self.bundle.check_data()
        measured = parity(data.outputs, infer(data.inputs), tie=self._tie)
        keep(self.file, self._bytes(measured))
        self._refuse_wrong(measured)

    @property
    def file(self) -> Path:
        """Where the figures are kept."""
        about = hashlib.sha256(strictjson.dumps(self._about)).hexdigest()
        return cache_folder("verdicts") / f"{self.engine.file.sha256[:24]}-{about[:16]}.json"

    @property
    def _tie(self) -> float:
        return tie_of(self.variant.gate.limits)

    @property
    def _about(self) -> dict[str, str]:
        """All that the figures depend on."""
        return {
            "engine": self.engine.file.sha256,
            "check": self.bundle.manifest.check.sha256,
            "library": self.host.library,
            "version": self.host.version,
            "gpu": self.host.gpu,
            "compute_capability": self.host.capability,
            "driver": self.host.driver,
            "tie": repr(self._tie),
        }

    def _bytes(self, measured: Parity) -> bytes:
        value = {"schema": SCHEMA, "sha256": ZEROS, "about": self._about, "parity": dataclasses.asdict(measured)}
        data = strictjson.dumps(value)
        return data.replace(ZEROS.encode(), own_digest(data).encode(), 1)

    def _kept(self) -> Parity | None:
        """What the file holds; None where it is missing, or differs in any byte from what would be written."""
        try:
            with self.file.open("rb") as file:
                data = file.read(_MAX_BYTES)
            measured = _parity_from_json(strictjson.loads(data))
        except (OSError, strictjson.StrictJSONError):
            return None
        return measured if self._bytes(measured) == data else None

    def _refuse_wrong(self, measured: Parity, when: str = "") -> None:
        found = faults(measured, self.variant.gate.limits)
        if found:
            raise CheckError(
                f"the engine {self.engine.id} does not compute on {verified_name(self.host)} what the model computed: "
                f"{', '.join(found)}{when}; build one here with "
                f"{build_command(self.host.library, self.variant.precision)}"
            )


def _parity_from_json(value: Any) -> Parity:
    """The figures in ``value``; one that is missing or of another type becomes one that is written differently."""
    return parity_from_fields(Fields(value.get("parity") if isinstance(value, dict) else None, "parity", []))
