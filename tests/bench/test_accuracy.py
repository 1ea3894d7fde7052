"""The accuracy benchmark on a small network: what it measures, what it keeps, and how it goes on."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from numpy.typing import NDArray

from resnet_bench import accuracy as benchmark
from resnet_bench import variants
from resnet_bench.accuracy import (
    MODELS,
    QUICK,
    SCHEMA,
    AccuracyOptions,
    ResumeError,
    accuracy,
    architecture_and_seed,
    check,
    resumed,
)
from resnet_bench.cli import command
from resnet_bench.peers import PEERS, Logits, PeerInput, logits_from_module
from resnet_bench.photographs import held_out_crops
from resnet_bench.training import preprocessed, top1
from resnet_bench.variants import Exported, other_methods
from resnet_bench.verdict import table, verdict, verdict_text
from resnet_export.quantization.thresholds import METHODS

SAMPLES = 300


@dataclass(frozen=True)
class Run:
    record: dict[str, Any]
    told: list[str]
    network: torch.nn.Module
    made: Exported

    def row(self, setting: str) -> dict[str, Any]:
        (found,) = (row for row in self.record["rows"] if row["setting"] == setting)
        return dict(found)


@pytest.fixture(scope="module")
def run() -> Run:
    """One real run, with peers of which the answers are known beside a real one."""
    networks: list[torch.nn.Module] = []
    made: list[Exported] = []
    told: list[str] = []

    def twin(given: PeerInput) -> Logits:
        networks.append(given.network)
        return logits_from_module(given.network)

    def coarse(given: PeerInput) -> Logits:
        """Weights of 3 bits."""
        network = copy.deepcopy(given.network)
        for parameter in network.parameters():
            if parameter.ndim > 1:
                step = parameter.data.abs().max() / 3
                parameter.data = torch.round(parameter.data / step) * step
        return logits_from_module(network)

    def failing(given: PeerInput) -> Logits:
        raise RuntimeError("\nno such luck\nand more")

    def endless(given: PeerInput) -> Logits:
        return lambda batch: np.full((len(batch), 20), np.nan, np.float32)

    peers = {"twin": twin, "coarse": coarse, "failing": failing, "endless": endless}
    name = "onnxruntime-minmax"
    options = dataclasses.replace(QUICK, held_out=SAMPLES, methods=False, peers=(*peers, name))
    exported = variants.exported
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(variants, "exported", lambda *arguments: made.append(exported(*arguments)) or made[0])
        (record,) = accuracy(options, told=told.append, peers=peers | {name: PEERS[name]})
    return Run(record, told, networks[0], made[0])


@pytest.fixture(scope="module")
def inputs() -> NDArray[np.float32]:
    return preprocessed(held_out_crops(SAMPLES).images).contiguous().numpy()


def test_eager_is_the_reference(run: Run, inputs: NDArray[np.float32]) -> None:
    row = run.row("eager")
    expected = top1(logits_from_module(run.network)(inputs), held_out_crops(SAMPLES).labels)
    assert row["top1"] == pytest.approx(expected, abs=1.5 / SAMPLES)  # another batch size may tip one crop
    assert 0.3 < row["top1"] < 0.95
    assert (row["drop_points"], row["agreement"], row["kl_nats"]) == (0, 1, 0)
    assert row["top1_minus_eager_points"] == {"mean": 0, "low": 0, "high": 0}


def test_the_shipped_variants_are_near_and_not_the_same(run: Run) -> None:
    fp16, cpu, tensorrt = (run.row(name) for name in ("fp16", "int8-cpu", "int8-tensorrt"))
    assert 0 < fp16["kl_nats"] < 1e-5 < cpu["kl_nats"] < 1e-3
    assert 1e-5 < tensorrt["kl_nats"] < 1e-3
    assert cpu["kl_nats"] != tensorrt["kl_nats"]
    assert (fp16["scheme"], cpu["scheme"], tensorrt["scheme"]) == (None, "cpu", "tensorrt")
    assert "int8" in cpu["executor"]
    assert "rounded to int8 and fp16" in tensorrt["executor"]
    assert min(fp16["agreement"], cpu["agreement"], tensorrt["agreement"]) > 0.95
    for row in (fp16, cpu, tensorrt):
        assert row["drop_points"] == pytest.approx(100 * (run.row("eager")["top1"] - row["top1"]), abs=1e-9)


def test_a_bad_peer_is_further_away_with_certainty(run: Run) -> None:
    bad, real = run.row("coarse"), run.row("onnxruntime-minmax")
    for name in ("int8-cpu", "int8-tensorrt"):
        assert real["kl_nats"] > run.row(name)["kl_nats"]
        difference = bad["against"][name]["kl_nats"]
        assert 0 < difference["low"] < difference["mean"] < difference["high"]
        assert difference["mean"] == pytest.approx(bad["kl_nats"] - run.row(name)["kl_nats"], rel=1e-9)
    interval = bad["top1_minus_eager_points"]
    assert interval["low"] < interval["mean"] < interval["high"]
    assert interval["mean"] == pytest.approx(-bad["drop_points"])


def test_a_peer_that_is_eager_itself_is_found_to_be_nearer(run: Run) -> None:
    assert run.row("twin")["kl_nats"] == pytest.approx(0, abs=1e-9)
    found = verdict(run.record)
    nearer = [item for item in found["checks"] if item["asked"] == "KL lower than every peer's"]
    assert [(item["setting"], item["passed"]) for item in nearer] == [("int8-cpu", False), ("int8-tensorrt", False)]
    assert all(item["found"].startswith("twin has") for item in nearer)
    assert not found["passed"]


def test_a_peer_that_fails_is_a_row_with_its_error(run: Run) -> None:
    assert run.row("failing")["error"] == "RuntimeError: no such luck"
    assert run.row("endless")["error"] == "FloatingPointError: its logits are not all finite"
    assert all("top1" not in run.row(name) for name in ("failing", "endless"))
    assert verdict(run.record)["failed_peers"] == ["failing", "endless"]
    assert "tiny:0 failing: RuntimeError: no such luck" in run.told


def test_methods_and_steps_differ_from_what_ships(run: Run, inputs: NDArray[np.float32]) -> None:
    settings = {setting.name: setting for setting in (*other_methods(run.made), *variants.ablation(run.made))}
    chosen = run.made.table.methods
    expected = [
        f"int8-{scheme} {what}"
        for what in (*METHODS, *variants.ABLATION)
        for scheme in ("cpu", "tensorrt")
        if what != chosen[scheme]
    ]
    assert list(settings) == [*expected, "int8-tensorrt all shortcuts"]
    reference = logits_from_module(run.network)(inputs[:64])
    other = next(method for method in METHODS if method != chosen["tensorrt"])
    opened = {name: settings[name].open() for name in ("int8-cpu nearest", "int8-cpu + bias", f"int8-tensorrt {other}")}
    answers = [made.logits(inputs[:64]) for made in opened.values()]
    distances = [float(np.abs(logits - reference).max()) for logits in answers]
    assert len(set(distances)) == 3
    assert all(1e-3 < distance < np.ptp(reference) / 4 for distance in distances)
    assert ["int8" in made.executor for made in opened.values()] == [True, True, True]


def test_what_is_shown_fits_100_columns(run: Run) -> None:
    text = table(run.record)
    assert max(map(len, text.splitlines())) <= 100
    assert [line.split()[0] for line in text.splitlines()[2:]] == [row["setting"] for row in run.record["rows"]]
    assert max(map(len, verdict_text(verdict(run.record)).splitlines())) <= 100


def test_the_record_is_of_this_checkpoint_and_these_crops(run: Run) -> None:
    assert run.record["model"] == "tiny:0"
    assert (run.record["held_out"], run.record["calibration_images"]) == (SAMPLES, QUICK.calibration_images)
    assert len(run.record["checkpoint_sha256"]) == 64
    assert all(row["seconds"]["answering"] > 0 for row in run.record["rows"] if row["error"] is None)
    assert json.loads(json.dumps(run.record, allow_nan=False)) == run.record


def bench(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(command, ["accuracy", *arguments])
    assert "Traceback" not in result.output
    return result.exit_code, result.output


def test_a_record_is_gone_on_with(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "record.json"
    path.write_text(json.dumps({"schema": SCHEMA, "figures": {"settings": QUICK.to_json(), "models": [run.record]}}))
    monkeypatch.setattr(variants, "exported", lambda *_: pytest.fail("measured again"))
    status, output = bench("--quick", "--resume", "--json", str(path))
    assert status == 0, output
    assert "tiny:0: measured before" in output
    assert table(run.record) in output
    record = json.loads(path.read_text())
    assert set(record) == {"schema", "kind", "host", "tools", "figures"}
    assert (record["schema"], record["kind"]) == (SCHEMA, "accuracy")
    assert {"resnet-export", "torch", "onnxruntime"} <= set(record["tools"])
    assert record["figures"]["settings"] == QUICK.to_json()
    assert record["figures"]["models"] == [{**run.record, "verdict": verdict(run.record)}]
    assert list(tmp_path.iterdir()) == [path]


def test_a_record_of_other_settings_is_refused(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_text(json.dumps({"schema": SCHEMA, "figures": {"settings": QUICK.to_json(), "models": []}}))
    status, output = bench("--quick", "--resume", "--held-out", "7", "--json", str(path))
    assert status == 1
    assert "was measured with held_out 400, and this is 7" in output
    for text in ("not JSON", "[]", '{"schema": 1}'):
        path.write_text(text)
        with pytest.raises(ResumeError, match="is not a record of resnet-bench accuracy"):
            resumed(path, QUICK)
    assert resumed(tmp_path / "none.json", QUICK) == []


def test_a_run_that_stops_leaves_what_it_measured(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopping(*_: object) -> Iterator[dict[str, Any]]:
        yield run.record
        raise ValueError("the disk is full")

    monkeypatch.setattr(benchmark, "accuracy", stopping)
    status, output = bench("--quick", "--json", str(tmp_path / "record.json"))
    assert (status, output.splitlines()[-1]) == (1, "Error: the disk is full")
    assert [record["model"] for record in json.loads((tmp_path / "record.json").read_text())["figures"]["models"]] == [
        "tiny:0"
    ]


def test_methods_are_once_an_architecture_and_the_ablation_is_once(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {}

    def measured(name: str, _: object, options: AccuracyOptions, *__: object) -> dict[str, Any]:
        found[name] = (options.methods, options.ablation)
        return {"model": name}

    monkeypatch.setattr(benchmark, "_model_record", measured)
    monkeypatch.setattr(benchmark, "_data", lambda _: object())
    records = list(accuracy(AccuracyOptions(ablation=True)))
    assert [record["model"] for record in records] == list(MODELS) == list(found)
    assert list(found.values()) == [(True, True), (False, False), (False, False), (True, False), (True, False)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--models", "resnet19:0"), "no model is called 'resnet19'"),
        (("--models", "resnet18:x"), "the model 'resnet18:x' is not ARCHITECTURE:SEED"),
        (("--models", "resnet18:0,resnet18"), "name each once"),
        (("--models", "none"), "the models are none"),
        (("--peers", "nobody"), "no peer is called 'nobody'"),
    ],
)
def test_what_cannot_be_measured_is_one_sentence(arguments: tuple[str, ...], message: str) -> None:
    status, output = bench(*arguments)
    assert status == 1
    assert message in output


def test_resuming_needs_a_record() -> None:
    status, output = bench("--quick", "--resume")
    assert status == 2
    assert "--json" in output


def test_models_and_defaults() -> None:
    assert architecture_and_seed("resnet50") == ("resnet50", 0)
    assert architecture_and_seed("resnet18:2") == ("resnet18", 2)
    check(AccuracyOptions())
    check(QUICK)
    assert AccuracyOptions().held_out >= 10_000
    assert [model for model in MODELS if model.startswith("resnet18:")] == [f"resnet18:{seed}" for seed in range(3)]
