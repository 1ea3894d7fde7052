"""What INT8 and FP16 cost in accuracy, beside other tools, on networks trained for ``photographs``.

Every setting starts from the same checkpoint, is calibrated with the same images and answers the same held-out crops,
none of which shares a pixel with the images that the network was trained or calibrated with. Eager PyTorch in float32
is the reference. Differences are taken crop by crop, and come with the interval of ``statistics.paired_interval``.

Everything after the measurement reads the record, so that what an earlier run measured is judged and shown alike.
"""

from __future__ import annotations

import dataclasses
import functools
import gc
import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from resnet_export.resnet import ARCHITECTURES, module_from_state_dict
from resnet_export.resnet_inference import config_from_state_dict
from resnet_runtime.errors import lines_of

from . import variants
from .peers import PEERS, Peer, PeerInput, logits_from_module, onnx_from_network
from .photographs import HELD_OUT, Crops, calibration_crops, held_out_crops
from .statistics import RESAMPLES, agreement, kl_divergence, paired_interval, right
from .tiny import save_tiny
from .training import INPUT_SHAPE, STANDARD, preprocessed, trained_resnet
from .variants import BATCH, NotShippedError, Opened, Setting

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Record = dict[str, Any]

SCHEMA: Final = "resnet-bench-accuracy/1"

MODELS: Final = ("resnet18:0", "resnet18:1", "resnet18:2", "resnet34:0", "resnet50:0")
"""The standard run: an architecture and the seed of its training."""

SHIPPED_INT8: Final = ("int8-cpu", "int8-tensorrt")
"""What a peer is compared with."""

TINY: Final = "tiny"
"""The architecture of ``tiny.py``, whose training takes seconds."""


class ResumeError(ValueError):
    """The record to go on with was made with other settings."""


@dataclass(frozen=True, kw_only=True)
class AccuracyOptions:
    """What is measured.

    Attributes:
        models: each ``ARCHITECTURE:SEED``, the architecture one of ``training.STANDARD``, or ``TINY``.
        held_out: how many crops are answered.
        calibration_images: how many crops everything is calibrated with.
        evaluation_images: how many crops this project's export measures what INT8 loses on, so that layers fall back;
            none is among the others, and no pixel of theirs is in a held-out crop.
        peers: names of ``peers.PEERS``.
        methods: whether the other calibration methods are measured: on the first model of each architecture.
        ablation: whether the steps of ``variants.ABLATION`` are: on the first model.
    """

    models: tuple[str, ...] = MODELS
    held_out: int = HELD_OUT
    calibration_images: int = 256
    evaluation_images: int = 4000
    peers: tuple[str, ...] = tuple(PEERS)
    methods: bool = True
    ablation: bool = False

    def to_json(self) -> Record:
        """What has to be the same for two runs to be one. What each model's record tells itself does not."""
        found = dataclasses.asdict(self)
        del found["models"], found["evaluation_images"]
        found["resamples"] = RESAMPLES
        return json.loads(json.dumps(found))  # type: ignore[no-any-return]


QUICK: Final = AccuracyOptions(
    models=(f"{TINY}:0",),
    held_out=400,
    calibration_images=32,
    evaluation_images=200,
    peers=("onnxruntime-minmax", "onnxruntime-minmax-per-channel"),
)
"""A small network, in seconds: it shows that everything runs; its figures say little of other networks."""


@dataclass(frozen=True)
class _Data:
    """What every setting gets.

    Attributes:
        inputs: (N, C, H, W), the held-out crops.
        labels: (N,)
        calibration: (M, C, H, W).
        evaluation: what the export is evaluated with.
    """

    inputs: Float32
    labels: NDArray[np.int64]
    calibration: Float32
    evaluation: Crops


@dataclass(frozen=True)
class _Answers:
    """One setting's, crop by crop: (N, classes) logits, (N,) whether right, (N,) nats from eager."""

    logits: Float32
    right: NDArray[np.bool_]
    divergence: Float64


def architecture_and_seed(model: str) -> tuple[str, int]:
    """Of ``ARCHITECTURE:SEED``, where no seed is 0.

    Raises:
        ValueError: the seed is not a number.
    """
    architecture, _, seed = model.partition(":")
    if seed and not seed.isdecimal():
        raise ValueError(f"the model {model!r} is not ARCHITECTURE:SEED, as resnet18:0 is")
    return architecture, int(seed or 0)


