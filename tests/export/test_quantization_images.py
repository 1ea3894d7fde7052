"""Image files of --calibration: the bundle's own preprocessing in a fixed order, and a sentence for what is wrong."""

from __future__ import annotations

import os
import shutil
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from resnet_export.errors import RequestError
from resnet_export.quantization import image_files
from resnet_export.quantization.image_files import IMAGE_SUFFIXES
from resnet_runtime import preprocess
from resnet_runtime.preprocess import batch_from_images
from tests.runtime.bundles import sample_preprocessing
from tests.runtime.images import encoded
from tests.runtime.images import entry as input_entry

from .image_sources import (
    AS_IS,
    BYTES,
    ENTRY,
    HINT,
    STEPS,
    everything,
    expected,
    folder_of,
    image,
    refusal,
    samples,
    stream,
)

# --- folders of images


def test_a_folder_gives_what_the_runtime_makes_of_its_images(tmp_path: Path) -> None:
    folder_of(tmp_path, 11)
    np.testing.assert_array_equal(everything(tmp_path), expected(tmp_path))
    np.testing.assert_array_equal(everything(str(tmp_path)), expected(tmp_path))


def test_every_batch_but_the_last_is_full(tmp_path: Path) -> None:
    given = stream(folder_of(tmp_path, 11))
    assert [batch.shape for batch in given.batches(4)] == [(4, 3, 8, 8), (4, 3, 8, 8), (3, 3, 8, 8)]
    assert given.count == 11


def test_preprocessing_in_the_graph_gives_bytes(tmp_path: Path) -> None:
    steps = sample_preprocessing(in_graph=True)
    found = everything(folder_of(tmp_path, 5), entry=BYTES, steps=steps)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, expected(tmp_path, steps, BYTES))


def test_the_order_is_fixed_and_mixes_a_folder_that_is_sorted_by_class(tmp_path: Path) -> None:
    given = stream(folder_of(tmp_path, 40))
    positions = np.concatenate([numbers for numbers, _ in given.numbered_batches(7)])
    assert positions[:8].tolist() == [22, 20, 25, 4, 10, 15, 28, 11]  # a change would change every calibration
    assert sorted(positions) == list(range(40))
    assert 6 <= (positions[:20] < 20).sum() <= 14


def test_the_order_is_that_of_the_names_and_not_of_the_file_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder_of(tmp_path, 12)
    before = everything(tmp_path)
    listed = os.scandir

    class Backwards:
        def __init__(self, path: Path) -> None:
            self.entries = sorted(listed(path), key=lambda entry: entry.name, reverse=True)

        def __enter__(self) -> Iterator[os.DirEntry[str]]:
            return iter(self.entries)

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(os, "scandir", Backwards)
    np.testing.assert_array_equal(everything(tmp_path), before)


def test_the_order_holds_although_some_images_take_longer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:

    made = image_files.sample_from_image

    def slowly(path: Path, *rest: Any) -> Any:
        time.sleep(0.02 if path.name.startswith("000") else 0)
        return made(path, *rest)

    folder_of(tmp_path, 20)
    before = everything(tmp_path)
    monkeypatch.setattr(image_files, "sample_from_image", slowly)
    np.testing.assert_array_equal(everything(tmp_path), before)


def test_one_image_file_is_a_source(tmp_path: Path) -> None:
    image(1).save(tmp_path / "cat.JPEG")
    np.testing.assert_array_equal(
        everything(tmp_path / "cat.JPEG"), batch_from_images([tmp_path / "cat.JPEG"], STEPS, ENTRY)
    )


def test_every_format_that_the_runtime_decodes_has_a_suffix() -> None:
    Image.init()
    formats = {Image.registered_extensions().get(suffix) for suffix in IMAGE_SUFFIXES}
    assert {*preprocess.FORMATS} & set(Image.OPEN) <= formats


def test_hidden_files_and_folders_do_not_count(tmp_path: Path) -> None:
    folder_of(tmp_path, 4)
    (tmp_path / ".DS_Store").write_bytes(b"?")
    (tmp_path / ".cache").mkdir()
    shutil.copy(tmp_path / "c0" / "0000.png", tmp_path / ".cache" / "a.png")
    assert stream(tmp_path).count == 4


