"""Varied inputs for check.npz: what a model that is blind to its input cannot answer right by accident."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from resnet_runtime.manifest import Input, Preprocessing
from resnet_runtime.preprocess import normalized


def varied_pixels(count: int, height: int, width: int, channels: int, seed: int = 0) -> NDArray[np.uint8]:
    """Images (N, H, W, C) of four kinds in turn: gradients, blobs, 1/f noise, edges; contrasts and colors differ."""
    random = np.random.default_rng(seed)
    kinds = (_gradient, _blobs, _natural_noise, _edges)
    images = [kinds[i % len(kinds)](random, height, width, channels) for i in range(count)]
    return np.stack([_as_bytes(random, image) for image in images])


def check_inputs(count: int, entry: Input, preprocessing: Preprocessing, seed: int = 0) -> NDArray[np.generic]:
    """``count`` varied inputs in the graph's own dtype and layout."""
    height, width = entry.height_width
    return normalized(varied_pixels(count, height, width, entry.channels, seed), preprocessing, entry)


Float64 = NDArray[np.float64]


def _grid(height: int, width: int) -> tuple[Float64, Float64]:
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    return y / max(height - 1, 1), x / max(width - 1, 1)


def _gradient(random: np.random.Generator, height: int, width: int, channels: int) -> Float64:
    y, x = _grid(height, width)
    angles = random.uniform(0, 2 * np.pi, channels)
    return np.stack([np.cos(a) * x + np.sin(a) * y for a in angles], axis=-1)


def _blobs(random: np.random.Generator, height: int, width: int, channels: int) -> Float64:
    y, x = _grid(height, width)
    image = np.zeros((height, width, channels))
    for _ in range(int(random.integers(3, 9))):
        cy, cx, radius = random.uniform(0, 1), random.uniform(0, 1), random.uniform(0.05, 0.4)
        image += np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / radius**2)[..., None] * random.uniform(-1, 1, channels)
    return image


def _natural_noise(random: np.random.Generator, height: int, width: int, channels: int) -> Float64:
    """Noise whose amplitude falls as 1/frequency, as in photographs (Field 1987)."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None, :])
    frequency[0, 0] = 1.0
    spectrum = np.fft.fft2(random.standard_normal((channels, height, width))) / frequency
    return np.moveaxis(np.fft.ifft2(spectrum).real, 0, -1)


def _edges(random: np.random.Generator, height: int, width: int, channels: int) -> Float64:
    y, x = _grid(height, width)
    angle, period = random.uniform(0, np.pi), random.uniform(2, 12)
    wave = np.sin(2 * np.pi * period * (np.cos(angle) * x + np.sin(angle) * y))
    image: Float64 = np.sign(wave)[..., None] * random.uniform(-1, 1, channels)
    return image


def _as_bytes(random: np.random.Generator, image: Float64) -> NDArray[np.uint8]:
    """Spread over a random part of 0..255."""
    low, high = np.sort(random.uniform(0, 255, 2))
    low, high = min(low, 160.0), max(high, low + 64.0, 96.0)
    smallest, largest = image.min(), image.max()
    unit = (image - smallest) / max(largest - smallest, 1e-12)
    pixels: NDArray[np.uint8] = np.clip(np.rint(low + unit * (min(high, 255.0) - low)), 0, 255).astype(np.uint8)
    return pixels
