"""Every format and wrapper that is read, and that what is read is what was saved."""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from resnet_export.checkpoint import Checkpoint, checkpoint_from_file
from resnet_export.errors import CheckpointError
from tests.export.checkpoints import saved, saved_legacy, saved_safetensors, small_state_dict

STATE = small_state_dict()


def same(actual: dict[str, Tensor] | None, expected: dict[str, Tensor]) -> bool:
    return (
        actual is not None
        and actual.keys() == expected.keys()
        and all(
            actual[name].dtype == tensor.dtype and torch.equal(actual[name], tensor)
            for name, tensor in expected.items()
        )
    )


def notes_of(checkpoint: Checkpoint) -> str:
    return "; ".join(checkpoint.notes)


@pytest.mark.parametrize(
    ("save", "format_name"),
    [
        (saved, "torch zip, state_dict"),
        (saved_legacy, "torch legacy, state_dict"),
        (saved_safetensors, "safetensors"),
    ],
    ids=["zip", "legacy", "safetensors"],
)
@pytest.mark.parametrize("name", ["model.pt", "model.safetensors", "model.tar", "model"])
def test_a_state_dict_is_read_whatever_the_file_is_called(
    tmp_path: Path, save: Any, format_name: str, name: str
) -> None:
    path = save(tmp_path / name, STATE)
    checkpoint = checkpoint_from_file(path)
    assert same(checkpoint.state_dict, STATE)
    assert (checkpoint.format, checkpoint.notes) == (format_name, ())
    assert checkpoint.module is None
    assert checkpoint.program is None


def test_the_source_is_the_file(tmp_path: Path) -> None:
    path = saved(tmp_path / "model.pt", STATE)
    source = checkpoint_from_file(str(path)).source
    data = path.read_bytes()
    assert (source.name, source.size, source.sha256) == ("model.pt", len(data), hashlib.sha256(data).hexdigest())


def test_other_floating_point_types_become_float32_and_integers_stay(tmp_path: Path) -> None:
    stored = {
        "a": torch.tensor([1.5, -2.0]).half(),
        "b": torch.tensor([0.1], dtype=torch.float64),
        "c": torch.tensor([3.0]).bfloat16(),
        "d": torch.tensor(7),
        "e": torch.tensor([True]),
    }
    checkpoint = checkpoint_from_file(saved(tmp_path / "model.pt", stored))
    expected = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in stored.items()}
    assert same(checkpoint.state_dict, expected)
    assert checkpoint.notes == (
        "converted 1 tensors from float16 to float32",
        "converted 1 tensors from bfloat16 to float32",
        "converted 1 tensors from float64 to float32",
    )


def test_tensors_are_made_contiguous(tmp_path: Path) -> None:
    stored = {"conv.weight": torch.arange(6.0).reshape(2, 3).T, "view": torch.arange(10.0)[3:5]}
    checkpoint = checkpoint_from_file(saved(tmp_path / "model.pt", stored))
    assert same(checkpoint.state_dict, stored)
    assert all(tensor.is_contiguous() for tensor in (checkpoint.state_dict or {}).values())


def test_parameters_become_plain_tensors_without_gradient(tmp_path: Path) -> None:
    path = saved(tmp_path / "model.pt", {"w.a": torch.nn.Parameter(torch.ones(2))})
    tensors = checkpoint_from_file(path).state_dict or {}
    assert type(tensors["w.a"]) is Tensor
    assert not tensors["w.a"].requires_grad


@pytest.mark.parametrize(
    "key",
    [
        "state_dict", "model_state_dict", "model_state", "model", "net", "network", "module", "weights", "params",
        "ema", "model_ema", "ema_state_dict", "state_dict_ema", "something_of_its_own",
    ],
)  # fmt: skip
def test_a_wrapper_is_taken_off(tmp_path: Path, key: str) -> None:
    wrapped = {
        "epoch": 3,
        key: STATE,
        "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]},
        "best_acc1": torch.tensor(0.7),
    }
    checkpoint = checkpoint_from_file(saved(tmp_path / "model.pt", wrapped))
    assert same(checkpoint.state_dict, STATE)
    assert checkpoint.notes == (f"took '{key}' out of the file", "ignored 'epoch', 'optimizer', 'best_acc1'")


def test_wrappers_are_taken_off_three_levels_deep(tmp_path: Path) -> None:
    path = saved(tmp_path / "model.pt", {"checkpoint": {"epoch": 1, "model": {"state_dict": STATE}}})
    checkpoint = checkpoint_from_file(path)
    assert same(checkpoint.state_dict, STATE)
    assert checkpoint.notes == ("took 'checkpoint.model.state_dict' out of the file", "ignored 'checkpoint.epoch'")


def test_a_fourth_level_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "model.pt", {"a": {"model": {"module": {"state_dict": STATE}}}})
    with pytest.raises(CheckpointError, match="holds a dict of 'a', and no tensors of a network"):
        checkpoint_from_file(path)


def test_optimizer_state_that_looks_like_a_network_is_ignored(tmp_path: Path) -> None:
    path = saved(tmp_path / "model.pt", {"model": STATE, "optimizer": {"momentum.0": torch.ones(3)}})
    assert checkpoint_from_file(path).notes == ("took 'model' out of the file", "ignored 'optimizer'")


def zeroed(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: torch.zeros_like(tensor) for name, tensor in state_dict.items()}


@pytest.mark.parametrize("order", [("model", "ema"), ("ema", "model")])
def test_trained_weights_come_before_their_average(tmp_path: Path, order: tuple[str, str]) -> None:
    both = {"model": STATE, "ema": {"module": zeroed(STATE)}}
    path = saved(tmp_path / "model.pt", {key: both[key] for key in order})
    checkpoint = checkpoint_from_file(path)
    assert same(checkpoint.state_dict, STATE)
    assert "left 'ema.module': --weights ema.module takes that instead" in checkpoint.notes


