"""Images that a Python caller gives one after the other, and how a stream of images is read."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from resnet_export.errors import RequestError
from resnet_export.quantization.images import check_varied
from resnet_runtime.preprocess import batch_from_images

from .image_sources import (
    ENTRY,
    STEPS,
    everything,
    folder_of,
    image,
    refusal,
    samples,
    stream,
)


def test_a_list_of_whatever_an_image_may_be(tmp_path: Path) -> None:
    image(0).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    given = [tmp_path / "a.png", str(tmp_path / "a.png"), data, io.BytesIO(data), image(0)]
    found = stream(given)
    assert found.count == 5
    np.testing.assert_array_equal(found.head(9), np.repeat(batch_from_images([image(0)], STEPS, ENTRY), 5, axis=0))


def test_arrays_keep_their_own_order() -> None:
    given = samples(10)
    for source in (given, [given], list(given), [given[:4], given[4], given[5:]], iter(given), torch.from_numpy(given)):
        np.testing.assert_array_equal(everything(source), given)
    assert [stream(source).count for source in (given, [given[:4], given[4]], iter(given))] == [10, 5, None]
    np.testing.assert_array_equal(everything(given[0]), given[:1])


def test_a_batch_is_the_callers_to_keep() -> None:
    given = samples(4)
    batch = next(stream(given).batches(4))
    batch[:] = 0
    np.testing.assert_array_equal(given, samples(4))


def test_the_count_of_an_iterator_is_known_once_it_was_read() -> None:
    given = stream(iter(samples(5)))
    assert given.count is None
    assert len(list(given.batches(2))) == 3
    assert given.count == 5


def test_an_iterator_is_read_no_further_than_was_asked_for() -> None:
    source = iter(samples(10))
    stream(source).head(3)
    assert len(list(source)) == 7


def test_the_head_of_an_iterator_is_not_lost() -> None:
    given = stream(iter(samples(10)))
    np.testing.assert_array_equal(given.head(3), samples(10)[:3])
    np.testing.assert_array_equal(given.head(5), samples(10)[:5])
    np.testing.assert_array_equal(given.head(2), samples(10)[:2])
    np.testing.assert_array_equal(np.concatenate(list(given.batches(4))), samples(10))
    np.testing.assert_array_equal(given.head(5), samples(10)[:5])


@pytest.mark.parametrize("asked", [3, 99])
def test_an_iterator_cannot_be_read_twice(asked: int) -> None:
    given = stream(iter(samples(5)))
    given.head(asked)
    list(given.batches(2))
    with pytest.raises(RequestError) as caught:
        given.batches(2)
    assert caught.value.message == (
        "--calibration is an iterator that was read already, and it is needed once more: give a list, a folder, or "
        "another iterable that can begin again"
    )


def test_all_of_an_iterator_that_was_kept_can_be_asked_for_again() -> None:
    given = stream(iter(samples(5)))
    given.head(99)
    list(given.batches(2))
    np.testing.assert_array_equal(given.head(99), samples(5))


def test_the_head_after_the_batches() -> None:
    given = stream(samples(5))
    assert len(list(given.batches(2))) == 3
    np.testing.assert_array_equal(given.head(2), samples(5)[:2])
    np.testing.assert_array_equal(np.concatenate(list(given.batches(2))), samples(5))
    once = stream(iter(samples(5)))
    list(once.batches(2))
    with pytest.raises(RequestError, match="was read already"):
        once.head(2)


def test_a_head_that_failed_is_not_taken_for_a_short_one() -> None:
    array = samples(5)
    array[3] = np.nan
    given = stream(array)
    for _ in range(2):
        with pytest.raises(RequestError, match="sample 3"):
            given.head(5)


def test_the_head_of_files_is_the_beginning_of_their_batches(tmp_path: Path) -> None:
    given = stream(folder_of(tmp_path, 9))
    head = given.head(4)
    for _ in range(2):
        found = np.concatenate(list(given.batches(3)))
        assert len(found) == 9
        np.testing.assert_array_equal(found[:4], head)


@pytest.mark.parametrize("source", [[], (), iter(()), {}.values()])
def test_an_empty_iterable(source: Any) -> None:
    assert refusal(source).message == "--calibration holds no image at all: give at least one"


@pytest.mark.parametrize("arrays_first", [True, False])
def test_images_and_arrays_in_one_list(arrays_first: bool) -> None:
    items = [samples(1), image(0)] if arrays_first else [image(0), samples(1)]
    message = refusal(items, skip_bad=True).message
    assert message == "--calibration mixes images and arrays, first at images[1]: give one kind"


def test_a_loader_that_gives_labels_too() -> None:
    assert refusal([(samples(1), 3)]).message == (
        "--calibration: images[0] is a tuple, and an item is an image or an array: give the images alone, as "
        "(images for images, _ in loader)"
    )


def test_an_item_that_is_neither() -> None:
    assert refusal([image(0), 7]).message.startswith("--calibration: images[1] is a int, and an image is a file's name")


def test_a_bad_image_in_a_list_is_named(tmp_path: Path) -> None:
    given = stream([image(0), b"", tmp_path / "no.png", image(1)], skip_bad=True)
    assert len(given.head(9)) == 2
    assert given.skipped == ["images[1] is empty", f"{tmp_path / 'no.png'} does not exist"]


def test_a_tensor_that_does_not_become_an_array() -> None:
    assert refusal([torch.ones(ENTRY.shape, requires_grad=True)]).message.startswith(
        "--calibration: images[0] does not become an array: "
    )


@pytest.mark.parametrize("source", [b"\x89PNG", 7, None, image(0)])
def test_a_source_that_is_none(source: Any) -> None:
    assert refusal(source).message == (
        f"--calibration is a {type(source).__name__}: give a folder, an array file, or a list of images or of arrays"
    )


def test_what_the_users_own_iterable_raises_is_passed_on() -> None:
    def images() -> Iterator[np.ndarray]:
        yield samples(1)
        raise KeyError("the user's")

    with pytest.raises(KeyError, match="the user's"):
        everything(images())


def test_identical_images_are_refused() -> None:
    for head in (np.zeros((3, 3, 8, 8), np.float32), np.repeat(samples(1), 5, axis=0)):
        with pytest.raises(RequestError) as caught:
            check_varied(head)
        assert caught.value.message.startswith(f"the first {len(head)} images of --calibration are all the same: ")


def test_one_image_alone_and_images_that_differ_are_not_refused() -> None:
    check_varied(np.zeros((1, 3, 8, 8), np.float32))
    check_varied(samples(2))
    almost = np.zeros((3, 3, 8, 8), np.uint8)
    almost[2, 0, 0, 0] = 1
    check_varied(almost)