def accuracy(
    options: AccuracyOptions,
    done: Sequence[Record] = (),
    told: Callable[[str], None] = lambda text: None,
    peers: Mapping[str, Peer] = PEERS,
) -> Iterator[Record]:
    """Measure one model after the other.

    Args:
        options: see there.
        done: records of models that need not be measured again.
        told: what is done now, for a person who waits.
        peers: by name.

    Yields:
        A record for each model, in the order of the options; ``verdict.verdict`` judges it.

    Raises:
        ValueError: a model is not known, or cannot be trained without a recipe.
        ResnetExportError: an export failed.
        MissingPhotographsError: scikit-image or scikit-learn is not installed.
    """
    pairs = [architecture_and_seed(model) for model in options.models]
    known = {record["model"]: record for record in done}
    data: _Data | None = None
    for index, (architecture, seed) in enumerate(pairs):
        name = f"{architecture}:{seed}"
        if name in known:
            told(f"{name}: measured before")
            yield known[name]
            continue
        data = data or _data(options)
        first = architecture not in [other for other, _ in pairs[:index]]
        chosen = dataclasses.replace(
            options, methods=options.methods and first, ablation=options.ablation and index == 0
        )
        yield _model_record(
            name, data, chosen, {peer: peers[peer] for peer in options.peers}, functools.partial(_prefixed, told, name)
        )


def _prefixed(told: Callable[[str], None], name: str, text: str) -> None:
    told(f"{name} {text}")


def resumed(path: Path, options: AccuracyOptions) -> list[Record]:
    """The models of a record that ``options`` goes on with; none where there is no such file.

    Raises:
        ResumeError: it is not a record of this benchmark, or was made with other settings.
    """
    if not path.exists():
        return []
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        schema, figures = record["schema"], record["figures"]
        models, settings = list(figures["models"]), dict(figures["settings"])
    except (ValueError, KeyError, TypeError):
        raise ResumeError(f"{path} is not a record of resnet-bench accuracy: give another file") from None
    if schema != SCHEMA:
        raise ResumeError(f"{path} has the schema {schema!r}, and this version writes {SCHEMA!r}: give another file")
    wanted = options.to_json()
    other = [key for key in wanted if settings.get(key) != wanted[key]]
    if other:
        key = other[0]
        raise ResumeError(
            f"{path} was measured with {key} {settings.get(key)}, and this is {wanted[key]}: give another file"
        )
    return models


def _checkpoint(name: str, folder: Path, told: Callable[[str], None]) -> Path:
    """Of the cache, of a training now, or, of a tiny network, in ``folder``."""
    architecture, seed = architecture_and_seed(name)
    if architecture == TINY:
        return save_tiny(seed, folder / "tiny.pt")

    def step(number: int, loss: float) -> None:
        if number % 50 == 0:
            told(f"training: step {number}, loss {loss:.2f}")

    return trained_resnet(architecture, seed, progress=step)


def _data(options: AccuracyOptions) -> _Data:
    held_out = held_out_crops(options.held_out)
    inputs = np.empty((options.held_out, *INPUT_SHAPE), np.float32)
    for start in range(0, len(inputs), 1000):  # not twice in memory
        inputs[start : start + 1000] = preprocessed(held_out.images[start : start + 1000]).numpy()
    drawn = calibration_crops(options.calibration_images + options.evaluation_images)
    first = options.calibration_images
    calibration = preprocessed(drawn.images[:first]).contiguous().numpy()
    return _Data(inputs, held_out.labels, calibration, Crops(drawn.images[first:], drawn.labels[first:]))


def _model_record(
    name: str, data: _Data, options: AccuracyOptions, peers: Mapping[str, Peer], told: Callable[[str], None]
) -> Record:
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = _checkpoint(name, Path(folder), told)
        start = time.perf_counter()
        state_dict = torch.load(checkpoint, weights_only=True)
        inferred = config_from_state_dict(state_dict)
        network = module_from_state_dict(state_dict, inferred.config).eval()
        arch = inferred.name if inferred.name in ARCHITECTURES else None
        made = variants.exported(checkpoint, data.calibration, data.evaluation, Path(folder), arch)
        told(f"export: {time.perf_counter() - start:.1f} s")
        settings = [_eager(network), *variants.shipped(made)]
        if options.methods:
            settings += variants.other_methods(made)
        if options.ablation:
            settings += variants.ablation(made)
        settings += _peer_settings(network, data.calibration, peers, Path(folder))
        rows = _rows(settings, data, told)
        return {
            "model": name,
            "checkpoint_sha256": hashlib.sha256(checkpoint.read_bytes()).hexdigest(),
            "held_out": len(data.inputs),
            "calibration_images": len(data.calibration),
            "evaluation_images": len(data.evaluation.labels),
            "seconds": time.perf_counter() - start,
            "export_seconds": dict(made.result.report.seconds),
            "rows": rows,
        }


def _eager(network: torch.nn.Module) -> Setting:
    name = f"PyTorch {torch.__version__}, eager, fp32"
    return Setting(name="eager", kind="eager", open=lambda: Opened(logits_from_module(network), name))


