"""``resnet-bench``: what the exporter and the runtime cost."""

from __future__ import annotations

import contextlib
import json
import platform
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

import resnet_export
from resnet_runtime.errors import DetailedError

from .cli_compare import compare_command
from .cli_run import run_command

_JSON = click.option(
    "--json", "json_file", metavar="FILE", type=click.Path(path_type=Path), help="Keep the raw figures."
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(resnet_export.__version__, prog_name="resnet-bench")
def command() -> None:
    """Measure what resnet-export and resnet-run cost on this machine."""


command.add_command(run_command)
command.add_command(compare_command)

STANDARD = "resnet50"


def main() -> None:
    """The entry point."""
    try:
        command.main(prog_name="resnet-bench")
    except ModuleNotFoundError as error:  # what serves a bundle has not all that a benchmark wants
        if error.name is None or error.name.partition(".")[0] not in ("torch", "onnx", "onnx_ir"):
            raise
        click.echo(f"Error: {error.name} is not installed here: pip install 'resnet-export[cpu]'", err=True)
        sys.exit(1)


@command.command("export")
@click.argument("checkpoint", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1))
@click.option("--arch", metavar="NAME", help="Of CHECKPOINT, as resnet-export takes it.")
@_JSON
def export_command(checkpoint: Path | None, rounds: int, arch: str | None, json_file: Path | None) -> None:
    """Wall time and peak memory of resnet-export beside a bare torch.onnx.export of CHECKPOINT [a ResNet-50]."""
    from .clock import ProcessFailedError
    from .export_cost import export_cost

    with _checkpoint(checkpoint) as path:
        try:
            arch = STANDARD if checkpoint is None else arch
            cost = export_cost(path, rounds, lambda text: click.echo(text, err=True), arch=arch)
        except ProcessFailedError as error:
            raise click.ClickException(str(error)) from None
    click.echo(f"wall time       {cost.time_ratio:.2f} x torch.onnx.export (median of {rounds})")
    click.echo(
        f"peak memory     {cost.peak_bytes / 1e9:.2f} GB, 4 x checkpoint + 1.2 GB is "
        f"{cost.allowed_peak_bytes / 1e9:.2f} GB"
    )
    _keep(json_file, "export", cost.to_json())


@command.command("overhead")
@click.argument("bundle", required=False, type=click.Path(path_type=Path))
@click.option(
    "--backend",
    "backends",
    multiple=True,
    type=click.Choice(["openvino", "onnxruntime"]),
    default=["openvino", "onnxruntime"],
    show_default=True,
)
@click.option("--batch", default=1, show_default=True, type=click.IntRange(1))
@click.option("--rounds", default=40, show_default=True, type=click.IntRange(1))
@click.option("--calls", default=2, show_default=True, type=click.IntRange(1), help="Calls in a round.")
@_JSON
def overhead_command(
    bundle: Path | None, backends: tuple[str, ...], batch: int, rounds: int, calls: int, json_file: Path | None
) -> None:
    """What session.infer adds to the backend's own API on BUNDLE [a ResNet-50, exported for it]."""
    from .runtime_cost import DifferentAnswersError, call_cost

    found = []
    try:
        with _bundle(bundle) as path:
            for backend in backends:
                cost = call_cost(path, backend, batch, rounds, calls)
                click.echo(f"{cost.what:<44} {cost.overhead:+.2%} (median of {rounds} rounds of {calls} calls)")
                found.append(cost.to_json())
    except (DetailedError, DifferentAnswersError) as error:
        raise click.ClickException(str(error)) from None
    _keep(json_file, "overhead", found)


