"""The classes of labelled images: from the names of folders, from a text file, from numbers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from resnet_export.errors import RequestError

from .samples import refusal

_SEPARATOR: Final = re.compile(r"[\t, ]\s*")
_INTEGER: Final = re.compile(r"[+-]?[0-9]{1,18}")


@dataclass(frozen=True, kw_only=True)
class ClassIndices:
    """What some names of classes mean.

    Attributes:
        indices: from a name to 0..classes-1.
        faults: from every other name to why it is none: the rest of a sentence that begins with the name.
        note: what the user should know of how they were read; or None.
    """

    indices: Mapping[str, int]
    faults: Mapping[str, str]
    note: str | None = None


def class_indices(names: Iterable[str], classes: int, labels: Sequence[str] | None) -> ClassIndices:
    """Read names of classes: all of them as names in ``labels``, or else all of them as integers 0..classes-1.

    Args:
        names: in any order, and as often as may be.
        classes: how many classes the model has.
        labels: their names, in the order of the model's output; None where they are not known.
    """
    unique = sorted(set(names))
    integers = all(_INTEGER.fullmatch(name) for name in unique)
    known: dict[str, list[int]] = {}
    for index, label in enumerate(labels or ()):
        known.setdefault(label, []).append(index)
    if integers and not all(name in known for name in unique):
        range_fault = f"is not a class: the model has {classes}, counted from 0"
        values = {name: int(name) for name in unique}
        inside = {name: value for name, value in values.items() if 0 <= value < classes}
        return ClassIndices(indices=inside, faults={name: range_fault for name in values if name not in inside})
    faults: dict[str, str] = {}
    for name in unique:
        if labels is None:
            faults[name] = "is not an integer, and the names of the classes are not known: give --labels"
        elif name not in known:
            faults[name] = "is not one of the model's class names, and not every label is an integer"
        elif len(known[name]) > 1:
            both = " and ".join(map(str, known[name]))
            faults[name] = f"is the name of the classes {both}: use integers for all"
    note = None
    if integers and any(known[name] != [int(name)] for name in unique):
        note = "the labels are read as the names of classes, and not as their indices, although all are integers"
    return ClassIndices(
        indices={name: known[name][0] for name in unique if name not in faults}, faults=faults, note=note
    )


def classes_of_folders(
    folders: Sequence[str], classes: int, labels: Sequence[str] | None, title: str
) -> tuple[Mapping[str, int], str | None]:
    """The class of each folder, and what the user should know of it, or None.

    With ``labels``: the folders are named like classes, or all of them by integers. Without: they are the classes in
    the order of their names, as torchvision's ``ImageFolder`` counts them.

    Args:
        folders: sorted.
        classes, labels: as ``class_indices`` takes them.
        title: how an error names the source.

    Raises:
        RequestError: a folder is no class, two are the same one, or there is not one folder a class.
    """
    if labels is None:
        if len(folders) != classes:
            raise RequestError(
                f"{title} has {len(folders)} folders, and the model has {classes} classes: make one folder a class, "
                "empty ones too, or give the names of the classes by --labels, or the images' own by "
                "--evaluation-labels"
            )
        note = None
        if all(_INTEGER.fullmatch(name) for name in folders) and [*folders] != sorted(folders, key=int):
            note = (
                f"the folders of {title} are counted in the order of their names as text, as ImageFolder does, so that "
                "10 comes before 2: give --labels if the model was trained in another order"
            )
        return {name: index for index, name in enumerate(folders)}, note
    read = class_indices(folders, classes, labels)
    faults = [f"the folder {name!r} of {title} {why}" for name, why in read.faults.items()]
    by_index: dict[int, str] = {}
    for name, index in read.indices.items():
        if index in by_index:
            faults.append(f"the folders {by_index[index]!r} and {name!r} of {title} are the same class")
        by_index[index] = name
    if faults:
        raise refusal(faults, f"{len(faults)} folders of {title} are not classes of the model")
    return read.indices, read.note


def lines_from_file(path: Path) -> list[str]:
    """The lines of a UTF-8 text file, stripped; empty lines at the end do not count.

    Raises:
        RequestError: it cannot be read, is not UTF-8, or is empty.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise RequestError(f"--evaluation-labels {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise RequestError(f"--evaluation-labels {path} is not UTF-8 text at byte {error.start}") from None
    lines = [line.strip() for line in text.rstrip().split("\n")]
    if not any(lines):
        raise RequestError(f"--evaluation-labels {path} is empty: give one label a line")
    return lines


def labels_of_files(
    path: Path, names: Sequence[str], classes: int, labels: Sequence[str] | None
) -> tuple[list[int], str | None]:
    """The class of each file, from lines ``relative/path<comma, tab or space>label``; and a note, or None.

    A name may have spaces and commas in it, and so may a label: a line is divided after the longest name of a file
    that it begins with.

    Args:
        path: the text file; its empty lines do not count.
        names: relative POSIX paths of the files that need a label.
        classes, labels: as ``class_indices`` takes them.

    Raises:
        RequestError: with every line that is at fault, and every file without a label, as details.
    """
    known = frozenset(names)
    given: dict[str, tuple[int, str]] = {}
    faults: list[str] = []
    incomplete: set[str] = set()
    for number, line in enumerate(lines_from_file(path), 1):
        if not line:
            continue
        name, label = divided(line, known)
        if not label:
            incomplete.add(name)
            faults.append(f"line {number} of {path} is {line!r}: give a path, a comma, and a label")
        elif name not in known:
            faults.append(f"line {number} of {path} names {name!r}, which is not an image of --evaluation")
        elif name in given:
            faults.append(f"line {number} of {path} names {name!r}, as line {given[name][0]} does: give it once")
        else:
            given[name] = number, label
    read = class_indices((label for _, label in given.values()), classes, labels)
    for number, label in given.values():
        if label in read.faults:
            faults.append(f"the label {label!r} in line {number} of {path} {read.faults[label]}")
    faults += [f"{name} has no label in {path}" for name in names if name not in given and name not in incomplete]
    if faults:
        raise refusal(faults, f"--evaluation-labels {path} has {len(faults)} faults")
    return [read.indices[given[name][1]] for name in names], read.note


def divided(line: str, known: frozenset[str]) -> tuple[str, str]:
    """The path and the label of a line; the label is empty where there is none.

    After the longest path in ``known``; where no path is known, at the first tab, comma or space.
    """
    parts = [(_plain(line[: found.start()]), line[found.end() :].strip()) for found in _SEPARATOR.finditer(line)]
    fitting = [part for part in parts if part[0] in known and part[1]]
    if fitting:
        return fitting[-1]
    for separator in "\t, ":
        name, _, label = line.partition(separator)
        if label.strip():
            return _plain(name), label.strip()
    return _plain(line.rstrip("\t, ")), ""


def _plain(name: str) -> str:
    """Without ``./``, double slashes, and space around it."""
    return str(PurePosixPath(name.strip())) if name.strip() else ""


def labels_in_order(
    path: Path, lines: Sequence[str], count: int, classes: int, labels: Sequence[str] | None
) -> tuple[list[int], str | None]:
    """The class of each sample, from one label a line; and a note, or None.

    Args:
        path: where the lines are from, for errors.
        lines: as many as there are samples, ``count``.
        classes, labels: as ``class_indices`` takes them.

    Raises:
        RequestError: there is not one line a sample, or with every label that is no class as details.
    """
    if len(lines) != count:
        raise RequestError(
            f"{path} has {len(lines)} labels, and there are {count} samples: give one a sample, in order"
        )
    read = class_indices((line for line in lines if line), classes, labels)
    faults = []
    for number, line in enumerate(lines, 1):
        if not line:
            faults.append(f"the label {number} of {path} is empty")
        elif line in read.faults:
            faults.append(f"the label {number} of {path}, {line!r}, {read.faults[line]}")
    if faults:
        raise refusal(faults, f"{path} has {len(faults)} labels that are not classes of the model")
    return [read.indices[line] for line in lines], read.note
