"""``resnet-bench``: what the exporter and the runtime cost."""

from __future__ import annotations

import contextlib
import json
import platform
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

import resnet_export
from resnet_runtime.errors import DetailedError

_JSON = click.option(
    "--json", "json_file", metavar="FILE", type=click.Path(path_type=Path), help="Keep the raw figures."
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(resnet_export.__version__, prog_name="resnet-bench")
def command() -> None:
    """Measure what resnet-export and resnet-run cost on this machine."""


def main() -> None:
    """The entry point."""
    command.main(prog_name="resnet-bench")


@command.command("export")
@click.argument("checkpoint", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1))
@_JSON
def export_command(checkpoint: Path | None, rounds: int, json_file: Path | None) -> None:
    """Wall time and peak memory of resnet-export beside a bare torch.onnx.export of CHECKPOINT [a ResNet-50]."""
    from .clock import ProcessFailedError
    from .export_cost import export_cost

    with _checkpoint(checkpoint) as path:
        try:
            cost = export_cost(path, rounds, lambda text: click.echo(text, err=True))
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


@command.command("import")
@click.option("--rounds", default=11, show_default=True, type=click.IntRange(1))
@_JSON
def import_command(rounds: int, json_file: Path | None) -> None:
    """What `import resnet_runtime` takes after `import numpy`."""
    from .runtime_cost import import_cost

    cost = import_cost(rounds)
    click.echo(f"import resnet_runtime  {cost.median * 1e3:.1f} ms after numpy (median of {rounds})")
    _keep(json_file, "import", cost.to_json())


@contextlib.contextmanager
def _checkpoint(given: Path | None) -> Iterator[Path]:
    if given is not None:
        yield given
        return
    from .networks import save_live_resnet

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "resnet50.pt"
        save_live_resnet("resnet50", path)
        yield path


@contextlib.contextmanager
def _bundle(given: Path | None) -> Iterator[Path]:
    if given is not None:
        yield given
        return
    with _checkpoint(None) as checkpoint, tempfile.TemporaryDirectory() as folder:
        options = resnet_export.ExportOptions(variants=("fp32",))
        yield resnet_export.bundle_from_checkpoint(checkpoint, Path(folder) / "model.bundle", options).path


def _keep(path: Path | None, kind: str, figures: Any) -> None:
    """Write a record: the kind, the host, the versions, the raw figures."""
    if path is None:
        return
    from resnet_export.report import tool_versions

    record = {"kind": kind, "host": host(), "tools": tool_versions(), "figures": figures}
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
