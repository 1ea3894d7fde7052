"""What is compiled for a batch size, kept for the next process, and held to what the manifest says."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

import resnet_runtime
from resnet_runtime.bundle import Bundle
from resnet_runtime.manifest import MANIFEST_NAME, bytes_from_manifest
from tests.runtime.bundles import record

from .conftest import Probe, images


@pytest.fixture
def answer(tiny_bundle: Path, tmp_path: Path, probe: Probe) -> Callable[..., list[str]]:
    """What the probe says that answers three images of a bundle, with a cache of its own; the answers are compared."""
    images(3).tofile(tmp_path / "input")
    with resnet_runtime.load(tiny_bundle, backend="openvino", precision="fp32", threads=1) as session:
        expected = session.infer(images(3))["logits"]

    def asked(bundle: Path = tiny_bundle) -> list[str]:
        arguments = (bundle, "openvino", "fp32", "1", tmp_path / "input", "3", tmp_path / "output")
        (said,) = probe("infer", *arguments, XDG_CACHE_HOME=str(tmp_path / "cache"))
        if said[0] == "ok":
            found = np.fromfile(tmp_path / "output.logits", np.float32)
            assert np.array_equal(found.reshape(expected.shape), expected)
        return said

    return asked


def kept(folder: Path) -> dict[Path, tuple[int, bytes]]:
    """What is in the cache, and when it was made."""
    found = (folder / "cache" / "resnet-runtime" / "compiled" / "openvino-cpp").glob("*")
    return {path: (path.stat().st_ino, path.read_bytes()) for path in found}


def test_the_next_process_takes_what_was_compiled(answer: Callable[..., list[str]], tmp_path: Path) -> None:
    assert answer()[0] == "ok"
    made = kept(tmp_path)
    assert len(made) == 2  # for one sample, and for four, of which three were asked for
    assert answer()[0] == "ok"
    assert kept(tmp_path) == made


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :],
        lambda data: b"",
        lambda data: b"0" * 64 + data[64:],
    ],
    ids=["cut", "flipped", "empty", "another digest"],
)
def test_a_damaged_one_is_made_anew(
    damage: Callable[[bytes], bytes], answer: Callable[..., list[str]], tmp_path: Path
) -> None:
    answer()
    made = kept(tmp_path)
    for path, (_, data) in made.items():
        path.write_bytes(damage(data))
    assert answer()[0] == "ok"
    again = kept(tmp_path)
    assert again.keys() == made.keys()
    assert all(again[path][1] != damage(made[path][1]) for path in made)


def test_the_graph_is_held_to_its_digest_where_it_need_not_be_compiled(
    answer: Callable[..., list[str]], tiny_bundle: Path, tmp_path: Path
) -> None:
    bundle = tmp_path / "m.bundle"
    shutil.copytree(tiny_bundle, bundle)
    assert answer(bundle)[0] == "ok"
    graph = bundle / "model.fp32.onnx"
    data = bytearray(graph.read_bytes())
    data[len(data) // 2] ^= 1
    graph.write_bytes(data)
    assert answer(bundle)[:2] == [
        "BundleError",
        f"{bundle}: model.fp32.onnx does not match the SHA-256 in the manifest: copy the bundle again",
    ]


def test_bytes_go_into_the_graph(bytes_bundle: Path, tmp_path: Path, probe: Probe) -> None:
    batch = np.random.default_rng(3).integers(0, 256, (5, 16, 16, 3), np.uint8)
    batch.tofile(tmp_path / "input")
    with resnet_runtime.load(bytes_bundle, backend="openvino", precision="fp32", threads=1) as session:
        expected = session.infer(batch)["logits"]
    arguments = (bytes_bundle, "openvino", "fp32", "1", tmp_path / "input", "5", tmp_path / "output")
    assert probe("infer", *arguments)[0][0] == "ok"
    assert np.array_equal(np.fromfile(tmp_path / "output.logits", np.float32).reshape(expected.shape), expected)


@pytest.mark.parametrize("name", ["tiny_bundle", "bytes_bundle"])
def test_a_graph_of_another_type_than_the_manifests_is_refused(
    name: str, tmp_path: Path, probe: Probe, request: pytest.FixtureRequest
) -> None:
    """Such a bundle is whole by its digests: what is fed would be of another size than what is read."""
    bundle = tmp_path / "m.bundle"
    shutil.copytree(request.getfixturevalue(name), bundle)
    manifest = Bundle.open(bundle).manifest
    (variant,) = (one for one in manifest.variants if one.id == "fp32")
    data = with_other_input((bundle / variant.file.path).read_bytes())
    (bundle / variant.file.path).write_bytes(data)
    variants = (dataclasses.replace(variant, file=record(variant.file.path, data)),)
    (bundle / MANIFEST_NAME).write_bytes(bytes_from_manifest(dataclasses.replace(manifest, variants=variants)))
    assert probe("load", bundle, "openvino", "fp32", "1") == [["BackendError", OTHER]]


def test_what_was_compiled_for_another_type_than_the_manifests_is_refused(
    bytes_bundle: Path, tmp_path: Path, probe: Probe
) -> None:
    """The graph's file is the same, and so is what was compiled of it."""
    bundle = tmp_path / "m.bundle"
    shutil.copytree(bytes_bundle, bundle)
    (tmp_path / "input").write_bytes(bytes(4 * 3 * 16 * 16))
    cache = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    arguments = ("infer", bundle, "openvino", "fp32", "1", tmp_path / "input", "1", tmp_path / "output")
    assert probe(*arguments, **cache)[0][0] == "ok"
    made = kept(tmp_path)
    manifest = Bundle.open(bundle).manifest
    changed = dataclasses.replace(
        manifest,
        input=dataclasses.replace(manifest.input, dtype="float32"),
        preprocessing=dataclasses.replace(manifest.preprocessing, in_graph=False),
    )
    (bundle / MANIFEST_NAME).write_bytes(bytes_from_manifest(changed))
    assert probe(*arguments, **cache) == [["BackendError", OTHER]]
    assert kept(tmp_path) == made


OTHER = "OpenVINO's graph does not take 'input' in the type and the shape that the manifest lists"


def with_other_input(data: bytes) -> bytes:
    """The graph with a cast before it: bytes in where it took floats, and floats where it took bytes."""
    model = onnx.load_from_string(data)
    given = model.graph.input[0]
    taken = given.type.tensor_type.elem_type
    given.type.tensor_type.elem_type = TensorProto.FLOAT if taken == TensorProto.UINT8 else TensorProto.UINT8
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            if name == given.name:
                node.input[index] = "cast"
    model.graph.node.insert(0, onnx.helper.make_node("Cast", [given.name], ["cast"], to=taken))
    return model.SerializeToString()