def _peer_settings(
    network: torch.nn.Module, calibration: Float32, peers: Mapping[str, Peer], folder: Path
) -> Iterator[Setting]:
    def opened(name: str) -> Opened:
        own = folder / name
        own.mkdir()
        onnx = folder / "peers.onnx"
        if not onnx.exists():
            onnx_from_network(network, INPUT_SHAPE, onnx)
        given = PeerInput(network=network, onnx=onnx, calibration=calibration, folder=own)
        return Opened(peers[name](given), name)

    for name in peers:
        yield Setting(name=name, kind="peer", open=functools.partial(opened, name))


def _rows(settings: Sequence[Setting], data: _Data, told: Callable[[str], None]) -> list[Record]:
    """The record of each setting; the first one is the reference."""
    rows: list[Record] = []
    shipped: dict[str, _Answers] = {}
    reference: _Answers | None = None
    for setting in settings:
        row: Record = {
            "setting": setting.name,
            "kind": setting.kind,
            "scheme": setting.scheme,
            "method": setting.method,
            "error": None,
        }
        rows.append(row)
        try:
            logits, figures = _answered(setting, data.inputs)
        except NotShippedError as error:
            row["error"] = str(error)
        except Exception as error:  # a peer may raise anything, and is a row all the same
            if setting.kind != "peer":
                raise
            row["error"] = _in_a_line(error)
        else:
            against = logits if reference is None else reference.logits
            answers = _Answers(logits, right(logits, data.labels), kl_divergence(against, logits))
            reference = reference or answers
            row |= figures | _figures(answers, reference) | {"against": _against(setting, answers, shipped)}
            if setting.name in SHIPPED_INT8:
                shipped[setting.name] = answers
        told(_told(row))
        gc.collect()
    return rows


def _answered(setting: Setting, inputs: Float32) -> tuple[Float32, Record]:
    start = time.perf_counter()
    opened = setting.open()
    middle = time.perf_counter()
    parts = [opened.logits(inputs[first : first + BATCH]) for first in range(0, len(inputs), BATCH)]
    end = time.perf_counter()
    logits = np.concatenate(parts)
    if not np.isfinite(logits).all():
        raise FloatingPointError("its logits are not all finite")
    return logits, {
        "executor": opened.executor,
        "kept": opened.kept,
        "seconds": {"making": middle - start, "answering": end - middle},
    }


def _figures(answers: _Answers, reference: _Answers) -> Record:
    """top1 and agreement in 0..1, drop in points, divergence in nats."""
    difference = 100.0 * (answers.right.astype(np.float64) - reference.right)
    return {
        "top1": float(answers.right.mean()),
        "drop_points": 0.0 - float(difference.mean()),
        "agreement": agreement(reference.logits, answers.logits),
        "kl_nats": float(answers.divergence.mean()),
        "top1_minus_eager_points": dataclasses.asdict(paired_interval(difference)),
    }


def _against(setting: Setting, answers: _Answers, shipped: Mapping[str, _Answers]) -> Record:
    """What it has more than each shipped INT8 variant, or than that of its own scheme."""
    found = {}
    for name, ours in shipped.items():
        if setting.kind in ("eager", "shipped") or setting.scheme not in (None, name.removeprefix("int8-")):
            continue
        top1 = 100.0 * (answers.right.astype(np.float64) - ours.right)
        found[name] = {
            "top1_points": dataclasses.asdict(paired_interval(top1)),
            "kl_nats": dataclasses.asdict(paired_interval(answers.divergence - ours.divergence)),
        }
    return found


def _told(row: Record) -> str:
    if row["error"] is not None:
        return f"{row['setting']}: {row['error']}"
    seconds = row["seconds"]
    return (
        f"{row['setting']}: top-1 {row['top1']:.2%}, KL {row['kl_nats']:.2e}, made in {seconds['making']:.1f} s, "
        f"answered in {seconds['answering']:.1f} s"
    )


def _in_a_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {lines_of(error)[0]}"[:300]


def check(options: AccuracyOptions) -> None:
    """Refuse what cannot be measured, before anything is.

    Raises:
        ValueError: a model or a peer is not known, a model is named twice, or there is too little to measure with.
    """
    pairs = [architecture_and_seed(model) for model in options.models]
    known = (*STANDARD, TINY)
    for architecture, _ in pairs:
        if architecture not in known:
            raise ValueError(f"no model is called {architecture!r}, only {', '.join(known)}")
    if not pairs or len(set(pairs)) < len(pairs):
        raise ValueError(f"the models are {', '.join(options.models) or 'none'}: name each once")
    unknown = [name for name in options.peers if name not in PEERS]
    if unknown:
        raise ValueError(f"no peer is called {unknown[0]!r}, only {', '.join(PEERS)}")
