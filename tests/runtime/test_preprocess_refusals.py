"""Images that cannot be read, or are none: a sentence each, and no other error than ours for any bytes."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from resnet_runtime import preprocess
from resnet_runtime.errors import ImageError, InputError
from resnet_runtime.manifest import Resize
from resnet_runtime.preprocess import batch_from_images

from .bundles import sample_preprocessing
from .images import DEEP, JPEG, NOISE, PNG, encoded, entry, pixels


def refusal(image: Any) -> str:
    with pytest.raises(ImageError) as caught:
        pixels(image, 9, 7)
    return str(caught.value)


def test_missing_file(tmp_path: Path) -> None:
    assert refusal(tmp_path / "cat.png") == f"{tmp_path / 'cat.png'} does not exist"


def test_directory(tmp_path: Path) -> None:
    assert refusal(str(tmp_path)) == f"{tmp_path} is a directory, and an image is a file"


def test_empty_file(tmp_path: Path) -> None:
    (tmp_path / "cat.png").touch()
    assert refusal(tmp_path / "cat.png") == f"{tmp_path / 'cat.png'} is empty"
    assert refusal(b"") == "images[0] is empty"


def test_not_an_image(tmp_path: Path) -> None:
    path = tmp_path / "cat.png"
    path.write_text("a description of a cat")
    assert refusal(path).startswith(f"{path} is not an image, or a damaged one: it begins like none of JPEG, PNG,")


def test_a_format_for_which_pillow_starts_a_program() -> None:
    data = encoded(Image.fromarray(NOISE), "EPS")
    assert Image.open(io.BytesIO(data)).format == "EPS"
    assert refusal(data).startswith("images[0] is not an image")


@pytest.mark.parametrize("data", [PNG, JPEG], ids=["PNG", "JPEG"])
def test_truncated_file(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "cat"
    path.write_bytes(data[: len(data) * 3 // 4])
    assert refusal(path).startswith(f"{path} cannot be read as an image: ")
    assert "truncated" in refusal(path)


def test_decompression_bomb() -> None:
    file = io.BytesIO()
    Image.new("1", (30000, 30000)).save(file, "PNG")
    assert len(file.getvalue()) < 200_000
    assert refusal(file.getvalue()).startswith(
        "images[0] cannot be read as an image: Image size (900000000 pixels) exceeds"
    )


def test_file_over_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "cat.png"
    path.write_bytes(PNG)
    monkeypatch.setattr(preprocess, "MAX_FILE_BYTES", len(PNG))
    np.testing.assert_array_equal(pixels(path, 9, 7), NOISE)
    monkeypatch.setattr(preprocess, "MAX_FILE_BYTES", len(PNG) - 1)
    for source in (path, io.BytesIO(PNG)):
        assert f"has more than {len(PNG) - 1} bytes" in refusal(source)


def test_endless_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preprocess, "MAX_FILE_BYTES", 1000)
    assert refusal("/dev/zero") == "/dev/zero has more than 1000 bytes, which is no image for a classifier"


def test_name_with_a_zero_byte_and_with_control_characters() -> None:
    assert refusal("cat\0.png") == "cat\\x00.png cannot be read: embedded null byte"
    assert refusal("\x1b[2Jcat.png") == "\\x1b[2Jcat.png does not exist"


def test_name_that_is_not_utf_8() -> None:
    assert refusal("caf\udce9.png") == "caf\ufffd.png does not exist"


def test_closed_file_and_closed_image(tmp_path: Path) -> None:
    file = io.BytesIO(PNG)
    file.close()
    assert refusal(file).startswith("images[0] cannot be read: I/O operation on closed file")
    image = Image.open(io.BytesIO(PNG))
    image.close()
    assert refusal(image).startswith("images[0] cannot be read as an image: ")


def test_the_message_names_the_second_of_two() -> None:
    with pytest.raises(ImageError, match=r"^images\[1\] is empty$"):
        batch_from_images([PNG, b""], sample_preprocessing(in_graph=True), entry(8, 8))


NOT_IMAGES = {
    "number": (5, "images[0] is a int, and an image is a file's name, its bytes,"),
    "text file": (io.StringIO("cat"), "images[0] is a file that was opened as text: open it with the mode 'rb'"),
    "float array": (NOISE / 255, "images[0] has the shape (9, 7, 3) and the dtype float64, and an image is uint8 of"),
    "channels first": (
        NOISE.transpose(2, 0, 1),
        "images[0] has the shape (3, 9, 7) and the dtype uint8, and an image is",
    ),
    "vector": (NOISE.ravel(), "images[0] has the shape (189,) and the dtype uint8"),
    "no pixels": (NOISE[:0], "images[0] has the shape (0, 7, 3), in which there is no pixel"),
}


@pytest.mark.parametrize(("image", "message"), NOT_IMAGES.values(), ids=NOT_IMAGES.keys())
def test_what_is_not_an_image_at_all(image: Any, message: str) -> None:
    with pytest.raises(InputError) as caught:
        pixels(image, 9, 7)
    assert str(caught.value).startswith(message)
    assert not isinstance(caught.value, ImageError)


@pytest.mark.parametrize("images", ["cat.png", b"bytes", Path("cat.png")])
def test_one_file_in_place_of_a_list(images: Any) -> None:
    with pytest.raises(InputError, match="images is one file, not a list of them"):
        batch_from_images(images, sample_preprocessing(in_graph=True), entry(8, 8))


def test_one_array_in_place_of_a_list() -> None:
    with pytest.raises(InputError, match=r"images is one array of the shape \(9, 7, 3\)"):
        batch_from_images(NOISE, sample_preprocessing(in_graph=True), entry(9, 7))


def test_a_color_order_that_does_not_fit_the_input() -> None:
    with pytest.raises(InputError, match="the bundle's color order L gives 1 channels, and its input takes 3"):
        batch_from_images([NOISE], sample_preprocessing(in_graph=True, color_order="L"), entry(9, 7))


def test_an_input_that_does_not_fit_in_graph() -> None:
    with pytest.raises(InputError, match="a float32 NCHW input does not go with in_graph = True"):
        batch_from_images([NOISE], sample_preprocessing(in_graph=True), entry(9, 7, dtype="float32", layout="NCHW"))


SEEDS = [
    PNG,
    JPEG,
    encoded(Image.fromarray(NOISE).quantize(8), "PNG", transparency=b"\x00\x80", bits=4),
    encoded(Image.fromarray(DEEP), "PNG"),
    encoded(
        Image.fromarray(NOISE),
        "JPEG",
        progressive=True,
        exif=b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0",
    ),
    encoded(Image.fromarray(NOISE), "GIF"),
    encoded(Image.fromarray(NOISE), "BMP"),
    encoded(Image.fromarray(NOISE), "TIFF"),
    encoded(Image.fromarray(NOISE), "WEBP"),
    encoded(Image.fromarray(NOISE), "PPM"),
]
edits = st.lists(
    st.tuples(
        st.floats(0, 1, exclude_max=True), st.sampled_from(["set", "insert", "delete", "cut"]), st.binary(max_size=6)
    ),
    min_size=1,
    max_size=4,
)


def damaged(data: bytes, changes: list[tuple[float, str, bytes]]) -> bytes:
    for where, kind, new in changes:
        at = int(where * len(data))
        if kind == "cut":
            data = data[:at]
        else:
            data = data[:at] + (b"" if kind == "delete" else new) + data[at + (0 if kind == "insert" else len(new)) :]
    return data


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
@settings(max_examples=1500)
@given(st.sampled_from(SEEDS), edits, st.sampled_from(["drop", "white"]), st.sampled_from(["RGB", "L"]))
def test_damaged_files_are_read_or_refused(data: bytes, changes: Any, alpha: str, order: str) -> None:
    steps = sample_preprocessing(
        alpha=alpha,
        color_order=order,
        in_graph=True,
        resize=Resize(mode="shorter", size=(4,), interpolation="bilinear", antialias=True),
        crop=(4, 4),
    )
    try:
        batch = batch_from_images([damaged(data, changes)], steps, entry(4, 4, channels=1 if order == "L" else 3))
    except ImageError as error:
        message = error.message
    else:
        assert batch.shape[1:3] == (4, 4)
        return
    assert message.startswith("images[0] ")
    assert "\n" not in message
    assert " at 0x" not in message


def test_the_runtime_is_imported_without_pillow_and_click() -> None:
    code = (
        "import sys, resnet_runtime, resnet_runtime.preprocess;"
        "heavy = {'PIL', 'click', 'torch', 'onnx', 'openvino', 'onnxruntime', 'resnet_export'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"
