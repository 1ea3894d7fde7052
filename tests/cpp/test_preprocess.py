"""From an image file to the same batch as Python's: to within one grey level, and most of it to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from resnet_runtime.bundle import Bundle
from resnet_runtime.errors import ImageError, InputError
from resnet_runtime.manifest import Batch, Input, Preprocessing, Resize
from resnet_runtime.preprocess import batch_from_images
from tests.runtime.bundles import sample_preprocessing, write_sample

from .conftest import Probe

SIZE = (24, 20)


def bundle(path: Path, *, layout: str = "NHWC", size: tuple[int, int] = SIZE, **rules: Any) -> Path:
    """One that takes bytes, so that a grey level is seen as it is; NCHW: floats."""
    gray = rules.get("color_order") == "L"
    channels = 1 if gray else 3
    in_graph = layout == "NHWC"
    entry = Input(
        name="images",
        layout=layout,
        dtype="uint8" if in_graph else "float32",
        shape=(*size, channels) if in_graph else (channels, *size),
        batch=Batch(smallest=1, optimal=1, largest=4),
    )
    mean = (0.1,) if gray else (0.485, 0.456, 0.406)
    given = {"resize": Resize(mode="exact", size=size, interpolation="bilinear", antialias=True), "in_graph": in_graph}
    preprocessing: Preprocessing = sample_preprocessing(**{**given, "mean": mean, "std": mean, **rules})
    return write_sample(path, input=entry, preprocessing=preprocessing)


def both(path: Path, probe: Probe, *files: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    """Of C++ and of Python."""
    manifest = Bundle.open(path).manifest
    output = path.with_name("batch")
    assert probe("preprocess", path, output, *files) == [["ok"]]
    expected = batch_from_images(list(files), manifest.preprocessing, manifest.input)
    found = np.fromfile(output, manifest.input.dtype).reshape(expected.shape)
    return found, expected


def picture(height: int, width: int, channels: int = 3, seed: int = 0) -> NDArray[np.uint8]:
    """Soft shapes with some noise, as photographs have."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = [127 + 100 * np.sin(x / (5 + 3 * c) + c) * np.cos(y / (9 - c)) for c in range(channels)]
    noisy = np.stack(waves, -1) + rng.normal(0, 12, (height, width, channels))
    made: NDArray[np.uint8] = np.clip(noisy, 0, 255).astype(np.uint8)
    return made


def saved(path: Path, image: Image.Image, **options: Any) -> Path:
    image.save(path, **options)
    return path


def test_every_filter_and_size(tmp_path: Path, probe: Probe) -> None:
    files = [
        saved(tmp_path / f"{height}x{width}.png", Image.fromarray(picture(height, width)))
        for height, width in ((100, 80), (33, 47), (7, 5), (24, 20), (1, 90))
    ]
    for index, kind in enumerate(("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")):
        for antialias in (True, False) if kind in ("nearest", "bilinear", "bicubic") else (True,):
            resize = Resize(mode="exact", size=SIZE, interpolation=kind, antialias=antialias)
            found, expected = both(bundle(tmp_path / f"{index}{antialias}", resize=resize), probe, *files)
            difference = np.abs(found.astype(int) - expected)
            assert difference.max() <= 1, (kind, antialias)
            assert (difference > 0).mean() < 0.001, (kind, antialias)


def test_the_shorter_side_and_a_crop(tmp_path: Path, probe: Probe) -> None:
    files = [
        saved(tmp_path / f"{height}x{width}.png", Image.fromarray(picture(height, width)))
        for height, width in ((101, 77), (60, 131), (25, 25), (31, 24))
    ]
    resize = Resize(mode="shorter", size=(27,), interpolation="bicubic", antialias=True)
    for number, crop in enumerate(((24, 20), (31, 29), (40, 40))):  # the last two are larger than some images
        found, expected = both(bundle(tmp_path / f"b{number}", size=crop, resize=resize, crop=crop), probe, *files)
        assert np.array_equal(found, expected)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("rule", ["apply", "ignore"])
def test_orientation(orientation: int, rule: str, tmp_path: Path, probe: Probe) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(picture(40, 30))
    files = [saved(tmp_path / f"a.{kind}", image, exif=exif) for kind in ("jpg", "png")]
    found, expected = both(bundle(tmp_path / "b", exif=rule), probe, *files)
    assert np.abs(found.astype(int) - expected).max() <= 1


JPEGS: dict[str, dict[str, Any]] = {
    "4:2:0": {"quality": 90, "subsampling": 2},
    "4:2:2": {"quality": 75, "subsampling": 1},
    "4:4:4": {"quality": 95, "subsampling": 0},
    "progressive": {"quality": 85, "progressive": True},
}


@pytest.mark.parametrize("kind", JPEGS)
def test_jpeg(kind: str, tmp_path: Path, probe: Probe) -> None:
    image = Image.fromarray(picture(97, 61))
    files = [
        saved(tmp_path / "a.jpg", image, **JPEGS[kind]),
        saved(tmp_path / "g.jpg", image.convert("L"), quality=JPEGS[kind]["quality"]),
    ]
    found, expected = both(bundle(tmp_path / "b"), probe, *files)
    assert np.abs(found.astype(int) - expected).max() <= 1
    found, expected = both(bundle(tmp_path / "whole", size=(97, 61), resize=None), probe, *files)  # nothing is averaged
    assert np.abs(found.astype(int) - expected).max() <= 1


