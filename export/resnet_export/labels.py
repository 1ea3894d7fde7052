"""The names of the classes, from a text file with one a line."""

from __future__ import annotations

from pathlib import Path

from .errors import RequestError


def labels_from_file(path: Path) -> tuple[str, ...]:
    """Read ``--labels``: UTF-8, one class a line; empty lines at the end do not count.

    Raises:
        RequestError: the file cannot be read, is not UTF-8, is empty, or has an empty line in the middle.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise RequestError(f"the labels {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise RequestError(f"the labels {path} are not UTF-8 text at byte {error.start}") from None
    labels = tuple(line.strip() for line in text.rstrip().split("\n"))
    if not any(labels):
        raise RequestError(f"the labels {path} are empty: give one class a line")
    if not all(labels):
        raise RequestError(f"line {labels.index('') + 1} of the labels {path} is empty: give one class a line")
    return labels


def check_labels(labels: tuple[str, ...], output_shape: tuple[int, ...]) -> None:
    """Raise RequestError where there is not one label a class."""
    classes = output_shape[0] if len(output_shape) == 1 else None
    if classes != len(labels):
        found = f"{classes} classes" if classes is not None else f"an output of shape {output_shape}"
        raise RequestError(f"--labels has {len(labels)} lines, and the model has {found}: give one line a class")
