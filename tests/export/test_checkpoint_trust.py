"""No code of a file runs without ``trust``; with it, whatever PyTorch wrote is read."""

from __future__ import annotations

import argparse
import os
import sys
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from resnet_export.checkpoint import checkpoint_from_file
from resnet_export.errors import CheckpointError, UntrustedError
from resnet_export.resnet import ResNet
from tests.export.checkpoints import (
    SMALLEST,
    Payload,
    rewritten_zip,
    saved,
    saved_legacy,
    saved_tar,
    small_state_dict,
)
from tests.export.models import live_resnet, varied_images

STATE = small_state_dict()
IMAGES = varied_images(2, (3, 32, 32))

both = pytest.mark.parametrize("save", [saved, saved_legacy])


def untrusted(path: Path) -> str:
    """The sentence with which the file is refused without ``trust``."""
    with pytest.raises(UntrustedError) as caught:
        checkpoint_from_file(path)
    assert caught.value.exit_status == 2
    assert "pass --trust if you know where the file comes from, or save" in caught.value.message
    assert "\n" not in caught.value.message
    return caught.value.message


def network() -> ResNet:
    return live_resnet(SMALLEST)


def answers(module: Any) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = module(IMAGES)
    return result


@both
def test_no_code_of_a_pickle_runs(tmp_path: Path, save: Any) -> None:
    marker = tmp_path / "marker"
    path = save(tmp_path / "model.pt", {"state_dict": STATE, "payload": Payload(marker)})
    assert f"needs {os.mkdir.__module__}.mkdir to be loaded" in untrusted(path)
    assert not marker.exists()
    checkpoint_from_file(path, trust=True)
    assert marker.exists()  # so that the payload would have run


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_no_code_runs_whatever_the_protocol_of_the_pickle(tmp_path: Path, protocol: int) -> None:
    marker = tmp_path / "marker"
    path = saved(tmp_path / "model.pt", {"a": 1, "b": Payload(marker)}, pickle_protocol=protocol)
    assert f"needs {os.mkdir.__module__}.mkdir to be loaded" in untrusted(path)
    assert not marker.exists()


def test_no_code_of_a_tar_runs(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    path = saved_tar(tmp_path / "model.pt", torch.ones(2), payload=Payload(marker))
    assert "is in PyTorch's oldest format" in untrusted(path)
    assert not marker.exists()
    checkpoint_from_file(path, trust=True)
    assert marker.exists()


def test_the_oldest_format_is_read_with_trust(tmp_path: Path) -> None:
    tensor = torch.arange(6.0).reshape(2, 3)
    checkpoint = checkpoint_from_file(saved_tar(tmp_path / "model.pt", tensor), trust=True)
    assert checkpoint.format == "torch tar, state_dict"
    assert torch.equal((checkpoint.state_dict or {})["weight"], tensor)


@both
def test_a_pickled_module_is_refused(tmp_path: Path, save: Any) -> None:
    sentence = untrusted(save(tmp_path / "model.pt", network()))
    assert "model.pt holds a pickled module (resnet_export.resnet.ResNet), and loading it runs the code" in sentence
    assert sentence.endswith("model.state_dict()")


@both
def test_a_pickled_module_is_read_with_trust(tmp_path: Path, save: Any) -> None:
    trained = network()
    checkpoint = checkpoint_from_file(save(tmp_path / "model.pt", trained), trust=True)
    assert checkpoint.format.endswith(", pickled module")
    assert checkpoint.state_dict is None
    assert torch.equal(answers(checkpoint.module), answers(trained))


def test_a_module_comes_in_eval_mode_without_gradients(tmp_path: Path) -> None:
    trained = network().train().requires_grad_(True)
    checkpoint = checkpoint_from_file(saved(tmp_path / "model.pt", trained), trust=True)
    assert isinstance(checkpoint.module, nn.Module)
    assert not any(module.training for module in checkpoint.module.modules())
    assert not any(parameter.requires_grad for parameter in checkpoint.module.parameters())
    assert checkpoint.notes == ("put the module into eval mode",)


def test_a_module_of_another_precision_becomes_float32(tmp_path: Path) -> None:
    checkpoint = checkpoint_from_file(saved(tmp_path / "model.pt", network().half()), trust=True)
    assert isinstance(checkpoint.module, nn.Module)
    assert {tensor.dtype for tensor in checkpoint.module.parameters()} == {torch.float32}
    assert checkpoint.notes == ("converted the module from float16 to float32",)


def test_a_module_is_taken_out_of_its_wrappers(tmp_path: Path) -> None:
    trained = network()
    averaged = torch.optim.swa_utils.AveragedModel(nn.DataParallel(trained))
    checkpoint = checkpoint_from_file(saved(tmp_path / "model.pt", {"epoch": 1, "model": averaged}), trust=True)
    assert isinstance(checkpoint.module, ResNet)
    assert torch.equal(answers(checkpoint.module), answers(trained))
    assert "took the network out of its AveragedModel" in checkpoint.notes
    assert "took the network out of its DataParallel" in checkpoint.notes


def test_a_module_with_nan_is_refused(tmp_path: Path) -> None:
    broken = network()
    broken.conv1.weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(CheckpointError, match=r"NaN or infinity in conv1\.weight"):
        checkpoint_from_file(saved(tmp_path / "model.pt", broken), trust=True)


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (argparse.Namespace(lr=0.1), "argparse.Namespace"),
        (np.float64(0.5), "numpy._core.multiarray.scalar"),
        (Path("runs"), "pathlib"),
    ],
    ids=["namespace", "numpy scalar", "path"],
)
@both
def test_a_harmless_class_beside_the_weights_is_refused_by_name(
    tmp_path: Path, save: Any, value: object, name: str
) -> None:
    path = save(tmp_path / "model.pt", {"state_dict": STATE, "extra": value})
    sentence = untrusted(path)
    assert f"model.pt needs {name}" in sentence
    assert "pickled module" not in sentence
    checkpoint = checkpoint_from_file(path, trust=True)
    assert (checkpoint.state_dict or {}).keys() == STATE.keys()