def pngs(folder: Path) -> list[Path]:
    """Every kind that Pillow writes."""
    rgb, gray = Image.fromarray(picture(40, 33)), Image.fromarray(picture(40, 33, 1)[..., 0])
    alpha = Image.fromarray(picture(40, 33, 1, seed=3)[..., 0])
    deep = np.arange(40 * 33, dtype=np.uint16).reshape(40, 33) * 49
    both_alpha = Image.merge("RGBA", (*rgb.split(), alpha))
    palette = rgb.quantize(64)
    return [
        saved(folder / "rgb.png", rgb),
        saved(folder / "l.png", gray),
        saved(folder / "la.png", Image.merge("LA", (gray, alpha))),
        saved(folder / "rgba.png", both_alpha),
        saved(folder / "p.png", palette),
        saved(folder / "p4.png", rgb.quantize(7), bits=4),
        saved(folder / "pt.png", palette, transparency=3),
        saved(folder / "1.png", gray.convert("1")),
        saved(folder / "16.png", Image.fromarray(deep)),
        saved(folder / "rgbt.png", rgb, transparency=rgb.getpixel((4, 4))),
        saved(folder / "lt.png", gray, transparency=gray.getpixel((4, 4))),
    ]


@pytest.mark.parametrize("alpha", ["drop", "white", "black"])
@pytest.mark.parametrize("order", ["RGB", "BGR", "L"])
def test_png(alpha: str, order: str, tmp_path: Path, probe: Probe) -> None:
    found, expected = both(bundle(tmp_path / "b", alpha=alpha, color_order=order), probe, *pngs(tmp_path))
    difference = np.abs(found.astype(int) - expected).reshape(len(found), -1).max(1)
    assert difference.max() <= 1, dict(zip([path.name for path in pngs(tmp_path)], difference, strict=True))


def test_floats_are_the_same_to_the_bit(tmp_path: Path, probe: Probe) -> None:
    found, expected = both(bundle(tmp_path / "b", layout="NCHW"), probe, *pngs(tmp_path)[:5])
    assert found.dtype == np.float32
    assert np.array_equal(found, expected)


def refused(path: Path, probe: Probe, file: Path) -> tuple[list[str], str]:
    manifest = Bundle.open(path).manifest
    ((*said,),) = probe("preprocess", path, path.with_name("batch"), file)
    with pytest.raises((ImageError, InputError)) as caught:
        batch_from_images([file], manifest.preprocessing, manifest.input)
    assert said[0] == type(caught.value).__name__
    return said, caught.value.message


def test_what_is_no_image(tmp_path: Path, probe: Probe) -> None:
    path = bundle(tmp_path / "b")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    for name in ("empty.png", "nothing.jpg", "folder"):
        said, message = refused(path, probe, tmp_path / name)
        assert said[1] == message
    (tmp_path / "text.jpg").write_text("no picture")
    assert "is not an image, or a damaged one" in refused(path, probe, tmp_path / "text.jpg")[0][1]


@pytest.mark.parametrize("kind", ["jpg", "png"])
def test_a_file_that_is_cut_off(kind: str, tmp_path: Path, probe: Probe) -> None:
    whole = saved(tmp_path / f"a.{kind}", Image.fromarray(picture(64, 64))).read_bytes()
    path = bundle(tmp_path / "b")
    for share in (0.1, 0.5, 0.9):
        (tmp_path / f"cut.{kind}").write_bytes(whole[: int(share * len(whole))])
        assert "cannot be read as an image" in refused(path, probe, tmp_path / f"cut.{kind}")[0][1]


def test_damaged_bytes_crash_nothing(tmp_path: Path, probe: Probe) -> None:
    rng = np.random.default_rng(0)
    path, files = bundle(tmp_path / "b"), []
    for kind in ("jpg", "png"):
        whole = saved(tmp_path / f"a.{kind}", Image.fromarray(picture(48, 48))).read_bytes()
        for number in range(60):
            data = bytearray(whole)
            for at in rng.integers(2, len(data), 8):
                data[at] = rng.integers(256)
            files.append(tmp_path / f"{number}.{kind}")
            files[-1].write_bytes(bytes(data))
    for file in files:
        ((verdict, *_),) = probe("preprocess", path, tmp_path / "batch", file)
        assert verdict in ("ok", "ImageError", "InputError")


def test_an_image_of_another_size_is_refused(tmp_path: Path, probe: Probe) -> None:
    path = bundle(tmp_path / "b", resize=None)
    said, message = refused(path, probe, saved(tmp_path / "a.png", Image.fromarray(picture(30, 30))))
    assert said[1] == message


def test_a_strip_that_would_become_huge_is_refused(tmp_path: Path, probe: Probe) -> None:
    resize = Resize(mode="shorter", size=(256,), interpolation="bilinear", antialias=True)
    path = bundle(tmp_path / "b", resize=resize)
    said, message = refused(path, probe, saved(tmp_path / "a.png", Image.fromarray(picture(1, 40000))))
    assert said[1] == message
