"""What calibrating a ResNet-50 at 224x224 costs beside ``onnxruntime.quantization``'s entropy calibrator.

Whole processes in turns, each with the same FP32 graph and the same preprocessed images in an .npy file; the time is
that of the calibration alone, measured inside the process, the memory that of the process. Ours makes the thresholds of
all four methods; the other those of its one.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from .clock import ProcessCost, process_cost, ratio
from .networks import live_resnet, varied_images

SIDE: Final = 224
_DISTINCT: Final = 32

_OURS = """
import json, sys, time
import numpy as np
from pathlib import Path
from resnet_export.graph import graph_from_bytes
from resnet_export.quantization.calibrate import ranges_from_batches
from resnet_export.quantization.images import images_from_source
from resnet_runtime.manifest import Batch, Input, Preprocessing

graph = graph_from_bytes(Path(sys.argv[1]).read_bytes())
shape = tuple(np.load(sys.argv[2], mmap_mode="r").shape[1:])
entry = Input(
    name="input", layout="NCHW", dtype="float32", shape=shape, batch=Batch(smallest=1, optimal=4, largest=4)
)
plain = Preprocessing(
    exif="apply", alpha="drop", color_order="RGB", resize=None, crop=None,
    scale=1.0, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), in_graph=False,
)
images = images_from_source(sys.argv[2], entry, plain)
start = time.perf_counter()
ranges, count = ranges_from_batches(graph, images.batches(4))
seconds = time.perf_counter() - start
assert count == int(sys.argv[3]) and len(ranges) > 50
Path(sys.argv[4]).write_text(json.dumps(seconds))
"""

_ENTROPY = """
import json, sys, tempfile, time
import numpy as np
from pathlib import Path
from onnxruntime.quantization.calibrate import CalibrationDataReader, CalibrationMethod, create_calibrator

images = np.load(sys.argv[2], mmap_mode="r")
assert len(images) == int(sys.argv[3])

class Reader(CalibrationDataReader):
    def __init__(self):
        self.images = iter(images)
    def get_next(self):
        image = next(self.images, None)
        return None if image is None else {"input": np.array(image[None])}

with tempfile.TemporaryDirectory() as folder:
    start = time.perf_counter()
    calibrator = create_calibrator(
        Path(sys.argv[1]), None, f"{folder}/augmented.onnx", calibrate_method=CalibrationMethod.Entropy
    )
    calibrator.collect_data(Reader())
    ranges = calibrator.compute_data()
    seconds = time.perf_counter() - start
assert len(list(ranges.keys())) > 50
Path(sys.argv[4]).write_text(json.dumps(seconds))
"""


@dataclass(frozen=True)
class Calibration:
    """One process: what was calibrated with how many images, the seconds of the calibration, the process's cost."""

    what: str
    images: int
    seconds: float
    process: ProcessCost


@dataclass(frozen=True)
class CalibrationCost:
    """Rounds of both on ``images`` images, and ours once on many.

    Attributes:
        images: of the comparison.
        ours: a process a round.
        entropy: the other's.
        many: ours, on many images.
    """

    images: int
    ours: tuple[Calibration, ...]
    entropy: tuple[Calibration, ...]
    many: Calibration

    @property
    def time_ratio(self) -> float:
        """How many times as fast ours is: the median over the rounds."""
        return ratio([item.seconds for item in self.entropy], [item.seconds for item in self.ours])

    @property
    def peak_growth(self) -> float:
        """How much more memory many images took, relative to the median of the rounds."""
        few = sorted(item.process.peak_bytes for item in self.ours)[len(self.ours) // 2]
        return self.many.process.peak_bytes / few - 1

    def to_json(self) -> dict[str, Any]:
        """The raw figures and what follows from them."""
        return {**asdict(self), "time_ratio": self.time_ratio, "peak_growth": self.peak_growth}


def calibration_cost(
    images: int, many: int, rounds: int, told: Callable[[str], None] = lambda text: None
) -> CalibrationCost:
    """Measure ``rounds`` pairs on ``images`` images, each in the other order than the one before, then ours on many.

    Raises:
        ProcessFailedError: one of the two failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        graph = Path(folder) / "model.onnx"
        _prepare(graph)
        data = {count: _images(Path(folder) / f"images-{count}.npy", count) for count in {images, many}}

        def measured(what: str, script: str, count: int) -> Calibration:
            result = Path(folder) / "seconds.json"
            cost = process_cost([sys.executable, "-c", script, str(graph), str(data[count]), str(count), str(result)])
            found = Calibration(what, count, float(json.loads(result.read_text())), cost)
            told(f"{what}: {found.seconds / count:.3f} s an image on {count}, {cost.peak_bytes / 1e9:.2f} GB")
            return found

        ours: list[Calibration] = []
        entropy: list[Calibration] = []
        for index in range(rounds):
            for first in (True, False) if index % 2 == 0 else (False, True):
                if first:
                    ours.append(measured("all four methods", _OURS, images))
                else:
                    entropy.append(measured("onnxruntime entropy", _ENTROPY, images))
        return CalibrationCost(images, tuple(ours), tuple(entropy), measured("all four methods", _OURS, many))


def _prepare(graph: Path) -> None:
    """The folded FP32 graph."""
    from resnet_export.passes import fold_batchnorm
    from resnet_export.trace import graph_from_module

    network = live_resnet("resnet50", size=SIDE)
    traced = graph_from_module(network, (3, SIDE, SIDE), ("logits",))
    graph.write_bytes(fold_batchnorm(traced.graph).graph.to_bytes())


def _images(path: Path, count: int) -> Path:
    """A file of preprocessed images; there are 32 different ones, in turn."""
    distinct = varied_images(min(count, _DISTINCT), (3, SIDE, SIDE)).to(torch.float32).numpy()
    written = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(count, 3, SIDE, SIDE))
    for first in range(0, count, len(distinct)):
        part = written[first : first + len(distinct)]
        part[:] = distinct[: len(part)]
    written.flush()
    return path
