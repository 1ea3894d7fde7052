"""``resnet-run``: answers for images, or the check of a bundle, from the command line.

Standard output gets the answers and nothing else; what was chosen, progress and errors go to standard error. With
``--json`` it gets exactly one object, whatever happens. Exit status: 0 done; 1 failed; 2 the request, the bundle or an
image is at fault, and nothing but that was written.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import sys
import time
import warnings
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

import click
import numpy as np
from numpy.typing import NDArray

from . import check as checks
from . import loading
from .backends import NAMES
from .backends.base import INTENTS, LATENCY
from .cli_tables import check_object, check_table, printable, result_lines, unicode_name
from .errors import BackendError, InputError, ResnetRuntimeError
from .manifest import PRECISIONS

if TYPE_CHECKING:
    from .session import Session

_ONLY_FOR_IMAGES = ("precision", "intent", "threads", "top", "batch")


def _print_cmake_dir(context: click.Context, _: click.Parameter, value: bool) -> None:
    if value and not context.resilient_parsing:
        from .cpp_sources import cmake_dir

        click.echo(cmake_dir())
        context.exit()


@click.command(name="resnet-run", context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.argument("bundle")
@click.argument("images", metavar="[IMAGE]...", nargs=-1)
@click.option("--check", is_flag=True, help="Run every variant on the bundle's own inputs, and hold it to its gate.")
@click.option(
    "--tune", "tune_it", is_flag=True, help="Measure what is the fastest here, for every later run on this host."
)
@click.option("--backend", type=click.Choice(["auto", *NAMES]), default="auto", show_default=True)
@click.option("--precision", type=click.Choice(["auto", *PRECISIONS]), default="auto", show_default=True)
@click.option(
    "--intent",
    type=click.Choice(INTENTS),
    default=LATENCY,
    show_default=True,
    help="An answer as soon as possible, or as many images a second as possible.",
)
@click.option(
    "--threads", metavar="N", type=click.IntRange(min=1), help="Of a backend on the CPU; else as its library decides."
)
@click.option(
    "--top", metavar="N", type=click.IntRange(min=1), default=5, show_default=True, help="Classes to name for an image."
)
@click.option(
    "--batch",
    metavar="N",
    type=click.IntRange(min=1),
    help="Images decoded at once; what the backend computes at once.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--quiet", is_flag=True, help="Print nothing but answers and errors.")
@click.option(
    "--cmake-dir",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_cmake_dir,
    help="Print where the C++ runtime's sources are, for CMake, and exit.",
)
@click.version_option(package_name="resnet-export")
@click.pass_context
def command(context: click.Context, /, **options: Any) -> int:
    """Classify IMAGEs with BUNDLE, a directory that resnet-export wrote.

    \b
    resnet-run resnet50.bundle cat.jpg dog.png
    resnet-run resnet50.bundle --check
    resnet-run resnet50.bundle --tune
    """
    if options["check"] and options["tune_it"]:
        raise click.UsageError("--check and --tune are two things: give one of them.")
    if options["check"]:
        given = [f"--{name}" for name in _ONLY_FOR_IMAGES if _was_given(context, name)]
        if options["images"] or given:
            what = given[0] if given else "an image"
            raise click.UsageError(f"--check runs every variant on the bundle's own inputs: leave {what} out.")
        return _check(options)
    if options["tune_it"]:
        given = [
            f"--{name}" for name in ("backend", "precision", "threads", "top", "batch") if _was_given(context, name)
        ]
        if options["images"] or given:
            what = given[0] if given else "an image"
            raise click.UsageError(f"--tune measures every combination on the bundle's own inputs: leave {what} out.")
        return _tune(options)
    if not options["images"]:
        raise click.UsageError("Give at least one IMAGE, --check, or --tune.")
    return _classify(options)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status.

    Args:
        arguments: without the program's name; ``sys.argv`` where None.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    # Known before the arguments are parsed, because the parser's own errors are promised as JSON too.
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a label need not fit the terminal's encoding
    try:
        return _guarded(arguments, "--json" in options)
    except _OutputError as error:
        return _output_failed(error)


class _OutputError(Exception):
    """Standard output could not be written; the cause is the OSError."""


def _guarded(arguments: Sequence[str], as_json: bool) -> int:
    """The command, with every error that a user can cause turned into a sentence and a status."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")  # of odd files: they are read, or refused with a sentence
        try:
            status = command.main(args=list(arguments), prog_name="resnet-run", standalone_mode=False)
        except ResnetRuntimeError as error:
            return _fail(type(error).__name__, error.message, error.details, error.exit_status, as_json)
        except click.UsageError as error:
            hint = f"\nTry '{error.ctx.command_path} --help'." if error.ctx is not None else ""
            return _fail("UsageError", error.format_message(), (), error.exit_code, as_json, hint)
        except click.ClickException as error:
            return _fail(type(error).__name__, error.format_message(), (), error.exit_code, as_json)
        except (click.Abort, KeyboardInterrupt):
            return _fail("Interrupted", "interrupted; nothing was written", (), 130, as_json)
        except OSError as error:
            return _fail("OSError", f"the system refused something: {error}", (), 1, as_json)
    return int(status or 0)


def _fail(kind: str, message: str, details: Sequence[str], status: int, as_json: bool, hint: str = "") -> int:
    texts = [unicode_name(text) for text in (message, *details)]  # they may quote a file's name
    click.echo("\n  ".join(["Error: " + printable(texts[0]), *map(printable, texts[1:])]) + hint, err=True)
    if as_json:
        _print_json({"error": {"type": kind, "message": texts[0], "details": texts[1:]}})
    return status


