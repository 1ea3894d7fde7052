"""Images to batches: each step against an answer worked out another way, and every bad file by a sentence."""

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
from resnet_runtime.manifest import Batch, Input, Resize
from resnet_runtime.preprocess import batch_from_images

from .bundles import sample_preprocessing

RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (9, 7, 3), np.uint8)


def entry(height: int, width: int, *, channels: int = 3, dtype: str = "uint8", layout: str = "NHWC") -> Input:
    shape = (height, width, channels) if layout == "NHWC" else (channels, height, width)
    return Input(name="x", layout=layout, dtype=dtype, shape=shape, batch=Batch(smallest=1, optimal=1, largest=8))


def pixels(image: Any, height: int, width: int, **changes: Any) -> np.ndarray:
    """(H, W, C): the pixels that the arithmetic, left to the graph here, would be done on."""
    steps = sample_preprocessing(**{"resize": None, "in_graph": True, **changes})
    channels = 1 if steps.color_order == "L" else 3
    return batch_from_images([image], steps, entry(height, width, channels=channels))[0]


def normalized(image: Any, height: int, width: int, *, layout: str = "NCHW", **changes: Any) -> np.ndarray:
    steps = sample_preprocessing(**{"resize": None, **changes})
    return batch_from_images([image], steps, entry(height, width, dtype="float32", layout=layout))[0]


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


PNG = encoded(Image.fromarray(NOISE), "PNG")
JPEG = encoded(Image.fromarray(NOISE), "JPEG", quality=90)


# What an image may be.


def test_every_kind_of_source_gives_the_same_pixels(tmp_path: Path) -> None:
    path = tmp_path / "noise.png"
    path.write_bytes(PNG)
    sources = [str(path), path, PNG, bytearray(PNG), memoryview(PNG), io.BytesIO(PNG), Image.open(path)]
    sources += [Image.fromarray(NOISE), NOISE, NOISE[:, ::-1][:, ::-1]]
    for source in sources:
        np.testing.assert_array_equal(pixels(source, 9, 7), NOISE)
    with path.open("rb") as file:
        np.testing.assert_array_equal(pixels(file, 9, 7), NOISE)


def test_the_batch_keeps_the_order_and_an_array_of_images_is_a_list() -> None:
    images = RNG.integers(0, 256, (3, 9, 7, 3), np.uint8)
    steps = sample_preprocessing(resize=None, in_graph=True)
    for given_images in (images, list(images), tuple(images)):
        batch = batch_from_images(given_images, steps, entry(9, 7))
        assert batch.dtype == np.uint8
        np.testing.assert_array_equal(batch, images)


def test_no_images_make_an_empty_batch() -> None:
    assert batch_from_images([], sample_preprocessing(in_graph=True), entry(8, 8)).shape == (0, 8, 8, 3)


def test_the_caller_s_image_stays_as_it_was() -> None:
    image = Image.fromarray(NOISE).convert("P")
    before = image.tobytes()
    pixels(image, 4, 4, resize=Resize(mode="exact", size=(4, 4), interpolation="bilinear", antialias=True))
    assert (image.mode, image.size, image.tobytes()) == ("P", (7, 9), before)


@pytest.mark.parametrize("channels", [None, 1])
def test_gray_arrays(channels: int | None) -> None:
    gray = NOISE[..., 0] if channels is None else NOISE[..., :1]
    np.testing.assert_array_equal(pixels(gray, 9, 7), np.repeat(NOISE[..., :1], 3, axis=2))
    np.testing.assert_array_equal(pixels(gray, 9, 7, color_order="L"), NOISE[..., :1])


# Orientation, transparency, color.

ORIENTED = {
    1: NOISE,
    2: NOISE[:, ::-1],
    3: NOISE[::-1, ::-1],
    4: NOISE[::-1],
    5: NOISE.swapaxes(0, 1),
    6: np.rot90(NOISE, -1),
    7: NOISE[::-1, ::-1].swapaxes(0, 1),
    8: np.rot90(NOISE),
}


@pytest.mark.parametrize(("orientation", "expected"), ORIENTED.items())
def test_exif_orientation(orientation: int, expected: np.ndarray) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(NOISE), "PNG", exif=exif)
    np.testing.assert_array_equal(pixels(data, *expected.shape[:2], exif="apply"), expected)
    np.testing.assert_array_equal(pixels(data, 9, 7, exif="ignore"), NOISE)


ALPHA = RNG.integers(0, 256, (9, 7), np.uint8)
RGBA = np.dstack([NOISE, ALPHA])


