"""Images to a batch, by what a manifest says of the model's preprocessing.

The steps, in this order: decode, EXIF orientation, transparency, color order, resize, center crop, arithmetic. Sizes
are rounded as torchvision's ``Resize`` and ``CenterCrop`` round them, and pixels are resampled by Pillow, so that a
model sees what it saw in training. Pillow is imported by the first call.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, TypeAlias, Union

import numpy as np
from numpy.typing import NDArray

from .errors import ImageError, InputError
from .manifest import Input, Preprocessing, Resize
from .resampling import resampled

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

Pixels: TypeAlias = NDArray[np.uint8]
Image: TypeAlias = Union[str, "os.PathLike[str]", bytes, BinaryIO, "PillowImage", Pixels]
"""What an image may be: a file's name, the bytes of a file, a binary file, a Pillow image, or uint8 (H, W[, C])."""

FORMATS: Final[tuple[str, ...]] = ("JPEG", "PNG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "PPM", "AVIF", "JPEG2000")
"""What is decoded. Pillow reads more, and among that formats for which it starts another program (EPS)."""

MAX_FILE_BYTES: Final = 512 * 1024 * 1024
MAX_RESIZED_PIXELS: Final = 2**26
"""An image of 1 x 100000 pixels, whose shorter side is to become 256, would need 20 GB."""


def batch_from_images(images: Sequence[Image] | Pixels, preprocessing: Preprocessing, input: Input) -> NDArray[Any]:
    """Decode, resize, crop and normalize.

    Args:
        images: what ``Image`` names; an array holds RGB, gray, gray with alpha, or RGBA. One array (N, H, W, C) is N
            images too.
        preprocessing: what to do.
        input: what the graph takes.

    Returns:
        (N, C, H, W) float32, or (N, H, W, C) where the layout says so: ``(p * scale - mean[c]) / std[c]`` of each
        pixel p in 0..255, c being the channel in the model's color order. All 256 values of a channel are computed in
        float64 and rounded once to float32. Where the preprocessing is in the graph: (N, H, W, C) uint8, the pixels.

    Raises:
        ImageError: one of the images cannot be read; the message names it.
        InputError: one of them is not an image at all, or has another size than the model takes after the last step.
    """
    _check_request(images, preprocessing, input)
    batch = np.empty((len(images), *input.shape), np.dtype(input.dtype))
    for index, image in enumerate(images):
        name = _name(image, index)
        pixels = _pixels(image, name, preprocessing)
        if pixels.shape != (*input.height_width, input.channels):
            raise InputError(
                f"{name} has {_size(pixels.shape[:2])} pixels (height x width) after the bundle's preprocessing, and "
                f"the model takes {_size(input.height_width)}: resize or crop the image to that before"
            )
        batch[index] = normalized(pixels[None], preprocessing, input)[0]
    return batch


def normalized(pixels: Pixels, preprocessing: Preprocessing, input: Input) -> NDArray[Any]:
    """The last step alone, of pixels (N, H, W, C) in the model's size and color order; see ``batch_from_images``."""
    if preprocessing.in_graph:
        return pixels
    table = _table(preprocessing)
    planes = np.stack([table[channel][pixels[..., channel]] for channel in range(input.channels)], axis=1)
    return planes if input.layout == "NCHW" else np.moveaxis(planes, 1, -1)


def _check_request(images: Sequence[Image] | Pixels, preprocessing: Preprocessing, input: Input) -> None:
    if isinstance(images, str | bytes | os.PathLike):
        raise InputError("images is one file, not a list of them: put it into a list")
    if isinstance(images, np.ndarray) and images.ndim != 4:
        raise InputError(
            f"images is one array of the shape {images.shape}: put it into a list, or stack to (N, H, W, C)"
        )
    channels = 1 if preprocessing.color_order == "L" else 3
    if input.channels != channels:
        raise InputError(
            f"the bundle's color order {preprocessing.color_order} gives {channels} channels, and its input takes "
            f"{input.channels}: make the batch yourself, and call infer() with it"
        )
    if preprocessing.in_graph != (input.dtype == "uint8") or (preprocessing.in_graph and input.layout != "NHWC"):
        raise InputError(f"a {input.dtype} {input.layout} input does not go with in_graph = {preprocessing.in_graph}")


def _table(preprocessing: Preprocessing) -> NDArray[np.float32]:
    """(C, 256): what each byte becomes in each channel."""
    scaled = np.arange(256, dtype=np.float64) * preprocessing.scale
    mean = np.array(preprocessing.mean, np.float64)[:, None]
    std = np.array(preprocessing.std, np.float64)[:, None]
    return ((scaled - mean) / std).astype(np.float32)


def _pixels(image: Image, name: str, preprocessing: Preprocessing) -> Pixels:
    """(H, W, C) uint8 in the model's color order, resized and cropped."""
    from PIL import ImageOps

    decoded = _decoded(image, name)
    try:
        decoded.load()
        if preprocessing.exif == "apply":
            decoded = ImageOps.exif_transpose(decoded)
        colored = _colored(_with_eight_bits(decoded, name), preprocessing)
        if preprocessing.resize is not None:
            colored = _resized(colored, preprocessing.resize, name)
        pixels = np.asarray(colored)
    except ImageError:
        raise
    except Exception as error:  # Pillow's decoders raise anything on hostile bytes: there is no list to catch by
        raise ImageError(f"{name} cannot be read as an image: {_reason(error)}") from error
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    if preprocessing.color_order == "BGR":
        pixels = pixels[..., ::-1]
    return pixels if preprocessing.crop is None else _center_crop(pixels, preprocessing.crop)


def _decoded(image: Image, name: str) -> PillowImage:
    """A Pillow image, its pixels perhaps not yet read."""
    import io

    from PIL import Image as Pillow
    from PIL import UnidentifiedImageError

    if isinstance(image, Pillow.Image):
        return image
    if isinstance(image, np.ndarray):
        return _image_from_array(image, name)
    data = _bytes(image, name)
    if not data:
        raise ImageError(f"{name} is empty")
    Pillow.init()
    formats = [known for known in FORMATS if known in Pillow.OPEN]
    try:
        return Pillow.open(io.BytesIO(data), formats=formats)
    except UnidentifiedImageError:
        kinds = ", ".join(known for known in formats if known != "DIB")
        raise ImageError(f"{name} is not an image, or a damaged one: it begins like none of {kinds}") from None
    except Exception as error:  # as above
        raise ImageError(f"{name} cannot be read as an image: {_reason(error)}") from error


def _image_from_array(array: NDArray[Any], name: str) -> PillowImage:
    from PIL import Image as Pillow

    gray = array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 1)
    if array.dtype != np.uint8 or not (gray or (array.ndim == 3 and array.shape[2] in (2, 3, 4))):
        raise InputError(
            f"{name} has the shape {array.shape} and the dtype {array.dtype}, and an image is uint8 of (H, W) or "
            "(H, W, C) with 1 to 4 channels: convert it, or make the batch yourself"
        )
    if array.size == 0:
        raise InputError(f"{name} has the shape {array.shape}, in which there is no pixel")
    return Pillow.fromarray(array.reshape(array.shape[:2]) if gray else array)