@command.command("embed")
@click.argument("bundle", required=False, type=click.Path(path_type=Path))
@click.option("--precision", default="int8", show_default=True, type=click.Choice(["fp32", "bf16", "fp16", "int8"]))
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1))
@click.option(
    "--cpp", metavar="FOLDER", type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Where make test-cpp built the C++ runtime: measure that too.",
)  # fmt: skip
@_JSON
def embed_command(bundle: Path | None, precision: str, rounds: int, cpp: Path | None, json_file: Path | None) -> None:
    """What Batcher and the C++ runtime add on BUNDLE [a ResNet-50, exported for it]."""
    from .clock import ProcessFailedError
    from .embedding_cost import batcher_cost, cpp_cost, refuse_unbuilt
    from .runtime_cost import DifferentAnswersError

    found: dict[str, Any] = {}
    try:
        if cpp is not None:
            refuse_unbuilt(cpp)  # before minutes of measuring
        with _variants(bundle) as path:
            batched = batcher_cost(path, precision, rounds=rounds)
            found["batcher"] = batched.to_json()
            click.echo(
                f"Batcher         {batched.share:.1%} of the images of a session fed by hand: {batched.what}, "
                f"{batched.clients} clients (median of {rounds} rounds)"
            )
            if cpp is not None:
                cost = cpp_cost(path, precision, cpp, rounds=rounds)
                found["cpp"] = cost.to_json()
                click.echo(
                    f"C++             {cost.ratio - 1:+.2%} beside OpenVINO's own API: {precision}, batch 1; "
                    f"{cost.allocations:g} allocations a call, {cost.own_allocations:g} by hand"
                )
                click.echo(
                    f"C++ cold start  {cost.cold_start:.2f} s from a process's start to its end (median of {rounds})"
                )
    except (DetailedError, DifferentAnswersError, ProcessFailedError) as error:
        raise click.ClickException(str(error)) from None
    _keep(json_file, "embed", found)


@command.command("import")
@click.option("--rounds", default=11, show_default=True, type=click.IntRange(1))
@_JSON
def import_command(rounds: int, json_file: Path | None) -> None:
    """What `import resnet_runtime` takes after `import numpy`."""
    from .runtime_cost import import_cost

    cost = import_cost(rounds)
    click.echo(f"import resnet_runtime  {cost.median * 1e3:.1f} ms after numpy (median of {rounds})")
    _keep(json_file, "import", cost.to_json())


@command.command("calibration")
@click.option("--images", default=64, show_default=True, type=click.IntRange(1))
@click.option("--many", default=1024, show_default=True, type=click.IntRange(1), help="Memory is compared with this.")
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1))
@_JSON
def calibration_command(images: int, many: int, rounds: int, json_file: Path | None) -> None:
    """What calibrating a ResNet-50 takes beside onnxruntime.quantization's entropy calibrator: time and memory."""
    from .calibration_cost import calibration_cost
    from .clock import ProcessFailedError

    try:
        cost = calibration_cost(images, many, rounds, lambda text: click.echo(text, err=True))
    except ProcessFailedError as error:
        raise click.ClickException(str(error)) from None
    click.echo(
        f"{cost.time_ratio:.2f} times as fast as onnxruntime's entropy calibrator on {images} images; "
        f"{many} images take {cost.peak_growth:+.1%} memory"
    )
    _keep(json_file, "calibration", cost.to_json())


