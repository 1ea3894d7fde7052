"""Arrays of --calibration in .npy and .npz files: mapped or streamed, never unpickled, and whole."""

from __future__ import annotations

import contextlib
import io
import os
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resnet_export.errors import RequestError
from resnet_export.quantization.samples import fixed_order
from tests.runtime.bundles import sample_preprocessing

from .image_sources import (
    BYTES,
    ENTRY,
    HINT,
    everything,
    refusal,
    samples,
    stream,
)


def sorted_rows(array: np.ndarray) -> np.ndarray:
    return array[np.lexsort(array.reshape(len(array), -1).T)]


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("name", ["input", "images", "x"])
def test_an_npz_file(tmp_path: Path, save: Any, name: str) -> None:
    others = {} if name == "x" else {"labels": np.arange(9), "other": np.zeros(3)}
    save(tmp_path / "a.npz", **{name: samples(9)}, **others)
    np.testing.assert_array_equal(sorted_rows(everything(tmp_path / "a.npz")), sorted_rows(samples(9)))
    assert stream(tmp_path / "a.npz").count == 9


def test_an_npy_file_comes_in_the_fixed_order(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", samples(9))
    np.testing.assert_array_equal(everything(tmp_path / "a.npy"), samples(9)[fixed_order(9)])


def test_a_folder_of_arrays_is_mixed_across_its_files(tmp_path: Path) -> None:
    for index in range(4):
        np.save(tmp_path / f"{index}.npy", np.full((10, *ENTRY.shape), index, np.float32))
    assert set(stream(tmp_path).head(16)[:, 0, 0, 0]) == {0.0, 1.0, 2.0, 3.0}
    assert stream(tmp_path).count == 40


def test_positions_count_through_the_files_in_the_order_of_their_names(tmp_path: Path) -> None:
    given = samples(9)
    np.save(tmp_path / "a.npy", given[:4])
    np.savez_compressed(tmp_path / "b.npz", given[4:7])
    np.savez(tmp_path / "c.npz", given[7:])
    for positions, batch in stream(tmp_path).numbered_batches(2):
        np.testing.assert_array_equal(batch, given[positions])


@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_a_single_sample_needs_no_batch_axis(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    (np.save if suffix == "npy" else np.savez)(path, samples(1)[0])
    np.testing.assert_array_equal(everything(path), samples(1))


@pytest.mark.parametrize("stored", [np.asfortranarray(samples(5)), samples(5).astype(">f4"), samples(10)[::2]])
def test_the_order_of_axes_and_bytes_in_a_file_does_not_matter(tmp_path: Path, stored: np.ndarray) -> None:
    np.save(tmp_path / "a.npy", stored)
    found = everything(tmp_path / "a.npy")
    assert found.dtype == np.dtype("float32")
    np.testing.assert_array_equal(found, stored[fixed_order(5)])


def test_arrays_of_bytes_where_the_preprocessing_is_in_the_graph(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8)
    np.save(tmp_path / "a.npy", pixels)
    steps = sample_preprocessing(in_graph=True)
    np.testing.assert_array_equal(everything(tmp_path / "a.npy", entry=BYTES, steps=steps), pixels[fixed_order(3)])


def test_a_compressed_array_is_not_read_whole(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", np.zeros((20000, *ENTRY.shape), np.float32))  # 15 MB, 15 kB compressed
    given = stream(tmp_path / "a.npz")
    tracemalloc.start()
    given.head(4)
    assert tracemalloc.get_traced_memory()[1] < 2e6
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("array", "found"),
    [
        (np.zeros((4, 3, 9, 9), np.float32), "shape (4, 3, 9, 9) and the dtype float32"),
        (np.zeros((4, 8, 8, 3), np.float32), "shape (4, 8, 8, 3) and the dtype float32"),
        (np.zeros((8, 8), np.float32), "shape (8, 8) and the dtype float32"),
        (np.float32(0), "shape () and the dtype float32"),
        (np.zeros((1, 4, 3, 8, 8), np.float32), "shape (1, 4, 3, 8, 8) and the dtype float32"),
        (np.zeros((4, 3, 8, 8), np.float64), "shape (4, 3, 8, 8) and the dtype float64"),
        (np.zeros((4, 3, 8, 8), np.uint8), "shape (4, 3, 8, 8) and the dtype uint8"),
        (np.zeros((4, 3, 8, 8), "U3"), "shape (4, 3, 8, 8) and the dtype <U3"),
    ],
)
def test_an_array_of_another_shape_or_dtype(tmp_path: Path, array: np.ndarray, found: str) -> None:
    advice = f"the {found}, and the model takes (N, 3, 8, 8) float32: preprocess it to that, or give image files{HINT}"
    np.save(tmp_path / "a.npy", array)
    assert refusal(tmp_path / "a.npy").message == f"--calibration: {tmp_path / 'a.npy'} is an array of {advice}"
    assert refusal([array]).message == f"--calibration: images[0] is an array of {advice}"


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_value_that_is_not_finite_is_named_by_file_and_sample(tmp_path: Path, value: float) -> None:
    array = samples(6)
    array[4, 1, 2, 3] = value
    np.save(tmp_path / "a.npy", array)
    np.savez_compressed(tmp_path / "b.npz", array)
    for path in (tmp_path / "a.npy", tmp_path / "b.npz"):
        assert refusal(path).message == f"--calibration: sample 4 of {path} has values that are not finite{HINT}"
        given = stream(path, skip_bad=True)
        assert len(np.concatenate(list(given.batches(4)))) == given.count == 5
        assert given.skipped == [f"sample 4 of {path} has values that are not finite"]
    assert "sample 4 of images[0] has" in refusal([array]).message
    assert "images[4] has values that" in refusal(list(array)).message


def test_pickled_objects_are_not_loaded(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "sprung",))

    trap = np.array([Trap()], object)
    np.save(tmp_path / "a.npy", trap, allow_pickle=True)
    np.savez(tmp_path / "b.npz", trap)
    np.savez_compressed(tmp_path / "c.npz", trap)
    (tmp_path / "d.npy").write_bytes(trap.dumps())
    error = refusal(tmp_path)
    objects = "holds pickled Python objects, which can run code and are not loaded"
    assert error.details[:3] == tuple(f"{tmp_path / name} {objects}" for name in ("a.npy", "b.npz", "c.npz"))
    assert error.details[3].startswith(f"{tmp_path / 'd.npy'} cannot be read as an array: the magic string is not")
    assert not (tmp_path / "sprung").exists()


def test_an_npz_file_with_several_arrays_and_no_name_that_tells(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=samples(2), y=np.arange(2))
    np.savez(tmp_path / "b.npz", input=samples(2), images=samples(2))
    wanted = "give it one array, or one that is called 'input' or 'images'"
    assert refusal(tmp_path).details == (
        f"{tmp_path / 'a.npz'} has the arrays 'x', 'y': {wanted}",
        f"{tmp_path / 'b.npz'} has the arrays 'input', 'images': {wanted}",
    )


def test_a_file_that_is_cut_short_at_any_byte(tmp_path: Path) -> None:
    for save, suffix in ((np.save, "npy"), (np.savez, "npz"), (np.savez_compressed, "npz")):
        whole, path = tmp_path / f"whole.{suffix}", tmp_path / f"a.{suffix}"
        save(whole, samples(1))  # type: ignore[operator]
        data = whole.read_bytes()
        for size in range(0, len(data), 29):
            path.write_bytes(data[:size])
            assert refusal(path).message.startswith(f"--calibration: {path} ")


def test_an_npy_file_that_is_cut_short_says_so(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", samples(2))
    os.truncate(tmp_path / "a.npy", 1000)
    assert (
        f"{tmp_path / 'a.npy'} is cut short: the last 664 bytes of its array are missing" in refusal(tmp_path).message
    )


def test_a_compressed_file_that_claims_more_than_it_holds(tmp_path: Path) -> None:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, {"descr": "<f4", "fortran_order": False, "shape": (10**12, *ENTRY.shape)}
    )
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("input.npy", file.getvalue() + bytes(1000))
    assert "is cut short" in refusal(tmp_path).message


def test_a_compressed_array_with_a_damaged_byte_keeps_what_comes_before(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", samples(20))
    data = bytearray((tmp_path / "a.npz").read_bytes())
    data[len(data) * 3 // 4] ^= 0xFF
    (tmp_path / "a.npz").write_bytes(data)
    assert f"{tmp_path / 'a.npz'} cannot be read as an array from its sample " in refusal(tmp_path).message
    given = stream(tmp_path, skip_bad=True)
    kept = np.concatenate(list(given.batches(4)))
    assert 14 <= len(kept) < 20
    np.testing.assert_array_equal(kept[:14], samples(20)[:14])
    assert (given.count, len(given.skipped)) == (len(kept), 1)


def test_an_array_file_that_changes_after_it_was_opened(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", samples(2))
    given = stream(tmp_path)
    os.truncate(tmp_path / "a.npy", 500)
    with pytest.raises(RequestError, match=r"a\.npy cannot be read as an array: "):
        given.head(1)


def test_arrays_without_a_sample(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", samples(0))
    assert refusal(tmp_path).message == f"--calibration {tmp_path} holds no image at all: give at least one"


def test_bad_array_files_are_skipped_where_others_are_left(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", samples(3))
    (tmp_path / "b.npy").touch()
    given = stream(tmp_path, skip_bad=True)
    assert given.count == 3
    assert given.skipped[0].startswith(f"{tmp_path / 'b.npy'} cannot be read as an array: ")
    (tmp_path / "a.npy").write_bytes(b"")
    assert refusal(tmp_path, skip_bad=True).message == f"--calibration {tmp_path} holds no image that can be used"


@settings(max_examples=100)
@given(data=st.data(), compress=st.booleans())
def test_no_damage_to_an_npz_file_raises_anything_else(
    data: st.DataObject, compress: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = io.BytesIO()
    (np.savez_compressed if compress else np.savez)(file, input=samples(1))
    damaged = bytearray(file.getvalue())
    ends = st.integers(0, 160) | st.integers(len(damaged) - 160, len(damaged) - 1)  # the headers and the directory
    for position in data.draw(st.lists(ends, min_size=1, max_size=4)):
        damaged[position] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.npz"
    path.write_bytes(damaged)
    with contextlib.suppress(RequestError):
        assert everything(path).shape[1:] == ENTRY.shape