def _bytes(image: Any, name: str) -> bytes:
    """The content of a file that was given by its name, its bytes or an object with ``read``."""
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image)
    if isinstance(image, str | os.PathLike):
        return _file_bytes(Path(image), name)
    if not callable(getattr(image, "read", None)):
        raise InputError(
            f"{name} is a {type(image).__name__}, and an image is a file's name, its bytes, a binary file, "
            "a Pillow image or a uint8 array"
        )
    try:
        data = image.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        raise ImageError(f"{name} cannot be read: {_reason(error)}") from None
    if not isinstance(data, bytes):
        raise InputError(f"{name} is a file that was opened as text: open it with the mode 'rb'")
    return _within_limit(data, name)


def _file_bytes(path: Path, name: str) -> bytes:
    try:
        with path.open("rb") as file:
            # A pipe is welcome (a shell makes one of `<(...)`), so that the size is known only by reading.
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                return _within_limit(file.read(MAX_FILE_BYTES + 1), name)
            if found.st_size > MAX_FILE_BYTES:
                raise ImageError(f"{name} has more than {MAX_FILE_BYTES} bytes, which is no image for a classifier")
            return _within_limit(file.read(found.st_size + 1), name)  # a read reserves as much as it is asked for
    except FileNotFoundError:
        raise ImageError(f"{name} does not exist") from None
    except IsADirectoryError:
        raise ImageError(f"{name} is a directory, and an image is a file") from None
    except (OSError, ValueError) as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError(f"{name} cannot be read: {_reason(error)}") from None


