"""What kind of file something is, told from its first and last bytes and never from its name."""

from __future__ import annotations

import re
import struct
from typing import BinaryIO, Final

ZIP: Final = "zip"
LEGACY: Final = "pickle"
TAR: Final = "tar"
SAFETENSORS: Final = "safetensors"
ONNX: Final = "ONNX"
TEXT_BYTES: Final = frozenset(range(0x20, 0x7F)) | {9, 10, 13}

_HEAD: Final = 4096

# (offset, bytes, name): the formats that people pass by mistake, or rename.
_MAGIC: Final = (
    (0, b"\x89PNG\r\n\x1a\n", "a PNG image"),
    (0, b"\xff\xd8\xff", "a JPEG image"),
    (0, b"GIF8", "a GIF image"),
    (8, b"WEBP", "a WebP image"),
    (0, b"%PDF-", "a PDF document"),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file, such as Keras writes"),
    (0, b"\x1f\x8b", "a gzip archive: decompress it first"),
    (0, b"BZh", "a bzip2 archive: decompress it first"),
    (0, b"\xfd7zXZ\x00", "an xz archive: decompress it first"),
    (0, b"\x28\xb5\x2f\xfd", "a Zstandard archive: decompress it first"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive: decompress it first"),
    (0, b"Rar!\x1a\x07", "a RAR archive: decompress it first"),
    (0, b"\x93NUMPY", "a NumPy array"),
    (0, b"GGUF", "a GGUF file"),
    (4, b"TFL3", "a TensorFlow Lite model"),
    (0, b"ftrt", "a TensorRT engine"),
    (0, b"ptrt", "a TensorRT engine"),
    (0, b"\x7fELF", "an ELF program or library"),
    (0, b"version https://git-lfs.github.com/spec/", "a Git LFS pointer, not the file itself: run git lfs pull"),
)

_TENSORFLOW_INDEX_END: Final = bytes.fromhex("57fb808b247547db")


def kind_from_file(file: BinaryIO, size: int) -> str | None:
    """``ZIP``, ``LEGACY``, ``TAR``, ``SAFETENSORS`` or ``ONNX`` where the first bytes are theirs, else None.

    Args:
        file: open at its beginning; left anywhere.
        size: the file's size in bytes.
    """
    head = file.read(_HEAD)
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return ZIP
    if len(head) >= 2 and head[0] == 0x80 and head[1] <= 5:
        return LEGACY
    if head[257:262] == b"ustar" or _is_old_tar(head):
        return TAR
    if head[8:9] == b"{" and _is_safetensors(head):
        return SAFETENSORS
    if re.match(
        rb"\x08[\x02-\x1f][\x12\x1a\x22\x28\x32\x3a\x42\x72]", head
    ):  # the IR's version, then one of a model's other fields
        return ONNX
    return None


def _is_old_tar(head: bytes) -> bool:
    """Whether the first block's checksum is that of a tar header, which formats older than ustar have too."""
    if len(head) < 512 or not re.fullmatch(rb"[0-7 ]{6}[\x00 ]{1,2}", head[148:156]):
        return False
    return int(head[148:154].strip() or b"-1", 8) == sum(head[:148]) + 8 * 0x20 + sum(head[156:512])


def _is_safetensors(head: bytes) -> bool:
    # The header is JSON from names to records; its length before it may be wrong, and that is said later on.
    return bool(re.match(rb'\{\s*("|\})', head[8:]))


def foreign_name(file: BinaryIO, size: int) -> str:
    """What a file of no checkpoint format is, with an article; "a file of a format that is not known here" at worst.

    Args:
        file: seekable.
        size: the file's size in bytes.
    """
    file.seek(0)
    head = file.read(_HEAD)
    file.seek(max(0, size - len(_TENSORFLOW_INDEX_END)))
    tail = file.read()
    for offset, magic, name in _MAGIC:
        if head[offset : offset + len(magic)] == magic:
            return name
    if tail == _TENSORFLOW_INDEX_END:
        return "the index of a TensorFlow checkpoint"
    if re.match(rb"\x08\x01\x12", head):
        return "a TensorFlow SavedModel"
    if re.match(rb"\x0a[\x01-\xff]\x01?\x0a[\x01-\x7f][ -~]+\x12", head):
        return "a TensorFlow graph"
    if not head.strip(b"\x00"):
        return "a file of zeros, as an interrupted download leaves it"
    return _text_name(head) or "a file of a format that is not known here"


def _text_name(head: bytes) -> str | None:
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if re.match(rb"<!doctype html|<html", text):
        return "an HTML page, as a download that needs a login gives"
    if text.startswith(b"<?xml"):
        return "an XML document"
    try:
        # The last characters may be cut in the middle.
        decoded = head[: max(0, len(head) - 3)].decode("utf-8") if len(head) == _HEAD else head.decode("utf-8")
    except UnicodeDecodeError:
        return None
    if any(ord(character) < 0x20 and ord(character) not in TEXT_BYTES for character in decoded):
        return None
    return "a JSON document" if text.startswith((b"{", b"[")) else "plain text"


def safetensors_header_length(head: bytes) -> int:
    """The length in bytes that the first eight bytes claim."""
    (length,) = struct.unpack("<Q", head[:8])
    return int(length)