@command.command("accuracy")
@click.option(
    "--models",
    metavar="ARCH:SEED,...",
    help="Trained where the cache has none.  [default: resnet18:0,resnet18:1,resnet18:2,resnet34:0,resnet50:0]",
)
@click.option("--held-out", type=click.IntRange(1), help="Crops to answer.  [default: 12000]")
@click.option(
    "--calibration-images", type=click.IntRange(1), help="Crops that everything is calibrated with.  [default: 256]"
)
@click.option(
    "--peers", metavar="NAME,...", help="Other tools to compare with, or none.  [default: all that are known]"
)
@click.option("--methods/--no-methods", default=True, help="Also the other calibration methods, once an architecture.")
@click.option("--ablation", is_flag=True, help="Also what each step of the quantization adds, on the first model.")
@click.option("--quick", is_flag=True, help="A small network, trained in seconds: a test of the benchmark.")
@click.option("--resume", is_flag=True, help="Go on with the record in --json FILE.")
@_JSON
def accuracy_command(
    models: str | None,
    held_out: int | None,
    calibration_images: int | None,
    peers: str | None,
    methods: bool,
    ablation: bool,
    quick: bool,
    resume: bool,
    json_file: Path | None,
) -> None:
    """What FP16 and INT8 lose on networks that are trained for it, beside other tools: top-1, agreement, KL."""
    import dataclasses

    from .accuracy import QUICK, AccuracyOptions, ResumeError, accuracy, check, resumed
    from .photographs import MissingPhotographsError
    from .verdict import table, verdict, verdict_text

    given = {
        "models": None if models is None else _names(models),
        "held_out": held_out,
        "calibration_images": calibration_images,
        "peers": None if peers is None else _names(peers),
    }
    options = dataclasses.replace(
        QUICK if quick else AccuracyOptions(),
        methods=methods,
        ablation=ablation,
        **{name: value for name, value in given.items() if value is not None},  # type: ignore[arg-type]
    )
    if resume and json_file is None:
        raise click.UsageError("--resume goes on with a record: give its --json FILE too")
    try:
        check(options)
        done = resumed(json_file, options) if resume and json_file is not None else []
        found: list[dict[str, Any]] = []
        for record in accuracy(options, done, lambda text: click.echo(text, err=True)):
            found.append({**record, "verdict": verdict(record)})
            click.echo(f"{table(record)}\n\n{verdict_text(found[-1]['verdict'])}\n")
            if json_file is not None:
                kept = [*found, *(other for other in done if other["model"] not in {item["model"] for item in found})]
                _keep_accuracy(json_file, {"settings": options.to_json(), "models": kept})
    except (ResumeError, ValueError, MissingPhotographsError, DetailedError) as error:
        raise click.ClickException(str(error)) from None


def _names(text: str) -> tuple[str, ...]:
    """Of a list with commas; none where it says none."""
    return tuple(name for name in (part.strip() for part in text.split(",")) if name not in ("", "none"))


def _keep_accuracy(path: Path, figures: dict[str, Any]) -> None:
    """Write the record so far; a run that is stopped leaves the one before or this one, whole."""
    import os

    from .accuracy import SCHEMA
    from .peers import peer_versions

    record = {"schema": SCHEMA, **record_of("accuracy", figures)}
    record["tools"] |= peer_versions()
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        write_record(partial, record)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def _checkpoint(given: Path | None) -> Iterator[Path]:
    if given is not None:
        yield given
        return
    from .networks import save_live_resnet

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{STANDARD}.pt"
        save_live_resnet(STANDARD, path)
        yield path


@contextlib.contextmanager
def _bundle(given: Path | None) -> Iterator[Path]:
    if given is not None:
        yield given
        return
    with _checkpoint(None) as checkpoint, tempfile.TemporaryDirectory() as folder:
        model = resnet_export.ModelOptions(arch=STANDARD)
        options = resnet_export.ExportOptions(variants=("fp32",), model=model)
        yield resnet_export.bundle_from_checkpoint(checkpoint, Path(folder) / "model.bundle", options).path


@contextlib.contextmanager
def _variants(given: Path | None) -> Iterator[Path]:
    """As ``_bundle``, with all variants."""
    if given is not None:
        yield given
        return
    from .standard import standard_bundle

    with standard_bundle() as (path, _):
        yield path


def _keep(path: Path | None, kind: str, figures: Any) -> None:
    """Write a record: the kind, the host, the versions, the raw figures."""
    if path is not None:
        write_record(path, record_of(kind, figures))


def record_of(kind: str, figures: Any) -> dict[str, Any]:
    """Figures, with the host and the versions that they come from."""
    from resnet_export.report import tool_versions

    return {"kind": kind, "host": host(), "tools": tool_versions(), "figures": figures}


def write_record(path: Path, record: dict[str, Any]) -> None:
    """As JSON."""
    path.write_text(json.dumps(record, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def host() -> dict[str, Any]:
    """The processor and what it can compute, and the system; no name of the machine."""
    import os

    model, flags = platform.processor(), set()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                model = value.strip()
            elif key.strip() == "flags":
                flags = set(value.split())
    wanted = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_int8", "amx_fp16")
    return {
        "processor": model,
        "instruction_sets": [flag for flag in wanted if flag in flags],
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
    }
