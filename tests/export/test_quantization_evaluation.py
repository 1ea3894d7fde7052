"""The labelled images of --evaluation: every way to give a class, and every way to give it wrong."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resnet_export.errors import RequestError
from resnet_runtime.preprocess import batch_from_images

from .evaluation_sets import (
    ENTRY,
    NAMES,
    STEPS,
    answers,
    array_answers,
    arrays,
    evaluation,
    labels_text,
    put,
    refusal,
)

# --- folders of classes

IN_FOLDERS = ("dog/a.png", "dog/b.png", "ant/a.png", "bee/deep/er/a.png", "cat/a.png")
BY_NAME = {"dog/a.png": 3, "dog/b.png": 3, "ant/a.png": 0, "bee/deep/er/a.png": 1, "cat/a.png": 2}


def test_folders_are_counted_as_image_folder_does(tmp_path: Path) -> None:
    found = evaluation(put(tmp_path, *IN_FOLDERS))
    assert (found.labelled, found.count, found.skipped, found.notes) == (True, 5, [], ())
    assert answers(found, IN_FOLDERS) == BY_NAME


def test_folders_with_the_names_of_classes(tmp_path: Path) -> None:
    names = ("dog", "zebra", "cat", "bee", "ant")
    wanted = {name: names.index(name.partition("/")[0]) for name in IN_FOLDERS}
    assert answers(evaluation(put(tmp_path, *IN_FOLDERS), classes=5, labels=names), IN_FOLDERS) == wanted


def test_folders_with_the_indices_of_classes(tmp_path: Path) -> None:
    images = ("3/a.png", "00/a.png", "10/a.png")
    found = evaluation(put(tmp_path, *images), classes=11, labels=tuple("abcdefghijk"))
    assert answers(found, images) == {"3/a.png": 3, "00/a.png": 0, "10/a.png": 10}


def test_names_that_are_integers_are_names_and_a_note_says_so(tmp_path: Path) -> None:
    images = ("1/a.png", "2/a.png")
    found = evaluation(put(tmp_path, *images), labels=("4", "3", "2", "1"))
    assert answers(found, images) == {"1/a.png": 3, "2/a.png": 2}
    assert found.notes == (
        "the labels are read as the names of classes, and not as their indices, although all are integers",
    )
    assert evaluation(tmp_path, labels=("0", "1", "2", "3")).notes == ()


def test_integers_without_names_are_in_the_order_of_text_and_a_note_says_so(tmp_path: Path) -> None:
    images = tuple(f"{number}/a.png" for number in range(11))
    found = evaluation(put(tmp_path, *images), classes=11)
    assert answers(found, images)["10/a.png"] == 2
    assert found.notes == (
        f"the folders of --evaluation {tmp_path} are counted in the order of their names as text, as ImageFolder does, "
        "so that 10 comes before 2: give --labels if the model was trained in another order",
    )


def test_an_empty_folder_is_a_class_without_images(tmp_path: Path) -> None:
    put(tmp_path, "dog/a.png")
    for name in ("ant", "bee", "cat", ".hidden"):
        (tmp_path / name).mkdir()
    assert answers(evaluation(tmp_path), ("dog/a.png",)) == {"dog/a.png": 3}


def test_a_link_to_a_folder_is_a_class(tmp_path: Path) -> None:
    put(tmp_path / "real", "a.png")
    put(tmp_path / "set", "ant/b.png")
    (tmp_path / "set" / "bee").symlink_to(tmp_path / "real")
    assert evaluation(tmp_path / "set", classes=2).count == 2


def test_another_number_of_folders_than_classes(tmp_path: Path) -> None:
    assert refusal(put(tmp_path, *IN_FOLDERS), classes=10).message == (
        f"--evaluation {tmp_path} has 4 folders, and the model has 10 classes: make one folder a class, empty ones "
        "too, or give the names of the classes by --labels, or the images' own by --evaluation-labels"
    )


def test_folders_that_are_no_classes(tmp_path: Path) -> None:
    error = refusal(put(tmp_path, *IN_FOLDERS, "eel/a.png"), labels=("ant", "bee", "Cat", "fox"))
    reason = "is not one of the model's class names, and not every label is an integer"
    assert error.message == f"3 folders of --evaluation {tmp_path} are not classes of the model"
    assert error.details == tuple(
        f"the folder '{name}' of --evaluation {tmp_path} {reason}" for name in ("cat", "dog", "eel")
    )


def test_a_folder_out_of_range(tmp_path: Path) -> None:
    assert refusal(put(tmp_path, "0/a.png", "4/a.png"), labels=NAMES).message == (
        f"the folder '4' of --evaluation {tmp_path} is not a class: the model has 4, counted from 0"
    )


def test_two_folders_of_one_class(tmp_path: Path) -> None:
    assert refusal(put(tmp_path, "1/a.png", "01/a.png"), labels=NAMES).message == (
        f"the folders '01' and '1' of --evaluation {tmp_path} are the same class"
    )


def test_a_folder_with_the_name_of_two_classes(tmp_path: Path) -> None:
    assert refusal(put(tmp_path, "crane/a.png"), labels=("crane", "bee", "crane", "dog")).message == (
        f"the folder 'crane' of --evaluation {tmp_path} is the name of the classes 0 and 2: use integers for all"
    )


def test_images_beside_the_folders(tmp_path: Path) -> None:
    assert refusal(put(tmp_path, "ant/a.png", "b.png")).message == (
        f"--evaluation {tmp_path} holds 1 of its images outside its folders, as b.png: put each into the folder of "
        "its class, or give --evaluation-labels"
    )


def test_a_flat_folder_is_not_labelled(tmp_path: Path) -> None:
    found = evaluation(put(tmp_path, "a.png", "b.png"))
    assert (found.labelled, found.count) == (False, 2)
    assert [(batch.shape, labels) for batch, labels in found.batches(9)] == [((2, 3, 8, 8), None)]


def test_arrays_alone_are_not_labelled(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", arrays(3))
    np.savez(tmp_path / "b.npz", arrays(3))
    assert not evaluation(tmp_path).labelled


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("values", [np.array([3, 0, 1], np.uint8), np.array(["dog", "ant", "bee"]), [3, 0, 1]])
def test_an_npz_file_with_labels(tmp_path: Path, save: Any, values: Any) -> None:
    save(tmp_path / "a.npz", input=arrays(3), labels=values)
    found = evaluation(tmp_path / "a.npz", labels=NAMES)
    assert found.labelled
    assert array_answers(found) == [3, 0, 1]


def test_a_folder_of_npz_files_with_labels(tmp_path: Path) -> None:
    values = arrays(6)
    np.savez(tmp_path / "b.npz", images=values[2:5], labels=[1, 2, 3])
    np.savez(tmp_path / "a.npz", images=values[:2], labels=[0, 1])
    np.savez(tmp_path / "c.npz", images=values[5], labels=np.int32(2))
    assert array_answers(evaluation(tmp_path)) == [0, 1, 1, 2, 3, 2]


def test_integers_in_an_array_are_indices_whatever_the_classes_are_called(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", input=arrays(2), labels=[1, 2])
    assert array_answers(evaluation(tmp_path, labels=("4", "3", "2", "1"))) == [1, 2]


@pytest.mark.parametrize("kind", ["text", "npy", "npz"])
def test_a_file_with_one_label_a_sample(tmp_path: Path, kind: str) -> None:
    (tmp_path / "x").mkdir()
    np.save(tmp_path / "x" / "b.npy", arrays(5)[3:])
    np.save(tmp_path / "x" / "a.npy", arrays(5)[:3])
    wanted = [3, 1, 0, 0, 2]
    if kind == "text":
        file = tmp_path / "labels.txt"
        file.write_text("\n".join(map(str, wanted)) + "\n")
    else:
        file = tmp_path / f"y.{kind}"
        np.save(file, wanted) if kind == "npy" else np.savez(file, labels=wanted)
    assert array_answers(evaluation(tmp_path / "x", labels_file=file)) == wanted


def test_an_array_of_labels_may_lie_among_the_arrays(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", arrays(2))
    np.save(tmp_path / "y.npy", [1, 0])
    assert array_answers(evaluation(tmp_path, labels_file=tmp_path / "y.npy")) == [1, 0]


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ([1, 2], "shape (2,) and the dtype int64"),
        ([[1], [2], [3]], "shape (3, 1) and the dtype int64"),
        ([1.0, 2.0, 3.0], "shape (3,) and the dtype float64"),
        (np.eye(3, dtype=np.int64), "shape (3, 3) and the dtype int64"),
    ],
)
def test_an_array_of_labels_that_does_not_fit(tmp_path: Path, values: Any, found: str) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, input=arrays(3), labels=values)
    assert refusal(path).message == (
        f"--evaluation: the labels in {path} are an array of the {found}: give one integer or class name for each of "
        "the 3 samples"
    )


def test_pickled_labels_are_not_loaded(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", input=arrays(1), labels=np.array([{}], object))
    assert "Object arrays cannot be loaded" in refusal(tmp_path).message
    (tmp_path / "b").mkdir()
    np.save(tmp_path / "b" / "x.npy", arrays(1))
    np.savez(tmp_path / "y.npz", classes=[1])
    error = refusal(tmp_path / "b", labels_file=tmp_path / "y.npz")
    assert error.message == f"--evaluation-labels: {tmp_path / 'y.npz'} has no array 'labels'"


def test_labels_of_arrays_out_of_range_are_all_listed(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", input=arrays(4), labels=[4, 0, -1, 3])
    error = refusal(tmp_path)
    path = tmp_path / "a.npz"
    assert error.message == f"{path} has 2 labels that are not classes of the model"
    reason = "is not a class: the model has 4, counted from 0"
    assert error.details == (f"the label 1 of {path}, '4', {reason}", f"the label 3 of {path}, '-1', {reason}")


def test_another_number_of_lines_than_samples(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", arrays(3))
    file = labels_text(tmp_path, "1\n2\n")
    assert refusal(tmp_path / "x.npy", labels_file=file).message == (
        f"{file} has 2 labels, and there are 3 samples: give one a sample, in order"
    )


def test_an_empty_line_among_the_labels_of_samples(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", arrays(3))
    file = labels_text(tmp_path, "1\n\n2\n")
    assert refusal(tmp_path / "x.npy", labels_file=file).message == f"the label 2 of {file} is empty"


def test_labels_that_are_given_twice(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", input=arrays(1), labels=[1])
    file = labels_text(tmp_path, "1\n")
    assert refusal(tmp_path / "x.npz", labels_file=file).message == (
        f"{tmp_path / 'x.npz'} holds labels, and so does --evaluation-labels {file}: give one of them"
    )


def test_labels_in_some_files_only(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", input=arrays(1), labels=[1])
    np.savez(tmp_path / "b.npz", input=arrays(1))
    assert refusal(tmp_path).message == (
        f"--evaluation {tmp_path} has labels in 1 of its files, and none in {tmp_path / 'b.npz'}: label all"
    )


def test_every_pass_gives_the_same(tmp_path: Path) -> None:
    images = tuple(f"{'abcd'[index % 4]}/{index}.png" for index in range(30))
    found = evaluation(put(tmp_path, *images))
    first, second = ([(batch.tobytes(), labels.tolist()) for batch, labels in found.batches(7)] for _ in range(2))
    assert first == second
    assert [len(labels) for _, labels in first] == [7, 7, 7, 7, 2]


def test_the_images_are_preprocessed_as_the_runtime_does(tmp_path: Path) -> None:
    put(tmp_path, "ant/a.png")
    [(batch, labels)] = evaluation(tmp_path, classes=1).batches(4)
    np.testing.assert_array_equal(batch, batch_from_images([tmp_path / "ant" / "a.png"], STEPS, ENTRY))
    np.testing.assert_array_equal(labels, [0])


def test_labels_stay_with_their_images_where_bad_ones_are_skipped(tmp_path: Path) -> None:
    images = tuple(f"{'abcd'[index % 4]}/{index}.png" for index in range(20))
    put(tmp_path, *images)
    for index in (3, 10):
        os.truncate(tmp_path / images[index], 20)
    (tmp_path / "a" / "notes.txt").touch()
    found = evaluation(tmp_path, skip_bad=True)
    wanted = {name: "abcd".index(name[0]) for index, name in enumerate(images) if index not in (3, 10)}
    for _ in range(2):
        assert answers(found, images) == wanted
        assert (found.count, len(found.skipped)) == (18, 3)
    (tmp_path / "a" / "notes.txt").unlink()
    strict = evaluation(tmp_path)
    with pytest.raises(RequestError, match=r"^--evaluation: .*(d/3|c/10)\.png cannot be read as an image: "):
        list(strict.batches(4))


def test_faults_in_labels_are_found_before_any_image_is_read(tmp_path: Path) -> None:
    put(tmp_path, *IN_FOLDERS)
    for name in IN_FOLDERS:
        os.truncate(tmp_path / name, 0)
    assert "has 4 folders, and the model has 5 classes" in refusal(tmp_path, classes=5).message


@pytest.mark.parametrize("name", ["no", "set"])
def test_nothing_to_evaluate_with(tmp_path: Path, name: str) -> None:
    (tmp_path / "set").mkdir()
    reason = "does not exist" if name == "no" else "is an empty folder: put images"
    assert refusal(tmp_path / name).message.startswith(f"--evaluation {tmp_path / name} {reason}")