@pytest.mark.parametrize("protocol", [4, 5])
def test_another_pickle_protocol_is_refused_and_read_with_trust(tmp_path: Path, protocol: int) -> None:
    path = saved(tmp_path / "model.pt", STATE, pickle_protocol=protocol)
    assert f"has a pickle of protocol {protocol}" in untrusted(path)
    tensors = checkpoint_from_file(path, trust=True).state_dict or {}
    assert all(torch.equal(tensors[name], tensor) for name, tensor in STATE.items())


@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code:UserWarning")
@pytest.mark.parametrize("whole", [True, False], ids=["module missing", "class missing"])
@both
def test_a_class_that_cannot_be_imported_is_named(tmp_path: Path, save: Any, whole: bool) -> None:
    code = ModuleType("code_of_somebody_else")

    class Net(nn.Linear):
        __module__ = "code_of_somebody_else"
        __qualname__ = "Net"

    code.Net = Net  # type: ignore[attr-defined]
    sys.modules["code_of_somebody_else"] = code
    try:
        path = save(tmp_path / "model.pt", Net(2, 2))
        del code.Net
        if whole:
            del sys.modules["code_of_somebody_else"]
        with pytest.raises(CheckpointError) as caught:
            checkpoint_from_file(path, trust=True)
    finally:
        sys.modules.pop("code_of_somebody_else", None)
    assert "model.pt needs code_of_somebody_else.Net, which cannot be imported here" in caught.value.message


def test_an_object_that_is_no_network_is_refused_with_trust(tmp_path: Path) -> None:
    path = saved(tmp_path / "model.pt", argparse.Namespace(model=3))
    with pytest.raises(CheckpointError, match="holds a Namespace, and no tensors of a network"):
        checkpoint_from_file(path, trust=True)


def torchscript_file(path: Path) -> Path:
    torch.jit.trace(network(), IMAGES).save(str(path))
    return path


def exported_file(path: Path) -> Path:
    program = torch.export.export(network(), (IMAGES,))
    with path.open("wb") as file:
        torch.export.save(program, file)
    return path


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize("name", ["model.pt", "model.safetensors"])
def test_torchscript_is_refused_and_read_with_trust(tmp_path: Path, name: str) -> None:
    path = torchscript_file(tmp_path / name)
    assert f"{name} is a TorchScript archive" in untrusted(path)
    checkpoint = checkpoint_from_file(path, trust=True)
    assert checkpoint.format == "TorchScript"
    assert isinstance(checkpoint.module, torch.jit.ScriptModule)
    assert torch.equal(answers(checkpoint.module), answers(network()))


@pytest.mark.parametrize("name", ["model.pt2", "model.pt"])
def test_a_torch_export_archive_is_refused_and_read_with_trust(tmp_path: Path, name: str) -> None:
    path = exported_file(tmp_path / name)
    assert f"{name} is a torch.export archive" in untrusted(path)
    checkpoint = checkpoint_from_file(path, trust=True)
    assert checkpoint.format == "torch.export"
    assert checkpoint.program is not None
    assert torch.equal(answers(checkpoint.program.module()), answers(network()))


def test_the_older_layout_of_torch_export_is_recognized(tmp_path: Path) -> None:
    source = exported_file(tmp_path / "new.pt2")
    path = tmp_path / "model.pt2"
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w") as new:
        new.writestr("serialized_exported_program.json", old.read(next(n for n in old.namelist() if "model.json" in n)))
        new.writestr("version", "8.8")
    assert "is a torch.export archive" in untrusted(path)
    with pytest.raises(CheckpointError, match=r"is a torch\.export archive that cannot be loaded"):
        checkpoint_from_file(path, trust=True)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_a_damaged_program_is_refused_with_trust(tmp_path: Path) -> None:
    source = torchscript_file(tmp_path / "a.pt")
    path = rewritten_zip(source, tmp_path / "model.pt", {"data.pkl": b"garbage"})
    with pytest.raises(CheckpointError, match="is a TorchScript archive that cannot be loaded") as caught:
        checkpoint_from_file(path, trust=True)
    assert "\n" not in caught.value.message
    path = rewritten_zip(exported_file(tmp_path / "b.pt2"), tmp_path / "c.pt2", {"model.json": b"{}"})
    with pytest.raises(CheckpointError, match=r"is a torch\.export archive that cannot be loaded") as caught:
        checkpoint_from_file(path, trust=True)
    assert "\n" not in caught.value.message


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_weights_are_not_for_a_program(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"--weights ema is not in model\.pt, a TorchScript archive"):
        checkpoint_from_file(torchscript_file(tmp_path / "model.pt"), trust=True, weights="ema")


def test_a_bomb_in_a_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("m/constants.pkl", b"x", zipfile.ZIP_STORED)
        archive.writestr("m/code/a.py", bytes((64 << 20) + 1))
    assert path.stat().st_size < 1 << 20
    with pytest.raises(CheckpointError, match="more than 64 MiB of compressed source text"):
        checkpoint_from_file(path, trust=True)
