"""Input files with bytes changed are read, or refused in one sentence with status 2; nothing else is ever raised."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors.torch import save

from resnet_export import ExportOptions, ModelOptions, bundle_from_checkpoint, pipeline
from resnet_export.errors import RequestError
from resnet_export.labels import check_labels, labels_from_file
from resnet_export.resnet import ResNet
from tests.export.conftest import TINY_CLASSES, TINY_SHAPE

SETTINGS = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

# (what, where as a fraction of the file, bytes)
CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["flip", "insert", "delete", "truncate"]),
        st.floats(0, 1, exclude_max=True),
        st.binary(min_size=1, max_size=8),
    ),
    min_size=1,
    max_size=3,
)
Changes = list[tuple[str, float, bytes]]


def mutated(data: bytes, changes: Changes) -> bytes:
    for what, where, some in changes:
        at = int(where * len(data))
        if what == "flip":
            data = data[:at] + bytes(a ^ b for a, b in zip(data[at:], some, strict=False)) + data[at + len(some) :]
        elif what == "insert":
            data = data[:at] + some + data[at:]
        elif what == "delete":
            data = data[:at] + data[at + len(some) :]
        else:
            data = data[:at]
    return data


class ReadError(Exception):
    """Everything was read and agrees; the rest of the export is not run here."""


@pytest.fixture(autouse=True)
def stop_after_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*arguments: object) -> None:
        raise ReadError

    monkeypatch.setattr(pipeline, "ask_eager", stop)


def require_a_sentence(error: RequestError) -> None:
    assert error.exit_status == 2
    assert error.message.strip()
    assert "\n" not in error.message


def read_or_refused(checkpoint: Path, **options: Path) -> bool:
    """Whether it was read."""
    model = ModelOptions(input_shape=TINY_SHAPE, reference=options.get("reference"))
    destination = checkpoint.with_name("out")
    try:
        bundle_from_checkpoint(checkpoint, destination, ExportOptions(model=model, labels=options.get("labels")))
    except ReadError:
        return True
    except RequestError as error:
        require_a_sentence(error)
        return False
    finally:
        assert not destination.exists()
    raise AssertionError("the export went on")


def state(network: ResNet) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


@pytest.fixture(scope="module")
def originals(tiny_network: ResNet, tiny_reference: dict[str, np.ndarray]) -> dict[str, bytes]:
    zipped, npz = io.BytesIO(), io.BytesIO()
    torch.save(state(tiny_network), zipped)
    np.savez(npz, **tiny_reference)
    return {
        "model.pt": zipped.getvalue(),
        "model.safetensors": save(state(tiny_network)),
        "reference.npz": npz.getvalue(),
        "labels.txt": "rot\ngrün\nblau\nweiß\nschwarz\n".encode(),
    }


def test_what_was_not_changed_is_read(tmp_path: Path, originals: dict[str, bytes]) -> None:
    for name, data in originals.items():
        (tmp_path / name).write_bytes(data)
    others = {"reference": tmp_path / "reference.npz", "labels": tmp_path / "labels.txt"}
    for name in ("model.pt", "model.safetensors"):
        assert read_or_refused(tmp_path / name, **others)


@pytest.mark.parametrize("name", ["model.pt", "model.safetensors"])
@SETTINGS
@given(changes=CHANGES)
def test_a_changed_checkpoint(tmp_path: Path, originals: dict[str, bytes], name: str, changes: Changes) -> None:
    path = tmp_path / name
    path.write_bytes(mutated(originals[name], changes))
    read_or_refused(path)


HEADER = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(32, 126)), min_size=1, max_size=3)


@SETTINGS
@given(changes=HEADER)
def test_a_safetensors_file_with_other_names_and_shapes(
    tmp_path: Path, originals: dict[str, bytes], changes: list[tuple[float, int]]
) -> None:
    """Only its header, and with printable characters: what is still JSON reaches the search for an architecture."""
    data = bytearray(originals["model.safetensors"])
    size = int.from_bytes(data[:8], "little")
    for where, character in changes:
        data[8 + int(where * size)] = character
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    read_or_refused(path)


@SETTINGS
@given(changes=CHANGES)
def test_a_changed_reference(tmp_path: Path, originals: dict[str, bytes], changes: Changes) -> None:
    (tmp_path / "model.pt").write_bytes(originals["model.pt"])
    path = tmp_path / "reference.npz"
    path.write_bytes(mutated(originals["reference.npz"], changes))
    read_or_refused(tmp_path / "model.pt", reference=path)


ARRAYS = st.one_of(
    arrays.arrays(
        arrays.scalar_dtypes() | arrays.array_dtypes(max_size=2),
        arrays.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=3),
    ),
    st.just(np.zeros((2, *TINY_SHAPE), np.float32)),
    st.just(np.zeros((2, TINY_CLASSES), np.float64)),
)


@pytest.mark.filterwarnings("ignore:Stored array in format:UserWarning")
@SETTINGS
@given(given_input=ARRAYS, given_output=ARRAYS)
def test_a_reference_of_other_arrays(
    tmp_path: Path, originals: dict[str, bytes], given_input: np.ndarray, given_output: np.ndarray
) -> None:
    (tmp_path / "model.pt").write_bytes(originals["model.pt"])
    np.savez(tmp_path / "reference.npz", input=given_input, output=given_output)
    assert not read_or_refused(tmp_path / "model.pt", reference=tmp_path / "reference.npz")


@SETTINGS
@given(changes=CHANGES)
def test_changed_labels(tmp_path: Path, originals: dict[str, bytes], changes: Changes) -> None:
    path = tmp_path / "labels.txt"
    path.write_bytes(mutated(originals["labels.txt"], changes))
    try:
        labels = labels_from_file(path)
        check_labels(labels, (TINY_CLASSES,))
    except RequestError as error:
        require_a_sentence(error)
    else:
        assert len(labels) == TINY_CLASSES
        assert all(labels)
        # As the runtime will read them again.
        assert tuple("".join(f"{label}\n" for label in labels).removesuffix("\n").split("\n")) == labels
