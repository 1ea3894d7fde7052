"""What an export costs beside a bare ``torch.onnx.export`` of the same module: whole processes, interleaved.

The bare process does what a user would otherwise write: load the state_dict, build the module, ``torch.onnx.export``
with a dynamic batch axis into a file. The other process is ``resnet-export``: it traces too, and folds, converts,
verifies fp32, bf16 and fp16 and writes the bundle.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .clock import ProcessCost, process_cost, ratio

_BARE = """
import sys
import torch
from resnet_export.resnet import module_from_state_dict
from resnet_export.resnet_config import default_input_shape
from resnet_export.resnet_inference import config_from_state_dict

state_dict = torch.load(sys.argv[1], weights_only=True)
config = config_from_state_dict(state_dict, arch=sys.argv[3] or None).config
module = module_from_state_dict(state_dict, config)
example = (torch.zeros(2, *default_input_shape(config)),)
torch.onnx.export(module, example, sys.argv[2], dynamo=True, dynamic_shapes=({0: "batch"},), verbose=False)
"""


@dataclass(frozen=True)
class ExportCost:
    """Rounds of both.

    Attributes:
        checkpoint_bytes: size of the checkpoint's file.
        bare: ``torch.onnx.export`` alone, a process a round.
        export: ``resnet-export``, a process a round.
    """

    checkpoint_bytes: int
    bare: tuple[ProcessCost, ...]
    export: tuple[ProcessCost, ...]

    @property
    def time_ratio(self) -> float:
        """The median over the rounds of export's wall time by bare's."""
        return ratio([cost.seconds for cost in self.export], [cost.seconds for cost in self.bare])

    @property
    def peak_bytes(self) -> int:
        """The largest peak of an export."""
        return max(cost.peak_bytes for cost in self.export)

    @property
    def allowed_peak_bytes(self) -> int:
        """Four times the checkpoint, and 1.2 GB."""
        return 4 * self.checkpoint_bytes + 1_200_000_000

    def to_json(self) -> dict[str, Any]:
        """The raw figures and what follows from them."""
        return {
            **asdict(self),
            "time_ratio": self.time_ratio,
            "peak_bytes": self.peak_bytes,
            "allowed_peak_bytes": self.allowed_peak_bytes,
        }


def export_cost(
    checkpoint: Path, rounds: int, told: Callable[[str], None] = lambda text: None, *, arch: str | None = None
) -> ExportCost:
    """Measure ``rounds`` pairs, each in the other order than the one before.

    Args:
        checkpoint: a state_dict that both read.
        rounds: pairs of processes.
        told: what is done now, for a person who waits.
        arch: ``--arch`` of ``resnet-export``, where the tensors are those of several networks.

    Raises:
        ProcessFailedError: one of the two failed.
    """
    bare: list[ProcessCost] = []
    export: list[ProcessCost] = []

    def measure_bare(folder: str) -> None:
        bare.append(process_cost([sys.executable, "-c", _BARE, str(checkpoint), f"{folder}/bare.onnx", arch or ""]))
        told(f"torch.onnx.export: {bare[-1].seconds:.1f} s, {bare[-1].peak_bytes / 1e9:.2f} GB")

    def measure_export(folder: str) -> None:
        command = [
            sys.executable,
            "-m",
            "resnet_export",
            str(checkpoint),
            "-o",
            f"{folder}/model.bundle",
            "--engine",
            "none",
            *(() if arch is None else ("--arch", arch)),
        ]
        export.append(process_cost(command))
        told(f"resnet-export: {export[-1].seconds:.1f} s, {export[-1].peak_bytes / 1e9:.2f} GB")

    for index in range(rounds):
        pair = (measure_bare, measure_export)
        for measure in pair if index % 2 == 0 else pair[::-1]:
            with tempfile.TemporaryDirectory() as folder:
                measure(folder)
    return ExportCost(checkpoint.stat().st_size, tuple(bare), tuple(export))
