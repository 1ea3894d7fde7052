"""resnet-bench on a small network: the figures are there, and they are the raw ones."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from resnet_bench.cli import command, main
from resnet_bench.embedding_cost import alike
from resnet_export import ExportOptions, ModelOptions, bundle_from_checkpoint


@pytest.fixture(scope="module")
def bundle(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    options = ExportOptions(model=ModelOptions(input_shape=(3, 32, 32)), variants=("fp32",))
    return bundle_from_checkpoint(checkpoint, tmp_path_factory.mktemp("bench") / "tiny.bundle", options).path


def bench(*arguments: str) -> str:
    result = CliRunner().invoke(command, list(arguments))
    assert result.exit_code == 0, result.output
    return result.output


def test_overhead(bundle: Path, tmp_path: Path) -> None:
    output = bench("overhead", str(bundle), "--rounds", "3", "--calls", "2", "--json", str(tmp_path / "r.json"))
    assert [line.split(",")[0].split()[0] for line in output.splitlines()] == ["OpenVINO", "ONNX"]
    record = json.loads((tmp_path / "r.json").read_text())
    assert record["kind"] == "overhead"
    assert set(record["host"]) == {"processor", "instruction_sets", "cores", "system"}
    for figures in record["figures"]:
        assert len(figures["session"]) == len(figures["own"]) == 3
        assert all(seconds > 0 for seconds in figures["session"] + figures["own"])


def test_embed(bundle: Path, tmp_path: Path) -> None:
    output = bench("embed", str(bundle), "--precision", "fp32", "--rounds", "3", "--json", str(tmp_path / "r.json"))
    assert "% of the images of a session fed by hand: OpenVINO" in output
    record = json.loads((tmp_path / "r.json").read_text())
    assert record["kind"] == "embed"
    figures = record["figures"]["batcher"]
    assert len(figures["by_hand"]) == len(figures["batched"]) == 3
    ratios = [one / other for one, other in zip(figures["batched"], figures["by_hand"], strict=True)]
    assert figures["share"] == sorted(ratios)[1]


def test_a_folder_without_the_programs_is_refused_before_anything_is_measured(bundle: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(command, ["embed", str(bundle), "--cpp", str(tmp_path)])
    assert result.exit_code == 1
    assert result.output == f"Error: {tmp_path} has no program cost and no probe: make test-cpp builds them\n"


@pytest.mark.parametrize(("name", "said"), [("torch", True), ("torch.nn", True), ("a_mistake_of_ours", False)])
def test_where_torch_is_not_installed_one_sentence_says_so(
    name: str, said: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def lacking(**_: object) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(command, "main", lacking)
    with pytest.raises(SystemExit if said else ModuleNotFoundError):
        main()
    expected = f"Error: {name} is not installed here: pip install 'resnet-export[cpu]'\n" if said else ""
    assert capsys.readouterr().err == expected


def test_answers_of_others_and_none_are_not_alike() -> None:
    expected = np.random.default_rng(0).normal(size=(4, 5))
    assert alike(expected + 1e-4, expected)
    for found in (expected[[1, 0, 2, 3]], np.full_like(expected, np.nan)):
        assert not alike(found, expected)


def test_import(tmp_path: Path) -> None:
    bench("import", "--rounds", "3", "--json", str(tmp_path / "r.json"))
    figures = json.loads((tmp_path / "r.json").read_text())["figures"]
    assert figures["median"] == sorted(figures["seconds"])[1]


@pytest.mark.slow
def test_export(checkpoint: Path, tmp_path: Path) -> None:
    output = bench("export", str(checkpoint), "--rounds", "1", "--json", str(tmp_path / "r.json"))
    assert "x torch.onnx.export" in output
    figures = json.loads((tmp_path / "r.json").read_text())["figures"]
    assert figures["checkpoint_bytes"] == checkpoint.stat().st_size
    assert figures["time_ratio"] == figures["export"][0]["seconds"] / figures["bare"][0]["seconds"]
    assert figures["peak_bytes"] == figures["export"][0]["peak_bytes"]


def test_a_bundle_that_is_none_is_one_sentence(tmp_path: Path) -> None:
    result = CliRunner().invoke(command, ["overhead", str(tmp_path / "none")])
    assert result.exit_code == 1
    assert "does not exist" in result.output
    assert "Traceback" not in result.output
