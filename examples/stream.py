"""Frames at a fixed rate, as from a camera: the newest is classified, and those that came meanwhile are passed over.

python examples/stream.py BUNDLE FRAMES.npy [--fps 30]; FRAMES is (N, H, W, 3) uint8, and stands for the camera here.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

import resnet_runtime

Frame = NDArray[np.uint8]


class Camera:
    """Gives recorded frames at their rate; ``newest`` waits for one that it has not given yet."""

    def __init__(self, frames: Frame, fps: float) -> None:
        self._frames, self._period = frames, 1 / fps
        self._changed = threading.Condition()
        self._number = -1
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def newest(self, after: int) -> tuple[int, Frame] | None:
        """Number and pixels of the newest frame, later than ``after``; None where there are no more."""
        with self._changed:
            while self._number <= after:
                if self._number == len(self._frames) - 1:
                    return None
                self._changed.wait()
            return self._number, self._frames[self._number]

    def _run(self) -> None:
        start = time.monotonic()
        for number in range(len(self._frames)):
            time.sleep(max(0.0, start + number * self._period - time.monotonic()))
            with self._changed:
                self._number = number
                self._changed.notify_all()


@click.command()
@click.argument("bundle", type=click.Path(exists=True, file_okay=False))
@click.argument("frames", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--fps", default=30.0, show_default=True, type=click.FloatRange(min=0, min_open=True))
@click.option("--smooth", default=0.7, show_default=True, type=click.FloatRange(0, 1, max_open=True))
def main(bundle: str, frames: Path, fps: float, smooth: float) -> None:
    """Say when the class changes: of a running mean of the logits, so that one odd frame changes nothing."""
    recorded = np.load(frames, mmap_mode="r")
    mean: NDArray[np.float32] | None = None
    said, number, answered, worst = "", -1, 0, 0.0
    with resnet_runtime.load(bundle, intent="latency") as session:
        camera = Camera(recorded, fps)
        while (frame := camera.newest(number)) is not None:
            begun = time.monotonic()
            number, pixels = frame
            logits = session.infer(session.preprocess([np.asarray(pixels)]))[session.signature.outputs[0].name][0]
            mean = logits if mean is None else smooth * mean + (1 - smooth) * logits
            best = int(mean.argmax())
            label = str(best) if session.labels is None else session.labels[best]
            if label != said:
                click.echo(f"frame {number}: {label}")
            said, answered, worst = label, answered + 1, max(worst, time.monotonic() - begun)
    click.echo(f"{answered} of {len(recorded)} frames answered, the slowest in {1e3 * worst:.1f} ms", err=True)


if __name__ == "__main__":
    main()
