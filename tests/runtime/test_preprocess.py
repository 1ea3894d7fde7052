"""Images to batches: each step against an answer that was worked out another way."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resnet_runtime.errors import ImageError, InputError
from resnet_runtime.manifest import Resize
from resnet_runtime.preprocess import batch_from_images

from .bundles import sample_preprocessing
from .images import DEEP, NOISE, PNG, RNG, encoded, entry, normalized, pixels

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
    # 200 of 255 at an alpha of 128 is kept as 100, and 100 * 255 / 128 is 199.
    color = Image.new("RGBA", (1, 1), (200, 200, 200, 128)).convert("RGBa")
    gray = Image.new("LA", (1, 1), (200, 128)).convert("La")
    for image in (color, gray):
        assert pixels(image, 1, 1).tolist() == [[[199, 199, 199]]]


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
    # A PPM of two bytes a value, which Pillow reads to 8 bits itself: it rounds there, where of a PNG it takes the high
    # byte, so that one level is allowed.
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
