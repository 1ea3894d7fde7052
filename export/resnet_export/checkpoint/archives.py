"""The zip archives that PyTorch writes: which of its formats one is, and whether its records are what they claim."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from resnet_export.errors import CheckpointError

STATE: Final = "torch zip"
TORCHSCRIPT: Final = "TorchScript"
EXPORTED: Final = "torch.export"

_MAX_COMPRESSED: Final = 64 << 20
"""Bytes that the compressed records, which hold TorchScript's source text, may have together when decompressed."""


_LOCAL_HEADER: Final = 30
"""Bytes before a record's name (APPNOTE.TXT of the zip format, section 4.3.7)."""


@dataclass(frozen=True)
class Archive:
    """A checked archive: its ``kind``, and its records by their names within the archive's one folder."""

    kind: str
    records: Mapping[str, zipfile.ZipInfo]


def archive_from_file(path: Path, size: int) -> Archive:
    """Read the directory of the archive and check every record against it; nothing is decompressed.

    Args:
        path: a file that begins as a zip archive does.
        size: its size in bytes.

    Raises:
        CheckpointError: it is cut off or damaged, claims more than it has, or PyTorch did not write it.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
            kind, records = _kind(path, infos)
            _check_sizes(path, infos, size)
            _check_records(path, archive, infos)
    except CheckpointError:
        raise
    except (zipfile.BadZipFile, EOFError, ValueError, RuntimeError, zlib.error) as error:
        reason = "its directory is missing" if "not a zip file" in str(error) else error
        raise CheckpointError(
            f"{path.name} is a zip archive that is cut off or damaged ({reason}): copy or download it again"
        ) from error
    return Archive(kind, records)


def _kind(path: Path, infos: list[zipfile.ZipInfo]) -> tuple[str, dict[str, zipfile.ZipInfo]]:
    names = [info.filename for info in infos]
    if len(set(names)) != len(names):
        raise CheckpointError(f"{path.name} has two records of one name, and which of them counts is not defined")
    if "serialized_exported_program.json" in names:
        return EXPORTED, dict(zip(names, infos, strict=True))
    folders = {name.partition("/")[0] for name in names}
    records = {name.partition("/")[2]: info for name, info in zip(names, infos, strict=True)}
    if len(folders) == 1:
        if ".data/extern_modules" in records:
            raise CheckpointError(f"{path.name} is a torch.package archive: save the model's state_dict instead")
        if "constants.pkl" in records:
            return TORCHSCRIPT, records
        if "archive_format" in records:
            if any(name.startswith("models/") for name in records):
                return EXPORTED, records
            raise CheckpointError(
                f"{path.name} is a compiled AOTInductor package, which holds no graph: save it by torch.export.save"
            )
        if "data.pkl" in records:
            return STATE, records
    raise CheckpointError(f"{path.name} is {_foreign(names)}, not a checkpoint that PyTorch wrote")


def _foreign(names: list[str]) -> str:
    if names and all(name.endswith(".npy") for name in names):
        return "a NumPy .npz archive"
    if "model.weights.h5" in names:
        return "a Keras model"
    if "[Content_Types].xml" in names:
        return "an Office document"
    if not names:
        return "an empty zip archive"
    return "a zip archive of other files" if len(names) > 1 else f"a zip archive of one file, {names[0][:80]!r}"


def _check_sizes(path: Path, infos: list[zipfile.ZipInfo], size: int) -> None:
    """Refuse records that claim, all together, more bytes than the file has: PyTorch stores them uncompressed."""
    stored = [info for info in infos if info.compress_type == zipfile.ZIP_STORED]
    deflated = [info for info in infos if info.compress_type != zipfile.ZIP_STORED]
    if any(info.flag_bits & 0x1 for info in infos):
        raise CheckpointError(f"{path.name} is an encrypted zip archive: decrypt it first")
    if any(not 0 <= info.header_offset < size for info in infos):
        raise CheckpointError(f"{path.name} has records that begin outside the file: it is damaged")
    if any(info.file_size != info.compress_size for info in stored) or sum(i.file_size for i in stored) > size:
        raise CheckpointError(f"{path.name} has records that claim more bytes than the file has: it is damaged")
    for info in deflated:
        if "/code/" not in f"/{info.filename}":
            raise CheckpointError(
                f"{path.name} has a compressed record, {info.filename[:80]!r}, and PyTorch stores them uncompressed:"
                " save it again by torch.save"
            )
    if sum(info.file_size for info in deflated) > _MAX_COMPRESSED:
        raise CheckpointError(f"{path.name} has more than {_MAX_COMPRESSED >> 20} MiB of compressed source text")


def _check_records(path: Path, archive: zipfile.ZipFile, infos: list[zipfile.ZipInfo]) -> None:
    """Compare each record with its checksum. 0 stands for none: torch.save may be told to leave checksums out."""
    for info in infos:
        if info.CRC:
            with archive.open(info) as record:
                while record.read(1 << 20):
                    pass  # zipfile raises BadZipFile at the end of a record whose checksum differs


def bytes_from_record(path: Path, info: zipfile.ZipInfo) -> bytes:
    """The bytes of a stored record. zipfile itself would refuse one whose checksum was left out."""
    with path.open("rb") as file:
        file.seek(info.header_offset)
        header = file.read(_LOCAL_HEADER)
        name, extra = (int.from_bytes(header[at : at + 2], "little") for at in (26, 28))
        file.seek(info.header_offset + _LOCAL_HEADER + name + extra)
        return file.read(info.file_size)