def test_files_can_be_read_again_and_again(tmp_path: Path) -> None:
    given = stream(folder_of(tmp_path, 7))
    first, second = (np.concatenate(list(given.batches(3))) for _ in range(2))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("mode", ["L", "CMYK", "P", "RGBA", "LA", "1"])
def test_an_image_in_another_mode_is_converted_as_the_runtime_does(tmp_path: Path, mode: str) -> None:
    folder_of(tmp_path, 2)
    name = "c0/odd.tiff" if mode in ("CMYK", "LA") else "c0/odd.png"
    odd = image(9, mode)
    if mode in ("RGBA", "LA"):
        odd.putalpha(image(3, "L"))
    odd.save(tmp_path / name)
    wanted = batch_from_images([tmp_path / name], STEPS, ENTRY)[0]
    assert sum((sample == wanted).all() for sample in everything(tmp_path)) == 1


def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preprocess, "MAX_FILE_BYTES", 2**16)  # a buffer of that size is reserved, and never touched
    peaks = []
    entry = input_entry(64, 64, dtype="float32", layout="NCHW")  # 48 KiB a sample
    for count in (25, 75):
        given = stream(folder_of(tmp_path / str(count), count, size=(64, 64)), entry=entry, steps=AS_IS)
        given.head(4)
        tracemalloc.start()
        assert sum(len(batch) for batch in given.batches(4)) == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 20 * 48 * 1024


def test_a_path_that_does_not_exist(tmp_path: Path) -> None:
    assert refusal(tmp_path / "no").message == f"--calibration {tmp_path / 'no'} does not exist"


def test_a_path_that_cannot_be_one() -> None:
    assert refusal("a\0b").message == "--calibration 'a\\x00b' cannot be a path: embedded null byte"


def test_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "c0").mkdir()
    assert refusal(tmp_path).message.startswith(
        f"--calibration {tmp_path} is an empty folder: put images (.jpg .jpeg .jpe .jfif .png "
    )


def test_images_and_arrays_in_one_folder(tmp_path: Path) -> None:
    folder_of(tmp_path, 2)
    np.save(tmp_path / "c1" / "a.npy", samples(2))
    assert refusal(tmp_path).message == (
        f"--calibration {tmp_path} holds both images and arrays, as c0/0000.png and c1/a.npy: move one kind away"
    )


def test_a_folder_without_any_image(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    (tmp_path / "video.mp4").touch()
    found = refusal(tmp_path, skip_bad=True).message
    assert found.startswith(
        f"--calibration {tmp_path} holds no image and no array, but 2 other files, as notes.txt: give images (.jpg "
    )
    assert found.endswith(" or arrays (.npy .npz)")


def test_a_file_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / "images.zip").touch()
    assert refusal(tmp_path / "images.zip").message.startswith(
        f"--calibration {tmp_path / 'images.zip'} has a suffix that it does not take: give images (.jpg "
    )


def test_an_unknown_suffix_among_images_is_named(tmp_path: Path) -> None:
    folder_of(tmp_path, 3)
    (tmp_path / "c0" / "Thumbs.db").touch()
    found = refusal(tmp_path).message
    assert found.startswith(
        f"--calibration: {tmp_path / 'c0' / 'Thumbs.db'} has a suffix that --calibration does not take: it takes images"
    )
    assert found.endswith(HINT)
    given = stream(tmp_path, skip_bad=True)
    assert (given.count, len(given.skipped)) == (3, 1)


def test_many_unknown_suffixes_are_listed(tmp_path: Path) -> None:
    folder_of(tmp_path, 1)
    for index in range(102):
        (tmp_path / f"{index:03}.txt").touch()
    error = refusal(tmp_path)
    assert error.message == f"--calibration {tmp_path} holds 102 files that cannot be used{HINT}"
    assert len(error.details) == 101
    assert error.details[0].startswith(f"{tmp_path / '000.txt'} has a suffix")
    assert error.details[-1] == "and 2 more"


