"""What TensorRT measured while it chose kernels, kept for the next build on the same device.

One file for each device and TensorRT version stands in the user's cache folder, with a lock file beside it that is
never deleted. It is read before a build; after the build it is read again, what another build added meanwhile is
combined with what this one measured, and it is replaced whole. Reading, combining and writing happen under the lock,
building does not, so that builds at once neither wait for each other nor lose anything.

A file is the header (``MAGIC``, the payload's length in 8 bytes, least significant first, and its SHA-256) and then
what ``ITimingCache.serialize`` gave. Damage is thus seen here rather than left to TensorRT's parser. Everything in it
can be measured anew: whatever goes wrong is a warning, and the build goes on.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from resnet_runtime.backends.tensorrt.cuda import DeviceInfo
from resnet_runtime.backends.tensorrt.library import Library

from .bundle_writer import sync

MAGIC: Final = b"RXTIMES1"
PATIENCE: Final = 30.0
"""Seconds that a build waits for the lock, which others hold for the moment of reading or writing."""

_HEADER: Final = struct.Struct("<8sQ32s")

Warn = Callable[[str], None]


@contextmanager
def timing_cache(
    library: Library,
    config: Any,
    device: DeviceInfo | None,
    warn: Warn,
    folder: Path | None = None,
    patience: float = PATIENCE,
) -> Iterator[None]:
    """Build inside: the config has the timings of earlier builds, and those of this one are kept after it.

    Nothing is done for a library without a timing cache, nor where the device is not known. What a build measured that
    failed or was stopped is kept too, unless it raised.

    Args:
        library: that builds.
        config: the ``IBuilderConfig`` that it builds with.
        device: that it builds on.
        warn: told a sentence of all that goes wrong; nothing is raised for it.
        folder: of the files; ``timing_folder()`` if not given.
        patience: seconds to wait for the lock.
    """
    if not library.has_timing_cache or device is None:
        yield
        return
    cache = _TimingCache(library, config, timing_file(folder or timing_folder(), library, device), warn, patience)
    cache.load()
    yield
    cache.save()


def timing_folder() -> Path:
    """``resnet-export/timing`` in ``$XDG_CACHE_HOME`` or ``~/.cache``; it need not exist.

    Where there is no home either, it is a folder that can neither be read nor made.
    """
    given = os.environ.get("XDG_CACHE_HOME")
    try:
        root = Path(given) if given else Path.home() / ".cache"
    except RuntimeError:  # a user without an entry in the password database, as in some containers
        root = Path(os.devnull)
    return root / "resnet-export" / "timing"


def timing_file(folder: Path, library: Library, device: DeviceInfo) -> Path:
    """Where the timings of a device and a version are kept.

    The digest in the name tells devices apart whose names differ only in what a file's name should not have.
    """
    identity = (library.name, library.version, device.name, device.capability)
    digest = hashlib.sha256("\n".join(identity).encode()).hexdigest()
    gpu = re.sub("[^a-z0-9]+", "-", device.name.lower()).strip("-")[:64]
    capability = device.capability.replace(".", "")
    return folder / f"{gpu}-sm{capability}-{library.name}-{library.version}-{digest[:8]}.timings"


def file_from_timings(timings: bytes) -> bytes:
    """A file's bytes."""
    return _HEADER.pack(MAGIC, len(timings), hashlib.sha256(timings).digest()) + timings


def timings_from_file(data: bytes) -> bytes:
    """What ``ITimingCache.serialize`` gave.

    Raises:
        ValueError: the file is not whole, or no such file.
    """
    if len(data) < _HEADER.size:
        raise ValueError(f"it ends after {len(data)} bytes, within its header")
    magic, length, digest = _HEADER.unpack_from(data)
    timings = data[_HEADER.size :]
    if magic != MAGIC:
        raise ValueError("it does not begin as a timing cache does")
    if len(timings) != length:
        raise ValueError(f"it holds {len(timings)} bytes where its header says {length}")
    if hashlib.sha256(timings).digest() != digest:
        raise ValueError("its SHA-256 is not the one that its header says")
    return timings


