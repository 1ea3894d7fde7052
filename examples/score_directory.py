"""Score every image of a folder into a CSV file, and go on where an earlier run stopped.

python examples/score_directory.py BUNDLE FOLDER SCORES.csv
"""

from __future__ import annotations

import csv
from pathlib import Path

import click

import resnet_runtime
from resnet_runtime import ImageError, InputError, Session

KINDS = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
FIELDS = ("image", "label", "logit", "error")


@click.command()
@click.argument("bundle", type=click.Path(exists=True, file_okay=False))
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("scores", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--batch", default=32, show_default=True, type=click.IntRange(1), help="Images in one call.")
def main(bundle: str, folder: Path, scores: Path, batch: int) -> None:
    """A line an image; an image that cannot be read gets a line that says why."""
    done = finished(scores)
    images = sorted(path for path in folder.rglob("*") if path.suffix.lower() in KINDS)
    left = [path for path in images if str(path.relative_to(folder)) not in done]
    click.echo(f"{len(images)} images, {len(images) - len(left)} of them scored before", err=True)
    with (
        resnet_runtime.load(bundle, intent="throughput") as session,
        scores.open("a", newline="") as file,
        click.progressbar(length=len(left), label="scoring") as bar,
    ):
        writer = csv.writer(file)
        if file.tell() == 0:
            writer.writerow(FIELDS)
        for first in range(0, len(left), batch):
            part = left[first : first + batch]
            writer.writerows(
                [str(path.relative_to(folder)), *row] for path, row in zip(part, rows(session, part), strict=True)
            )
            file.flush()  # a killed run loses this part at most
            bar.update(len(part))


def finished(scores: Path) -> set[str]:
    """The images of the lines that are whole; a last line that was cut off is taken away."""
    if not scores.exists():
        return set()
    data = scores.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if whole != data:
        scores.write_bytes(whole)
    with scores.open(newline="") as file:
        return {line["image"] for line in csv.DictReader(file)}


def rows(session: Session, paths: list[Path]) -> list[tuple[str, str, str]]:
    """Label, logit and error of each; those that can be read are answered in one batch."""
    found: dict[int, tuple[str, str, str]] = {}
    batch, places = [], []
    for place, path in enumerate(paths):
        try:
            batch.append(session.preprocess([path])[0])
            places.append(place)
        except (ImageError, InputError) as error:
            found[place] = ("", "", error.message)
    if batch:
        import numpy as np

        logits = session.infer(np.stack(batch))[session.signature.outputs[0].name]
        for place, answer in zip(places, logits, strict=True):
            best = int(answer.argmax())
            label = str(best) if session.labels is None else session.labels[best]
            found[place] = (label, f"{answer[best]:.4f}", "")
    return [found[place] for place in range(len(paths))]


if __name__ == "__main__":
    main()