def test_an_image_of_another_size_where_nothing_resizes_it(tmp_path: Path) -> None:
    folder_of(tmp_path, 3, size=(8, 8))
    image(5, size=(8, 9)).save(tmp_path / "c0" / "tall.png")
    assert refusal(tmp_path, steps=AS_IS).message == (
        f"--calibration: {tmp_path / 'c0' / 'tall.png'} has 9 x 8 pixels (height x width) after the bundle's "
        f"preprocessing, and the model takes 8 x 8: resize or crop the image to that before{HINT}"
    )


def test_one_corrupt_image_among_a_thousand_is_named(tmp_path: Path) -> None:
    data = encoded(image(0, size=(8, 8)), "PNG")
    for index in range(1000):
        (tmp_path / f"{index}.png").write_bytes(data if index != 123 else data[:60])
    found = refusal(tmp_path, steps=AS_IS).message
    assert found.startswith(f"--calibration: {tmp_path / '123.png'} cannot be read as an image: ")
    assert found.endswith(HINT)
    given = stream(tmp_path, steps=AS_IS, skip_bad=True)
    assert sum(len(batch) for batch in given.batches(64)) == given.count == 999
    assert [text.startswith(f"{tmp_path / '123.png'} cannot be read as an image: ") for text in given.skipped] == [True]


def test_what_is_skipped_twice_is_recorded_once(tmp_path: Path) -> None:
    folder_of(tmp_path, 3)
    (tmp_path / "c0" / "bad.png").touch()
    given = stream(tmp_path, skip_bad=True)
    assert given.count == 4
    for _ in range(2):
        assert sum(len(batch) for batch in given.batches(2)) == given.count == 3
    assert given.skipped == [f"{tmp_path / 'c0' / 'bad.png'} is empty"]


def test_all_images_corrupt(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / f"{name}.png").touch()
    error = refusal(tmp_path, skip_bad=True)
    assert error.message == f"--calibration {tmp_path} holds no image that can be used"
    assert sorted(error.details) == [f"{tmp_path / name}.png is empty" for name in "abc"]
    with pytest.raises(RequestError, match="holds no image that can be used"):
        stream(tmp_path, skip_bad=True).head(2)


def test_a_model_that_takes_no_images(tmp_path: Path) -> None:
    four = input_entry(8, 8, channels=4, dtype="float32", layout="NCHW")
    found = refusal(folder_of(tmp_path, 2), entry=four, skip_bad=True).message
    assert found.startswith("--calibration: the bundle's color order RGB gives 3 channels, and its input takes 4: ")
    assert refusal([image(0)], entry=four, skip_bad=True).message == found


def test_links_to_files_are_images(tmp_path: Path) -> None:
    folder_of(tmp_path / "real", 3)
    (tmp_path / "linked").mkdir()
    for path in (tmp_path / "real").rglob("*.png"):
        (tmp_path / "linked" / path.name).symlink_to(path)
    assert everything(tmp_path / "linked").shape == (3, 3, 8, 8)


def test_links_to_folders_are_followed(tmp_path: Path) -> None:
    folder_of(tmp_path / "real", 4)
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "a").symlink_to(tmp_path / "real" / "c0")
    assert stream(tmp_path / "linked").count == 2


def test_link_loops_end(tmp_path: Path) -> None:
    folder_of(tmp_path, 4)
    for name in ("c0", "c1"):
        (tmp_path / name / "up").symlink_to(tmp_path)
        (tmp_path / name / "aside").symlink_to(tmp_path / "c0")
        (tmp_path / name / "round").symlink_to(tmp_path / name)
    assert stream(tmp_path).count == 4


def test_a_link_to_itself_and_a_link_to_nothing(tmp_path: Path) -> None:
    folder_of(tmp_path, 2)
    (tmp_path / "a.png").symlink_to(tmp_path / "a.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "none.png")
    error = refusal(tmp_path)
    assert error.details == tuple(
        f"{tmp_path / name} is a link to nothing that can be read" for name in ("a.png", "b.png")
    )
    assert stream(tmp_path, skip_bad=True).count == 2


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    assert refusal(tmp_path).message == f"{tmp_path / 'a.png'} is neither a file nor a folder"
    assert refusal(tmp_path / "a.png").message == f"--calibration {tmp_path / 'a.png'} is neither a file nor a folder"