@pytest.mark.parametrize(("rule", "below"), [("white", 255), ("black", 0)])
def test_transparency_is_laid_on_a_color(rule: str, below: int) -> None:
    exact = (NOISE.astype(float) * ALPHA[..., None] + below * (255.0 - ALPHA[..., None])) / 255
    np.testing.assert_array_equal(pixels(RGBA, 9, 7, alpha=rule), np.rint(exact).astype(np.uint8))


def test_transparency_is_dropped() -> None:
    np.testing.assert_array_equal(pixels(RGBA, 9, 7, alpha="drop"), NOISE)


def transparent_images() -> dict[str, Image.Image]:
    """One pixel of (200, 200, 200), fully transparent, in every mode that can say so."""
    rgba = Image.new("RGBA", (1, 1), (200, 200, 200, 0))
    palette = Image.new("P", (1, 1), 0)
    palette.putpalette([200, 200, 200])
    palette.info["transparency"] = 0
    alpha_palette = Image.new("P", (1, 1), 0)
    alpha_palette.putpalette([200, 200, 200, 0], "RGBA")
    images = {"RGBA": rgba, "LA": Image.new("LA", (1, 1), (200, 0)), "P": palette, "P with alpha": alpha_palette}
    for mode, color in (("L", 200), ("RGB", (200, 200, 200))):
        images[mode] = Image.new(mode, (1, 1), color)
        images[mode].info["transparency"] = color
    return images


@pytest.mark.parametrize("image", transparent_images().values(), ids=transparent_images().keys())
@pytest.mark.parametrize(("rule", "value"), [("drop", 200), ("white", 255), ("black", 0)])
def test_transparency_in_every_mode(image: Image.Image, rule: str, value: int) -> None:
    assert pixels(image, 1, 1, alpha=rule).tolist() == [[[value] * 3]]
    assert pixels(image, 1, 1, alpha=rule, color_order="L").tolist() == [[[value]]]


def test_premultiplied_alpha_is_undone() -> None:
    image = Image.new("RGBA", (1, 1), (200, 100, 50, 255)).convert("RGBa")
    assert pixels(image, 1, 1).tolist() == [[[200, 100, 50]]]


COLORS = {
    "1": (Image.new("1", (1, 1), 1), [255, 255, 255]),
    "L": (Image.new("L", (1, 1), 77), [77, 77, 77]),
    "LA": (Image.new("LA", (1, 1), (77, 255)), [77, 77, 77]),
    "P": (Image.new("RGB", (1, 1), (10, 20, 30)).quantize(2), [10, 20, 30]),
    "CMYK": (Image.new("CMYK", (1, 1), (255, 0, 0, 0)), [0, 255, 255]),
    "YCbCr": (Image.new("YCbCr", (1, 1), (77, 128, 128)), [77, 77, 77]),
    "HSV": (Image.new("HSV", (1, 1), (0, 255, 255)), [255, 0, 0]),
    "RGBX": (Image.new("RGBX", (1, 1), (10, 20, 30, 40)), [10, 20, 30]),
}


@pytest.mark.parametrize(("image", "color"), COLORS.values(), ids=COLORS.keys())
def test_modes(image: Image.Image, color: list[int]) -> None:
    assert pixels(image, 1, 1).tolist() == [[color]]
    assert pixels(image, 1, 1, color_order="BGR").tolist() == [[color[::-1]]]


def test_cmyk_jpeg_is_read() -> None:
    data = encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=100)
    red, green, blue = pixels(data, 8, 8)[4, 4].tolist()
    assert red > 250 > 5 > max(green, blue)