def _within_limit(data: bytes, name: str) -> bytes:
    if len(data) > MAX_FILE_BYTES:
        raise ImageError(f"{name} has more than {MAX_FILE_BYTES} bytes, which is no image for a classifier")
    return data


def _with_eight_bits(image: PillowImage, name: str) -> PillowImage:
    """An image of 16 bits a pixel by its high byte, as Pillow and OpenCV read 16-bit color; others as they are.

    Pillow's own conversion clips such a gray image: all but its darkest 256 levels would become white.
    """
    from PIL import Image as Pillow

    if image.mode == "F":
        raise ImageError(f"{name} holds floating-point pixels, of which the range is unknown: save it with 8 bits")
    if image.mode != "I" and not image.mode.startswith("I;16"):
        return image
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 65535:
        raise ImageError(
            f"{name} holds 32-bit pixels outside 0..65535, of which the range is unknown: save it with 8 bits"
        )
    gray = Pillow.fromarray((values >> 8).astype(np.uint8))
    transparent = image.info.get("transparency")
    if transparent is None:
        return gray
    alpha = np.where(values == transparent, 0, 255).astype(np.uint8)
    return Pillow.merge("LA", (gray, Pillow.fromarray(alpha)))


def _colored(image: PillowImage, preprocessing: Preprocessing) -> PillowImage:
    """RGB or L, with the transparency dropped or laid on white or black."""
    from PIL import Image as Pillow

    if image.mode in ("La", "RGBa"):  # premultiplied: these convert to nothing but their plain form
        image = image.convert(image.mode.upper())
    if preprocessing.alpha != "drop" and image.has_transparency_data:
        image = image.convert("RGBA")
        below = Pillow.new("RGB", image.size, preprocessing.alpha)
        # paste() rounds (p * a + below * (255 - a)) / 255 to the nearest; alpha_composite() does not always
        below.paste(image.convert("RGB"), mask=image.getchannel("A"))
        image = below
    image = image.convert("RGB")
    # Over RGB, because not every mode converts to gray; the luma of a gray pixel is that pixel, exactly.
    return image.convert("L") if preprocessing.color_order == "L" else image


def _resized(image: PillowImage, resize: Resize, name: str) -> PillowImage:
    from PIL import Image as Pillow

    width, height = image.size
    if resize.mode == "exact":
        new_height, new_width = resize.size
    else:
        # As torchvision: the long side is cut, not rounded.
        short, long = min(width, height), max(width, height)
        new_short, new_long = resize.size[0], int(resize.size[0] * long / short)
        new_width, new_height = (new_short, new_long) if width <= height else (new_long, new_short)
    if new_width * new_height > MAX_RESIZED_PIXELS:
        raise ImageError(
            f"{name} has {_size((height, width))} pixels (height x width) and would be resized to "
            f"{_size((new_height, new_width))}, more than {MAX_RESIZED_PIXELS} pixels: crop it before"
        )
    if resize.antialias or resize.interpolation == "nearest":
        return image.resize((new_width, new_height), Pillow.Resampling[resize.interpolation.upper()])
    return Pillow.fromarray(resampled(np.asarray(image), (new_height, new_width), resize.interpolation))


def _center_crop(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """(h, w, C) from the middle of (H, W, C); zeros around an image that is smaller, as torchvision pads."""
    if size[0] * size[1] > MAX_RESIZED_PIXELS:
        raise ImageError(f"a crop to {_size(size)} has more than {MAX_RESIZED_PIXELS} pixels: export the model again")
    missing = [max(0, wanted - found) for wanted, found in zip(size, pixels.shape[:2], strict=True)]
    if any(missing):
        pixels = np.pad(pixels, [*((n // 2, (n + 1) // 2) for n in missing), (0, 0)])
    # round() goes to the even neighbour at a half, here as there.
    top, left = (round((found - wanted) / 2.0) for wanted, found in zip(size, pixels.shape[:2], strict=True))
    return pixels[top : top + size[0], left : left + size[1]]


def _name(image: Image, index: int) -> str:
    if isinstance(image, str | os.PathLike):
        text = os.fsencode(image).decode("utf-8", "replace")
        return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return f"images[{index}]"


def _reason(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return "there is not enough memory"
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return text.partition("\n")[0].rstrip(".") or type(error).__name__


def _size(height_width: tuple[int, ...]) -> str:
    return " x ".join(map(str, height_width))