class _TimingCache:
    """The cache of one build.

    Args:
        library, config, path, warn, patience: as in ``timing_cache``.
    """

    def __init__(self, library: Library, config: Any, path: Path, warn: Warn, patience: float) -> None:
        self._library = library
        self._config = config
        self._path = path
        self._report = warn
        self._patience = patience
        self._reported: set[str] = set()
        self._attached: Any = None
        """TensorRT uses it until the engine is built, and does not keep it alive."""
        self._known = b""
        """What the attached cache began with."""

    def load(self) -> None:
        """Give the config what is stored, or an empty cache; none at all where nothing could be stored."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with _locked(self._path, self._patience):
                stored = self._stored()
            self._attach(stored)
        except (OSError, RuntimeError) as error:
            self._warn(f"the timing cache {self._path} cannot be used, and kernels are timed anew: {_reason(error)}")

    def save(self) -> None:
        """Add what was measured to what is stored now."""
        if self._attached is None:
            return
        try:
            with _locked(self._path, self._patience):
                stored = self._stored()
                if stored not in (b"", self._known):
                    self._combine(stored)
                timings = _serialized(self._attached)
                if timings not in (b"", stored):
                    _write(self._path, file_from_timings(timings))
        except (OSError, RuntimeError) as error:
            self._warn(
                f"the timing cache {self._path} cannot be written, and the next build gains nothing: {_reason(error)}"
            )

    def _stored(self) -> bytes:
        """The timings in the file; none where there is no file, or, with a warning, where it is damaged."""
        try:
            return timings_from_file(self._path.read_bytes())
        except FileNotFoundError:
            return b""
        except ValueError as error:
            self._rebuilt(str(error))
        except OSError as error:
            self._rebuilt(f"it cannot be read: {_reason(error)}")
        return b""

    def _attach(self, stored: bytes) -> None:
        """Raises RuntimeError where the library takes not even an empty cache."""
        cache = self._cache_from(stored) if stored else None
        if cache is not None and not self._config.set_timing_cache(cache, False):
            self._refused()
            cache = None
        if cache is None:
            stored, cache = b"", self._empty()
            if not self._config.set_timing_cache(cache, False):
                raise RuntimeError(f"{self._library.name} {self._library.version} does not take an empty one")
        self._attached, self._known = cache, stored

    def _combine(self, stored: bytes) -> None:
        cache = self._cache_from(stored)
        if cache is not None and not self._attached.combine(cache, False):
            self._refused()

    def _cache_from(self, stored: bytes) -> Any:
        """A cache of stored timings, or, with a warning, None.

        Of bytes that it cannot read TensorRT makes an empty cache, which is told only by its size.
        """
        try:
            cache = self._config.create_timing_cache(stored)
        except RuntimeError:
            cache = None
        if cache is None or len(_serialized(cache)) <= len(_serialized(self._empty())) < len(stored):
            self._refused()
            return None
        return cache

    def _empty(self) -> Any:
        cache = self._config.create_timing_cache(b"")
        if cache is None:
            raise RuntimeError(f"{self._library.name} {self._library.version} makes none")
        return cache

    def _refused(self) -> None:
        self._rebuilt(f"{self._library.name} {self._library.version} refuses what it holds")

    def _rebuilt(self, why: str) -> None:
        self._warn(f"the timing cache {self._path} is damaged and is made anew: {why}")

    def _warn(self, sentence: str) -> None:
        """Once: what is damaged before a build is so after it."""
        if sentence not in self._reported:
            self._reported.add(sentence)
            self._report(sentence)


def _serialized(cache: Any) -> bytes:
    found = cache.serialize()
    return b"" if found is None else bytes(found)


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__


@contextmanager
def _locked(path: Path, patience: float) -> Iterator[None]:
    """Hold the lock beside ``path``.

    Raises:
        OSError: it cannot be made, or TimeoutError where somebody held it all the time: better to build without.
    """
    descriptor = os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o666)
    try:
        until = time.monotonic() + patience
        while not _acquired(descriptor):
            if time.monotonic() >= until:
                raise TimeoutError(errno.ETIMEDOUT, f"another process has held its lock for {patience:g} s")
            time.sleep(0.01)
        try:
            yield
        finally:
            # Closing is not enough where a process was forked meanwhile and has the descriptor too.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)


def _acquired(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _write(path: Path, data: bytes) -> None:
    """All of it or nothing; a killed build's temporary file is written over by the next, which has the lock."""
    temporary = path.with_name(f".writing-{path.name}")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)