def test_gray_is_the_luma_of_itu_r_601() -> None:
    red, green, blue = NOISE.astype(int).transpose(2, 0, 1)
    expected = (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16
    np.testing.assert_array_equal(pixels(NOISE, 9, 7, color_order="L")[..., 0], expected)


DEEP = np.array([[0, 255, 256, 257 * 100, 40000, 65535]], np.uint16)


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I;16L", "I"])
def test_16_bits_are_scaled_and_not_clipped(mode: str) -> None:
    order = ">u2" if mode == "I;16B" else "<u2"
    image = Image.frombytes(mode, (6, 1), DEEP.astype(np.int32 if mode == "I" else order).tobytes())
    assert pixels(image, 1, 6, color_order="L").ravel().tolist() == [0, 0, 1, 100, 156, 255]
    assert pixels(image, 1, 6)[0, 4].tolist() == [156] * 3


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_files(kind: str) -> None:
    data = encoded(Image.fromarray(DEEP), kind)
    assert pixels(data, 1, 6, color_order="L").ravel().tolist() == [0, 0, 1, 100, 156, 255]


def test_16_bit_gray_agrees_with_16_bit_color() -> None:
    # A PPM of two bytes a value, which Pillow reads to 8 bits itself.
    color = b"P6 6 1 65535\n" + np.repeat(DEEP.T, 3, axis=1).astype(">u2").tobytes()
    assert abs(pixels(color, 1, 6)[0, :, 0].astype(int) - pixels(Image.fromarray(DEEP), 1, 6)[0, :, 0]).max() <= 1


def test_16_bit_gray_keeps_its_transparency() -> None:
    image = Image.fromarray(DEEP)
    image.info["transparency"] = 40000
    assert pixels(image, 1, 6, alpha="white", color_order="L").ravel().tolist() == [0, 0, 1, 100, 255, 255]


@pytest.mark.parametrize("value", [-1, 65536])
def test_32_bits_beyond_16_are_refused(value: int) -> None:
    with pytest.raises(ImageError, match=r"images\[0\] holds 32-bit pixels outside 0\.\.65535"):
        pixels(Image.new("I", (1, 1), value), 1, 1)


def test_floating_point_pixels_are_refused() -> None:
    with pytest.raises(ImageError, match=r"images\[0\] holds floating-point pixels, of which the range is unknown"):
        pixels(encoded(Image.new("F", (4, 4), 0.5), "TIFF"), 4, 4)


# Resize and crop.


@pytest.mark.parametrize(
    ("height", "width", "size", "expected"),
    [
        (480, 640, 256, (256, 341)),  # 341.33 is cut
        (640, 480, 256, (341, 256)),
        (375, 500, 232, (232, 309)),  # 309.33
        (333, 500, 256, (256, 384)),  # 384.38
        (100, 199, 50, (50, 99)),  # 99.5 is cut, not rounded
        (7, 7, 5, (5, 5)),
        (3, 1000, 2, (2, 666)),
    ],
)
def test_shorter_side(height: int, width: int, size: int, expected: tuple[int, int]) -> None:
    image = Image.new("RGB", (width, height))
    resize = Resize(mode="shorter", size=(size,), interpolation="bilinear", antialias=True)
    assert pixels(image, *expected, resize=resize).shape == (*expected, 3)


@pytest.mark.parametrize("name", ["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"])
def test_resize_is_pillow_s(name: str) -> None:
    resize = Resize(mode="exact", size=(4, 5), interpolation=name, antialias=True)
    expected = np.asarray(Image.fromarray(NOISE).resize((5, 4), Image.Resampling[name.upper()]))
    np.testing.assert_array_equal(pixels(NOISE, 4, 5, resize=resize), expected)


RAMP = [[0, 10, 30, 60, 100, 150, 210]]
SQUARE = [[95, 217, 15], [61, 29, 19], [64, 89, 127]]
# Recorded from torch 2.13: interpolate(..., align_corners=False) in float64, rounded and clipped; none is near a half.
RECORDED = [
    ("bilinear", RAMP, [[7, 60, 170]]),
    ("bicubic", RAMP, [[5, 60, 174]]),
    (
        "bilinear",
        SQUARE,
        [
            [95, 144, 217, 96, 15],
            [81, 106, 142, 67, 17],
            [61, 48, 29, 23, 19],
            [63, 64, 65, 76, 84],
            [64, 74, 89, 112, 127],
        ],
    ),
    (
        "bicubic",
        SQUARE,
        [
            [85, 167, 235, 110, 0],
            [76, 114, 140, 64, 0],
            [64, 49, 29, 21, 18],
            [61, 55, 52, 72, 89],
            [61, 73, 95, 123, 141],
        ],
    ),
]


@pytest.mark.parametrize(("name", "image", "expected"), RECORDED)
def test_resize_without_antialiasing_is_torch_s(name: str, image: list[list[int]], expected: list[list[int]]) -> None:
    size = (len(expected), len(expected[0]))
    resize = Resize(mode="exact", size=size, interpolation=name, antialias=False)
    found = pixels(np.array(image, np.uint8), *size, resize=resize)
    assert found.tolist() == [[[value] * 3 for value in row] for row in expected]


def test_antialiasing_does_not_change_the_nearest_pixel() -> None:
    both = [
        pixels(NOISE, 4, 5, resize=Resize(mode="exact", size=(4, 5), interpolation="nearest", antialias=antialias))
        for antialias in (True, False)
    ]
    np.testing.assert_array_equal(*both)


def test_a_kernel_that_is_not_defined_without_antialiasing() -> None:
    resize = Resize(mode="exact", size=(4, 5), interpolation="lanczos", antialias=False)
    with pytest.raises(InputError, match="the interpolation lanczos without antialiasing is not defined"):
        pixels(NOISE, 4, 5, resize=resize)


@pytest.mark.parametrize(
    ("size", "crop", "top", "left"),
    [
        ((9, 7), (9, 7), 0, 0),
        ((9, 7), (5, 3), 2, 2),
        ((9, 7), (4, 4), 2, 2),  # 2.5 to the even 2, 1.5 to the even 2
        ((9, 7), (6, 6), 2, 0),  # 1.5 to the even 2, 0.5 to the even 0
    ],
)
def test_center_crop(size: tuple[int, int], crop: tuple[int, int], top: int, left: int) -> None:
    expected = NOISE[top : top + crop[0], left : left + crop[1]]
    np.testing.assert_array_equal(pixels(NOISE, *crop, crop=crop), expected)


def test_an_image_smaller_than_the_crop_is_padded_with_black() -> None:
    expected = np.zeros((12, 7, 3), np.uint8)
    expected[1:10] = NOISE  # three rows are missing: one above, two below
    np.testing.assert_array_equal(pixels(NOISE, 12, 7, crop=(12, 7)), expected)


def test_an_image_smaller_than_the_crop_on_one_side_is_cut_on_the_other() -> None:
    expected = np.zeros((4, 10, 3), np.uint8)
    expected[:, 1:8] = NOISE[2:6]
    np.testing.assert_array_equal(pixels(NOISE, 4, 10, crop=(4, 10)), expected)


def test_another_size_than_the_model_takes() -> None:
    with pytest.raises(InputError) as caught:
        pixels(NOISE, 8, 8)
    assert str(caught.value) == (
        "images[0] has 9 x 7 pixels (height x width) after the bundle's preprocessing, and the model takes 8 x 8: "
        "resize or crop the image to that before"
    )


def test_a_resize_that_would_not_fit_into_memory() -> None:
    resize = Resize(mode="shorter", size=(4096,), interpolation="bilinear", antialias=True)
    with pytest.raises(
        ImageError, match=r"has 1 x 50000 pixels \(height x width\) and would be resized to 4096 x 204800000"
    ):
        pixels(np.zeros((1, 50000), np.uint8), 4096, 4096, resize=resize)


# Arithmetic.

IMAGENET = {"scale": 1 / 255, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


@pytest.mark.parametrize("order", ["RGB", "BGR"])
def test_every_byte_is_rounded_once(order: str) -> None:
    every = np.repeat(np.arange(256, dtype=np.uint8), 3).reshape(16, 16, 3)
    every = np.stack([every[..., 0], every[::-1, :, 1], every[:, ::-1, 2]], axis=-1)
    found = normalized(every, 16, 16, color_order=order, **IMAGENET)
    seen = every if order == "RGB" else every[..., ::-1]
    exact = (seen.astype(np.float64) * (1 / 255) - np.array(IMAGENET["mean"])) / np.array(IMAGENET["std"])
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, exact.astype(np.float32).transpose(2, 0, 1))


def test_channels_last_in_float32() -> None:
    found = normalized(NOISE, 9, 7, layout="NHWC", **IMAGENET)
    np.testing.assert_array_equal(found, normalized(NOISE, 9, 7, **IMAGENET).transpose(1, 2, 0))


def test_gray_arithmetic() -> None:
    steps = sample_preprocessing(resize=None, color_order="L", scale=2.0, mean=(1.0,), std=(4.0,))
    batch = batch_from_images([NOISE[..., 0]], steps, entry(9, 7, channels=1, dtype="float32", layout="NCHW"))
    np.testing.assert_array_equal(batch[0, 0], (NOISE[..., 0].astype(np.float32) * 2 - 1) / 4)  # exact: powers of two


# What is refused.


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


# Hostile bytes.

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
        assert error.message.startswith("images[0] ")
        assert "\n" not in error.message
        assert " at 0x" not in error.message
    else:
        assert batch.shape[1:3] == (4, 4)


def test_the_runtime_is_imported_without_pillow_and_click() -> None:
    code = (
        "import sys, resnet_runtime, resnet_runtime.preprocess;"
        "print(sorted({'PIL', 'click', 'torch', 'onnx', 'openvino', 'onnxruntime', 'resnet_export'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"
