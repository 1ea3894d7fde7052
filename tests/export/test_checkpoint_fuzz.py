"""Whatever bytes are changed, a file is read or refused in a sentence: nothing else is raised, and nothing hangs."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from resnet_export.checkpoint import checkpoint_from_file
from resnet_export.errors import ResnetExportError
from tests.export.checkpoints import saved, saved_legacy, saved_safetensors, small_state_dict


def saved_without_checksums(path: Path, value: object) -> Path:
    """As nothing is compared with a checksum then, a change reaches what comes after that."""
    torch.serialization.set_crc32_options(False)
    try:
        return saved(path, value)
    finally:
        torch.serialization.set_crc32_options(True)


SAVES = {
    "zip without checksums": saved_without_checksums,
    "zip": saved,
    "legacy": saved_legacy,
    "safetensors": saved_safetensors,
}


def original(kind: str) -> bytes:
    # Half of what the file has are names: they are where a change does most.
    state = {"conv1.weight": small_state_dict()["conv1.weight"], "fc.bias": torch.ones(3)}
    with tempfile.TemporaryDirectory() as folder:
        return SAVES[kind](Path(folder) / "model", state).read_bytes()


ORIGINALS = {kind: original(kind) for kind in SAVES}

# (what, where as a fraction, bytes): as many changes as it has, one after the other.
CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["flip", "insert", "delete", "truncate", "overwrite"]),
        st.floats(0, 1, exclude_max=True),
        st.binary(min_size=1, max_size=9),
    ),
    min_size=1,
    max_size=4,
)


def changed(data: bytes, changes: list[tuple[str, float, bytes]]) -> bytes:
    for what, where, some in changes:
        at = int(where * len(data))
        if what == "flip" and data:
            data = data[:at] + bytes([data[at] ^ (some[0] or 1)]) + data[at + 1 :]
        elif what == "insert":
            data = data[:at] + some + data[at:]
        elif what == "delete":
            data = data[:at] + data[at + len(some) :]
        elif what == "truncate":
            data = data[:at]
        elif what == "overwrite":
            data = data[:at] + some + data[at + len(some) :]
    return data


@pytest.mark.parametrize("kind", SAVES)
@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=CHANGES)
def test_changed_files_are_read_or_refused(tmp_path: Path, kind: str, changes: list[tuple[str, float, bytes]]) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(changed(ORIGINALS[kind], changes))
    before = time.monotonic()
    state_dict, refusal = None, None
    try:
        state_dict = checkpoint_from_file(path).state_dict
    except ResnetExportError as error:
        refusal = error
    assert time.monotonic() - before < 5
    if refusal is not None:
        assert refusal.exit_status == 2
        assert "\n" not in refusal.message
    else:
        assert state_dict
        assert all(bool(torch.isfinite(tensor).all()) for tensor in state_dict.values())


@pytest.mark.parametrize("kind", SAVES)
def test_a_file_cut_off_anywhere_is_refused(tmp_path: Path, kind: str) -> None:
    data = ORIGINALS[kind]
    path = tmp_path / "model.pt"
    for size in range(0, len(data), max(1, len(data) // 150)):
        path.write_bytes(data[:size])
        with pytest.raises(ResnetExportError):
            checkpoint_from_file(path)