def _output_failed(error: _OutputError) -> int:
    """The reader went away (``resnet-run ... | head``), which is no one's mistake, or the disk is full."""
    if not isinstance(error.__cause__, BrokenPipeError):
        click.echo(f"Error: standard output cannot be written: {error.__cause__}", err=True)
    # What is buffered is tried again when the interpreter exits; it has to go somewhere.
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1


def _print(lines: Iterable[str]) -> None:
    try:
        for line in lines:
            click.echo(line)
        sys.stdout.flush()
    except OSError as error:
        raise _OutputError from error


def _print_json(value: Any) -> None:
    # ASCII, so that no terminal's encoding can break it.
    _print([json.dumps(value, allow_nan=False)])


def _was_given(context: click.Context, name: str) -> bool:
    return context.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT


def _check(options: dict[str, Any]) -> int:
    found = checks.check_bundle(options["bundle"], backend=options["backend"])
    ran = [check for check in found if check.unavailable is None]
    failed = [check for check in ran if not check.passed]
    passed = bool(ran) and not failed
    if options["as_json"]:
        objects = [check_object(check) for check in found]
        _print_json({"bundle": unicode_name(options["bundle"]), "passed": passed, "checks": objects})
    else:
        _print(check_table(found))
    if not ran:
        click.echo("Error: no variant of the bundle can be run on this host: install a backend that can.", err=True)
    elif failed:
        names = ", ".join(printable(check.title) for check in failed)
        click.echo(f"Error: the bundle does not compute here what the model computed: {names}.", err=True)
    return 0 if passed else 1


def _tune(options: dict[str, Any]) -> int:
    from .backends import host_facts
    from .bundle import Bundle
    from .tuning import ROUNDS, tune, tuned_file, tuned_lines

    bundle, host, intent = Bundle.open(options["bundle"]), host_facts(), options["intent"]
    with _Progress(ROUNDS, hidden=options["quiet"], unit="rounds") as progress:
        tuning = tune(bundle, host, intent, tell=lambda done, total: progress.advance(1))
    if options["as_json"]:
        objects = [dataclasses.asdict(item) for item in tuning.found]
        _print_json({"bundle": unicode_name(options["bundle"]), "intent": intent, "tuned": objects})
    else:
        _print(printable(line) for line in tuned_lines(tuning.found, intent))
        if not options["quiet"]:
            where = tuned_file(bundle.manifest, intent)
            kept = f"kept in {where}" if tuning.kept else f"{where} cannot be written, so that nothing was kept"
            click.echo(printable(kept), err=True)
    return 0


def _classify(options: dict[str, Any]) -> int:
    asked = {name: options[name] for name in ("backend", "precision", "intent", "threads")}
    with loading.load(options["bundle"], **asked) as session:
        if not options["quiet"]:
            choice = session.choice
            click.echo(printable(f"{choice.backend}, {choice.precision} ({'; '.join(choice.reasons)})"), err=True)
        results = _results(session, options)
        chosen = {"backend": session.choice.backend, "precision": session.choice.precision}
    # Only now: an image that cannot be read leaves nothing half said.
    if options["as_json"]:
        _print_json({"bundle": unicode_name(options["bundle"]), **chosen, "results": results})
    else:
        _print(result_lines(results))
    return 0


def _results(session: Session, options: dict[str, Any]) -> list[dict[str, Any]]:
    output = session.signature.outputs[0]
    if len(output.shape) != 1:
        raise InputError(
            f"the output {output.name!r} has the shape {output.shape}, and only one number a class can be ranked: "
            "use resnet_runtime.load() from Python"
        )
    images = options["images"]
    size = options["batch"] or session.signature.largest_batch * session.calls_at_once
    results: list[dict[str, Any]] = []
    with _Progress(len(images), hidden=options["quiet"]) as progress:
        for first in range(0, len(images), size):
            names = images[first : first + size]
            scores = session.infer(session.preprocess(names))[output.name]
            for name, row in zip(names, scores, strict=True):
                results.append({"image": unicode_name(name), "top": _top(row, name, session.labels, options["top"])})
            progress.advance(len(names))
    return results


def _top(scores: NDArray[np.floating], image: str, labels: tuple[str, ...] | None, count: int) -> list[dict[str, Any]]:
    """The ``count`` best classes; of equal ones the first. ``scores``: (K,), logits."""
    if not np.isfinite(scores).all():
        raise BackendError(f"the answer for {printable(image)} is not finite: try --precision fp32, and run --check")
    exact = scores.astype(np.float64)
    powers = np.exp(exact - exact.max())
    probabilities = powers / powers.sum()
    best = np.argsort(-exact, kind="stable")[:count]
    return [
        {
            "index": int(index),
            "label": labels[index] if labels is not None and index < len(labels) else None,
            "score": float(scores[index]),
            "probability": float(probabilities[index]),
        }
        for index in best
    ]


class _Progress:
    """A progress bar on a terminal's standard error, once a second has passed."""

    def __init__(self, total: int, *, hidden: bool, unit: str = "images") -> None:
        self._total = total
        self._unit = unit
        self._hidden = hidden or not sys.stderr.isatty()
        self._began = time.monotonic()
        self._done = 0
        self._bar: Any = None

    def __enter__(self) -> _Progress:
        return self

    def advance(self, count: int) -> None:
        """``count`` more are done."""
        self._done += count
        if self._bar is not None:
            self._bar.update(count)
        elif not self._hidden and self._done < self._total and time.monotonic() - self._began > 1:
            self._bar = click.progressbar(length=self._total, label=self._unit, file=sys.stderr)
            self._bar.__enter__()
            self._bar.update(self._done)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.__exit__(kind, error, trace)