@pytest.mark.parametrize("weights", ["ema", "ema.module"])
def test_weights_takes_another_entry(tmp_path: Path, weights: str) -> None:
    path = saved(tmp_path / "model.pt", {"model": STATE, "ema": {"module": zeroed(STATE)}})
    checkpoint = checkpoint_from_file(path, weights=weights)
    assert same(checkpoint.state_dict, zeroed(STATE))
    assert "left 'model'" in notes_of(checkpoint)


def test_weights_takes_a_part_of_a_state_dict(tmp_path: Path) -> None:
    both = {f"student.{name}": tensor for name, tensor in STATE.items()}
    both |= {f"teacher.{name}": tensor for name, tensor in zeroed(STATE).items()}
    checkpoint = checkpoint_from_file(saved(tmp_path / "model.pt", both), weights="student")
    assert same(checkpoint.state_dict, STATE)
    assert f"took the {len(STATE)} tensors of 'student', and left {len(STATE)}" in checkpoint.notes


def test_weights_that_are_not_there_list_what_is(tmp_path: Path) -> None:
    path = saved(tmp_path / "model.pt", {"model": STATE, "ema": STATE.copy()})
    with pytest.raises(CheckpointError, match=r"--weights swa is not in model\.pt, which holds 'model', 'ema'"):
        checkpoint_from_file(path, weights="swa")


def test_several_networks_without_known_names_have_to_be_named(tmp_path: Path) -> None:
    path = saved(tmp_path / "model.pt", {"generator": STATE, "discriminator": zeroed(STATE)})
    with pytest.raises(CheckpointError, match="several networks, 'generator', 'discriminator': name the one"):
        checkpoint_from_file(path)
    assert same(checkpoint_from_file(path, weights="discriminator").state_dict, zeroed(STATE))


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "model.", "net.", "backbone.", "module._orig_mod.", "model.module.net."]
)
def test_prefixes_that_all_names_have_are_taken_off(tmp_path: Path, prefix: str) -> None:
    path = saved(tmp_path / "model.pt", {f"{prefix}{name}": tensor for name, tensor in STATE.items()})
    checkpoint = checkpoint_from_file(path)
    assert same(checkpoint.state_dict, STATE)
    taken = [f"took '{part}.' off every name" for part in prefix.rstrip(".").split(".")]
    assert list(checkpoint.notes) == taken


def test_a_prefix_that_one_name_lacks_stays(tmp_path: Path) -> None:
    stored = {f"model.{name}": tensor for name, tensor in STATE.items()} | {"criterion.weight": torch.ones(2)}
    assert same(checkpoint_from_file(saved(tmp_path / "model.pt", stored)).state_dict, stored)


def test_a_lightning_checkpoint_is_read(tmp_path: Path) -> None:
    stored = {
        "epoch": 1,
        "pytorch-lightning_version": "2.4.0",
        "state_dict": {f"model.{name}": tensor for name, tensor in STATE.items()},
        "loops": {"fit_loop": {"state_dict": {"best": torch.ones(1)}}},
        "callbacks": {"ema": {"weights.a": torch.ones(1)}},
        "optimizer_states": [{"state": {}}],
        "hyper_parameters": {"lr": 0.1},
    }
    assert same(checkpoint_from_file(saved(tmp_path / "last.ckpt", stored)).state_dict, STATE)


def test_the_counter_of_a_moving_average_is_ignored(tmp_path: Path) -> None:
    stored = {"n_averaged": torch.tensor(5)} | {f"module.{name}": tensor for name, tensor in STATE.items()}
    checkpoint = checkpoint_from_file(saved(tmp_path / "model.pt", stored))
    assert same(checkpoint.state_dict, STATE)
    assert "ignored 'n_averaged', the counter of a moving average" in checkpoint.notes


def test_entries_that_are_no_tensors_are_ignored_with_a_note(tmp_path: Path) -> None:
    path = saved(tmp_path / "model.pt", STATE | {"version": 3})
    checkpoint = checkpoint_from_file(path)
    assert same(checkpoint.state_dict, STATE)
    assert checkpoint.notes == ("ignored 'version' of the state_dict, which are no tensors",)


def test_a_dict_that_contains_itself_is_read(tmp_path: Path) -> None:
    stored: dict[str, Any] = {"model": STATE}
    stored |= {f"self{number}": stored for number in range(200)}
    assert same(checkpoint_from_file(saved(tmp_path / "model.pt", stored)).state_dict, STATE)


def test_what_the_process_declared_safe_is_safe(tmp_path: Path) -> None:
    path = saved(tmp_path / "model.pt", {"state_dict": STATE, "args": argparse.Namespace(lr=0.1)})
    with torch.serialization.safe_globals([argparse.Namespace]):
        assert same(checkpoint_from_file(path).state_dict, STATE)


def test_checksums_may_have_been_left_out(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        path = saved(tmp_path / "model.pt", STATE)
    finally:
        torch.serialization.set_crc32_options(True)
    assert same(checkpoint_from_file(path).state_dict, STATE)


def test_the_tensors_of_a_zip_are_mapped_rather_than_read(tmp_path: Path) -> None:
    path = saved(tmp_path / "model.pt", {"big.weight": torch.arange(1 << 20, dtype=torch.float32)})
    tensors = checkpoint_from_file(path).state_dict or {}
    assert str(path) in Path("/proc/self/maps").read_text()
    assert float(tensors["big.weight"].sum()) == float(torch.arange(1 << 20, dtype=torch.float32).sum())
