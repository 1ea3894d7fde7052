"""The names of the classes, exactly."""

from __future__ import annotations

from pathlib import Path

import pytest

from resnet_export.errors import RequestError
from resnet_export.labels import check_labels, labels_from_file


@pytest.mark.parametrize(
    ("data", "labels"),
    [
        (b"a\nb\n", ("a", "b")),
        (b"a\nb", ("a", "b")),
        (b"a\nb\n\n \n", ("a", "b")),
        (b"a\r\nb\r\n", ("a", "b")),
        (b"\xef\xbb\xbfa\nb\n", ("a", "b")),
        (b"  a \n\tb\n", ("a", "b")),
        (b"tench, Tinca tinca\n0\n", ("tench, Tinca tinca", "0")),
        ("größe\u2028x\n\U0001f408\n".encode(), ("größe\u2028x", "\U0001f408")),
        (b"same\nsame\n", ("same", "same")),
        (b"a", ("a",)),
    ],
)
def test_one_class_a_line(tmp_path: Path, data: bytes, labels: tuple[str, ...]) -> None:
    (tmp_path / "labels.txt").write_bytes(data)
    assert labels_from_file(tmp_path / "labels.txt") == labels


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the labels {path} are empty: give one class a line"),
        (b"\n \r\n", "the labels {path} are empty: give one class a line"),
        (b"\xef\xbb\xbf", "the labels {path} are empty: give one class a line"),
        (b"a\n\nb\n", "line 2 of the labels {path} is empty: give one class a line"),
        (b"\na\n", "line 1 of the labels {path} is empty: give one class a line"),
        (b"ab\xff\n", "the labels {path} are not UTF-8 text at byte 2"),
        ("a\n".encode("utf-16-le") + b"\xd8\xd8", "the labels {path} are not UTF-8 text at byte 4"),
    ],
)
def test_what_is_no_list_of_classes_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "labels.txt"
    path.write_bytes(data)
    with pytest.raises(RequestError) as caught:
        labels_from_file(path)
    assert caught.value.message == message.format(path=path)


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError) as caught:
        labels_from_file(tmp_path)
    assert caught.value.message == f"the labels {tmp_path} cannot be read: Is a directory"


def test_the_count_is_that_of_the_classes() -> None:
    check_labels(("a", "b"), (2,))
    with pytest.raises(RequestError, match=r"^--labels has 2 lines, and the model has 3 classes: "):
        check_labels(("a", "b"), (3,))


def test_an_output_that_is_no_list_of_classes_has_no_labels() -> None:
    with pytest.raises(RequestError, match=r"the model has an output of shape \(2, 7, 7\)"):
        check_labels(("a", "b"), (2, 7, 7))
