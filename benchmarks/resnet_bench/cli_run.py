"""``resnet-bench run``: how fast a bundle answers on this host, beside the other ways to run its network."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import os
import shlex
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from resnet_runtime.errors import DetailedError

if TYPE_CHECKING:
    from .cases import Case, Subject
    from .cold_start import ColdStart
    from .gpu_host import ThisGpu
    from .speed import LoopOptions, Row

_CPU_BATCHES = (1, 8)
_GPU_BATCHES = (1, 8, 32, 128, 256)


@click.command("run")
@click.argument("bundle", required=False, type=click.Path(path_type=Path))
@click.option(
    "--model",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="The checkpoint that BUNDLE was exported from, for the rows that need PyTorch.",
)
@click.option("--trust", is_flag=True, help="Run code that FILE may hold.")
@click.option(
    "--batch", "batches", metavar="N,...", help="Batch sizes.  [default: 1,8 on a CPU, 1,8,32,128,256 on a GPU]"
)
@click.option(
    "--against",
    metavar="NAME,...",
    help="Peers to compare with, all, or none.  [default: eager, and each backend's own library]",
)
@click.option("--rounds", default=40, show_default=True, type=click.IntRange(1))
@click.option(
    "--cold-starts",
    default=5,
    show_default=True,
    metavar="N",
    type=click.IntRange(0),
    help="Rounds of whole processes, from their start to the first answer; 0: none.",
)
@click.option("--json", "json_file", metavar="FILE", type=click.Path(path_type=Path), help="Keep the raw samples.")
@click.option("--html", "html_file", metavar="FILE", type=click.Path(path_type=Path), help="Write a report.")
@click.option("--png", "png_file", metavar="FILE", type=click.Path(path_type=Path), help="Write its first picture.")
def run_command(
    bundle: Path | None,
    model: Path | None,
    trust: bool,
    batches: str | None,
    against: str | None,
    rounds: int,
    cold_starts: int,
    json_file: Path | None,
    html_file: Path | None,
    png_file: Path | None,
) -> None:
    """Time BUNDLE [a ResNet-50, exported for it] on this host: in each round every way to run its network has its turn.

    Answers are checked first. On a host with a GPU: this runtime with transfers and without, with CUDA graphs and
    without, a bare loop over each engine, and the peers there. On another host: this runtime on each backend, for
    latency and for throughput, the backends' own libraries, and eager PyTorch. Then what a new process takes to its
    first answer, and how much memory.
    """
    from .cold_start import cold_start_table
    from .speed import LoopOptions
    from .speed_table import speed_table

    _check_files(json_file, html_file, png_file)
    options = LoopOptions(rounds=rounds)
    sizes = None if batches is None else _sizes(batches)
    given = [] if bundle is None else [bundle.name]  # by their names alone: a record tells nothing of a machine
    given += [] if model is None else ["--model", model.name]
    given += ["--trust"] if trust else []
    try:
        with _given(bundle, model) as (path, checkpoint):
            figures, rows, starts = _measured(path, checkpoint, trust, sizes, against, options, cold_starts, given)
    except DetailedError as error:
        click.echo(f"Error: {error}", err=True)
        raise SystemExit(error.exit_status) from None
    for line in (*speed_table(rows, options), *cold_start_table(starts)):
        click.echo(line)
    _keep(figures, json_file, html_file, png_file)
    if any(row.state == "failed" for row in rows):
        raise SystemExit(1)


@contextlib.contextmanager
def _given(bundle: Path | None, model: Path | None) -> Iterator[tuple[Path, Path | None]]:
    """The bundle and the checkpoint; where none is given, those of ``standard``."""
    if bundle is not None:
        yield bundle, model
        return
    if model is not None:
        raise click.UsageError("--model is the checkpoint of a BUNDLE: give that too, or neither")
    from .standard import standard_bundle

    click.echo("exporting a ResNet-50 to measure", err=True)
    with standard_bundle() as found:
        yield found


def _check_files(json_file: Path | None, html_file: Path | None, png_file: Path | None) -> None:
    """Say before minutes of measuring what could not be written after them."""
    for option, path in (("--json", json_file), ("--html", html_file), ("--png", png_file)):
        if path is not None and (path.is_dir() or not os.access(path.parent, os.W_OK)):
            raise click.UsageError(f"{option} {path} cannot be written: give a file in a folder that can")
    if png_file is not None and importlib.util.find_spec("resvg_py") is None:
        raise click.UsageError("--png needs resvg_py: pip install 'resnet-export[bench]', or leave it out")


def _sizes(text: str) -> tuple[int, ...]:
    """Of a list with commas, each once."""
    try:
        found = tuple(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        found = ()
    if not found or min(found) < 1:
        raise click.UsageError(f"--batch is {text!r}: give sizes such as 1,8,32")
    return found


def _measured(
    path: Path,
    model: Path | None,
    trust: bool,
    batches: tuple[int, ...] | None,
    against: str | None,
    options: LoopOptions,
    start_rounds: int,
    given: Sequence[str],
) -> tuple[dict[str, Any], list[Row], list[ColdStart]]:
    """The figures of the record, the rows, and the processes.

    Raises:
        DetailedError: the bundle or the model cannot be read, or something was asked for that is nowhere.
    """
    from resnet_runtime.bundle import Bundle

    from .cases import Subject
    from .cold_start import cold_start_json, cold_starts, measure_cold_starts
    from .compare import SCHEMA
    from .gpu_host import ThisGpu, has_gpu
    from .plan import checked_batches, checked_names, run
    from .speed_figures import row_json
    from .watch import Watch

    names = None if against is None else checked_names(against)
    bundle = Bundle.open(path)
    gpu = ThisGpu() if has_gpu() else None
    sizes, dropped = checked_batches(bundle.manifest, batches, _CPU_BATCHES if gpu is None else _GPU_BATCHES)
    network = None
    if model is not None:
        from .eager_network import network_from_file

        network = network_from_file(model, bundle, trust=trust)
    subject = Subject(bundle=bundle, check=bundle.check_data(), network=network)
    watch = Watch()
    rows = run(
        _planned(subject, names, gpu), sizes, subject.check, options, tell=lambda text: click.echo(text, err=True)
    )
    noticed = watch.noticed(rows)
    for text in noticed:
        click.echo(f"noticed: {text}", err=True)
    starts = cold_starts(subject, model) if start_rounds else []
    measure_cold_starts(starts, subject.check, start_rounds, tell=lambda text: click.echo(text, err=True))
    for size in dropped:
        largest = bundle.manifest.input.batch.largest
        click.echo(f"batch {size} is left out: the bundle's largest is {largest}", err=True)
    figures = {
        "schema": SCHEMA,
        "bundle": {"name": path.name, "model": dataclasses.asdict(bundle.manifest.model)},
        "gpu": None if gpu is None else gpu.describe(),
        "settings": {
            **dataclasses.asdict(options),
            "batches": list(sizes),
            "left_out": list(dropped),
            "against": names,
            "cold_starts": start_rounds,
        },
        "kept_higher": {
            variant.id: [dataclasses.asdict(layer) for layer in variant.kept_higher]
            for variant in bundle.manifest.variants
        },
        "command": _command(given, sizes, against, options, start_rounds),
        "noticed": noticed,
        "rows": [row_json(row, rows) for row in rows],
        "cold_starts": [cold_start_json(start, starts) for start in starts],
    }
    return figures, rows, starts


def _command(
    given: Sequence[str], sizes: Sequence[int], against: str | None, options: LoopOptions, start_rounds: int
) -> str:
    """What to type to measure the same again."""
    parts = ["resnet-bench", "run", *given]
    parts += ["--batch", ",".join(map(str, sizes))]
    parts += [] if against is None else ["--against", against]
    return shlex.join([*parts, "--rounds", str(options.rounds), "--cold-starts", str(start_rounds)])


def _planned(subject: Subject, names: Sequence[str] | None, gpu: ThisGpu | None) -> Callable[[int], list[Case]]:
    """The cases of a batch size on this host."""
    from .plan import ALL

    if gpu is None:
        from .cpu_cases import ALL_ON_A_CPU, cpu_cases

        wanted = ALL_ON_A_CPU if names == (ALL,) else names
        return lambda batch: cpu_cases(subject, batch, wanted)
    from .gpu_cases import gpu_cases
    from .gpu_peers import GPU_PEERS

    chosen = None if names is None or names == (ALL,) else tuple(names)
    return lambda batch: gpu_cases(subject, batch, chosen, gpu, GPU_PEERS)


def _keep(figures: dict[str, Any], json_file: Path | None, html_file: Path | None, png_file: Path | None) -> None:
    """The record first: it is what the others are made of."""
    from .cli import record_of, write_record
    from .peers import peer_versions
    from .plan import gpu_versions
    from .run_page import page_from_record, png_from_record

    record = record_of("run", figures)
    record["tools"] |= peer_versions() | gpu_versions()
    if json_file is not None:
        write_record(json_file, record)
    if html_file is not None:
        html_file.write_bytes(page_from_record(record))
    if png_file is not None:
        try:
            png_from_record(record, png_file)
        except DetailedError as error:
            click.echo(f"Error: {error}", err=True)
            raise SystemExit(error.exit_status) from None
