"""--evaluation-labels as a text file of paths: how a line is read, and every fault that it may have."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnet_export.quantization.evaluation_labels import class_indices, divided

from .evaluation_sets import (
    NAMES,
    answers,
    evaluation,
    labels_text,
    put,
    refusal,
)


@pytest.mark.parametrize(
    "text",
    [
        "a.png,1\nd/b.png,3\n",
        "a.png\t1\nd/b.png\t3",
        "a.png 1\nd/b.png 3\n",
        "a.png , 1 \r\n\r\n./d//b.png,\t3\r\n\r\n",
        "\ufeffd/b.png,dog\na.png,bee\n",
    ],
)
def test_a_text_file_of_paths(tmp_path: Path, text: str) -> None:
    images = ("a.png", "d/b.png")
    put(tmp_path / "set", *images)
    found = evaluation(tmp_path / "set", labels=NAMES, labels_file=labels_text(tmp_path, text))
    assert found.labelled
    assert answers(found, images) == {"a.png": 1, "d/b.png": 3}


def test_paths_and_names_with_commas_and_spaces(tmp_path: Path) -> None:
    images = ("my cat.png", "a, b.png")
    put(tmp_path / "set", *images)
    file = labels_text(tmp_path, "my cat.png tench, Tinca tinca\na, b.png,great white shark\n")
    found = evaluation(
        tmp_path / "set", classes=2, labels=("great white shark", "tench, Tinca tinca"), labels_file=file
    )
    assert answers(found, images) == {"my cat.png": 1, "a, b.png": 0}


def test_the_labels_file_may_lie_among_the_images(tmp_path: Path) -> None:
    put(tmp_path, "a.png")
    file = labels_text(tmp_path, "a.png,2")
    assert answers(evaluation(tmp_path, labels_file=file), ("a.png",)) == {"a.png": 2}
    assert "has a suffix that --evaluation does not take" in refusal(tmp_path).message


def test_the_labels_of_one_file(tmp_path: Path) -> None:
    put(tmp_path, "a.png")
    file = labels_text(tmp_path, "a.png,2")
    assert answers(evaluation(tmp_path / "a.png", labels_file=file), ("a.png",)) == {"a.png": 2}


FAULTS = {
    "a path that is not there": ("b.png,1\nc.png,2\n", "line 2 of {file} names 'c.png', which is not an image of "),
    "a header": ("path,label\nb.png,1", "line 1 of {file} names 'path', which is not an image of --evaluation"),
    "a path that is listed twice": ("b.png,1\n\nb.png,1\n", "line 3 of {file} names 'b.png', as line 1 does: give it"),
    "an index out of range": ("b.png,4", "the label '4' in line 1 of {file} is not a class: the model has 4, counted "),
    "a negative index": ("b.png,-1", "the label '-1' in line 1 of {file} is not a class: the model has 4, counted "),
    "an unknown name": ("b.png,cow", "the label 'cow' in line 1 of {file} is not one of the model's class names"),
    "a path alone": ("b.png", "line 1 of {file} is 'b.png': give a path, a comma, and a label"),
    "an empty label": ("b.png,", "line 1 of {file} is 'b.png,': give a path, a comma, and a label"),
}


@pytest.mark.parametrize(("text", "message"), FAULTS.values(), ids=FAULTS)
def test_one_fault_in_a_text_file(tmp_path: Path, text: str, message: str) -> None:
    file = labels_text(tmp_path, text)
    error = refusal(put(tmp_path / "set", "b.png"), labels=NAMES, labels_file=file, skip_bad=True)
    assert error.message.startswith(message.format(file=file))
    assert error.details == ()


def test_an_image_without_a_label(tmp_path: Path) -> None:
    file = labels_text(tmp_path, "b.png,1")
    assert refusal(put(tmp_path / "set", "b.png", "c.png"), labels_file=file).message == f"c.png has no label in {file}"


def test_a_name_where_the_names_are_not_known(tmp_path: Path) -> None:
    file = labels_text(tmp_path, "b.png,dog")
    assert refusal(put(tmp_path / "set", "b.png"), labels_file=file).message == (
        f"the label 'dog' in line 1 of {file} is not an integer, and the names of the classes are not known: give "
        "--labels"
    )


def test_all_faults_are_listed(tmp_path: Path) -> None:
    file = labels_text(tmp_path, "a.png,9\nb.png\nx.png,1\nc.png,2\nc.png,3\n")
    error = refusal(put(tmp_path / "set", "a.png", "b.png", "c.png", "d.png"), labels_file=file)
    assert error.message == f"--evaluation-labels {file} has 5 faults"
    assert error.details == (
        f"line 2 of {file} is 'b.png': give a path, a comma, and a label",
        f"line 3 of {file} names 'x.png', which is not an image of --evaluation",
        f"line 5 of {file} names 'c.png', as line 4 does: give it once",
        f"the label '9' in line 1 of {file} is not a class: the model has 4, counted from 0",
        f"d.png has no label in {file}",
    )


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "is empty: give one label a line"),
        (b"\n \n", "is empty: give one label a line"),
        (b"a\xff", "is not UTF-8"),
    ],
)
def test_a_labels_file_that_is_no_text(tmp_path: Path, data: bytes, reason: str) -> None:
    (tmp_path / "labels.csv").write_bytes(data)
    error = refusal(put(tmp_path / "set", "a.png"), labels_file=tmp_path / "labels.csv")
    assert error.message.startswith(f"--evaluation-labels {tmp_path / 'labels.csv'} {reason}")


def test_a_labels_file_that_is_not_there(tmp_path: Path) -> None:
    error = refusal(put(tmp_path / "set", "a.png"), labels_file=tmp_path / "no")
    assert error.message == f"--evaluation-labels {tmp_path / 'no'} cannot be read: No such file or directory"


def test_an_array_of_labels_for_image_files(tmp_path: Path) -> None:
    np.save(tmp_path / "y.npy", [1])
    error = refusal(put(tmp_path / "set", "a.png"), labels_file=tmp_path / "y.npy")
    assert error.message.endswith("is an array: images take text, a path and a label a line")


PATH = st.text("ab ,./\t", min_size=1, max_size=8).map(lambda text: f"{text.strip()}.png".lstrip("./ ,\t"))
LABEL = st.text("ab ,0", min_size=1, max_size=8).map(lambda text: text.strip(" ,")).filter(bool)


@given(path=PATH, label=LABEL, separator=st.sampled_from([",", "\t", " ", ", ", " , ", "  "]))
def test_a_line_is_divided_after_a_path_that_is_known(path: str, label: str, separator: str) -> None:
    path = str(Path(path))
    assert divided(f"{path}{separator}{label}", frozenset({path, "ab", "other.png"})) == (path, label)


@given(line=st.text(max_size=30))
def test_no_line_is_divided_into_what_it_does_not_hold(line: str) -> None:
    _, label = divided(line.strip(), frozenset({"a"}))
    assert label in line
    assert label == label.strip()


@given(
    names=st.lists(st.sampled_from(["0", "1", "-1", "7", "007", "ant", "bee", "Bee", "x", "1.0", ""]), max_size=6),
    labels=st.none() | st.lists(st.sampled_from(["ant", "bee", "0", "1", "7"]), min_size=4, max_size=4),
)
def test_every_name_is_a_class_or_a_fault_and_never_both(names: list[str], labels: list[str] | None) -> None:
    read = class_indices(names, 4, labels)
    assert {*read.indices} | {*read.faults} == {*names}
    assert {*read.indices} & {*read.faults} == set()
    assert all(0 <= index < 4 for index in read.indices.values())
    for name, index in read.indices.items():
        assert (labels is not None and labels[index] == name and labels.count(name) == 1) or int(name) == index
