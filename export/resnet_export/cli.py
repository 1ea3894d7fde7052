"""``resnet-export``: from a checkpoint to a verified bundle."""

from __future__ import annotations

import functools
import gc
import io
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from . import __version__

if TYPE_CHECKING:
    from resnet_runtime.errors import ResnetRuntimeError

    from .errors import ResnetExportError

EXIT_VARIANT_DROPPED = 3
EXIT_INTERRUPTED = 130
_MAX_INTEGER = 2**31 - 1

_EPILOG = (
    "Exit status: 0 done; 1 failed, nothing written; 2 the request or an input file is at fault, nothing written; "
    "3 written, but a variant that was asked for did not pass its gate, or an engine was not built, and is not in it. "
    "Where status 1 came after the bundle was written, the error says so."
)


def _numbers(kind: Callable[[str], Any], count: int | None, what: str) -> Callable[..., Any]:
    """A callback that parses a comma-separated list."""

    def parse(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[Any, ...] | None:
        del context, parameter
        if value is None:
            return None
        try:
            items = tuple(kind(part) for part in value.split(","))
        except ValueError:
            items = ()
        whole = kind is not int or all(1 <= item <= _MAX_INTEGER for item in items)
        if not items or (count is not None and len(items) != count) or not whole:
            raise click.BadParameter(f"{value!r} is not {what}")
        return items

    return parse


def _batches(
    context: click.Context, parameter: click.Parameter, values: tuple[str, ...]
) -> tuple[tuple[int, int, int], ...]:
    """Each ``MIN,OPT,MAX``."""
    parse = _numbers(int, 3, "MIN,OPT,MAX")
    return tuple(parse(context, parameter, value) for value in values)


def _size(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, ...] | bool | None:
    """``N``, ``H,W`` or ``none``."""
    if value is None:
        return None
    if value == "none":
        return False
    items = _numbers(int, None, "N, H,W or none")(context, parameter, value)
    if len(items) > 2:
        raise click.BadParameter(f"{value!r} is not N, H,W or none")
    return tuple(items)


def _gates(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, dict[str, float]]:
    """``fp16.max_error=0.02`` and the like."""
    del context, parameter
    found: dict[str, dict[str, float]] = {}
    figures = ("max_error", "mean_error", "centred_cosine", "top1_agreement")
    for value in values:
        name, _, number = value.partition("=")
        variant, _, figure = name.partition(".")
        try:
            limit = float(number)
        except ValueError:
            limit = -1.0
        if variant not in ("fp32", "bf16", "fp16", "int8") or figure not in figures or not 0 <= limit < 1e9:
            raise click.BadParameter(f"{value!r} is not VARIANT.FIGURE=NUMBER, with one of {', '.join(figures)}")
        found.setdefault(variant, {})[figure] = limit
    return found


class _Command(click.Command):
    """A command whose parser fails as everything else does: in a sentence, and as JSON where that was asked for."""

    def main(self, args: Any = None, *arguments: Any, **keywords: Any) -> Any:
        """Run, and raise SystemExit."""
        given = list(sys.argv[1:] if args is None else args)
        as_json = "--json" in (given[: given.index("--")] if "--" in given else given)
        from .errors import RequestError, ResnetExportError

        try:
            sys.exit(super().main(given, *arguments, **{**keywords, "standalone_mode": False}))
        except click.ClickException as error:
            sys.exit(_fail(RequestError(f"{error.format_message().rstrip('.')}; see resnet-export --help"), as_json))
        except (click.Abort, KeyboardInterrupt):
            _fail(ResnetExportError("interrupted"), as_json)
            sys.exit(EXIT_INTERRUPTED)


@click.command(
    cls=_Command, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.argument("checkpoint", metavar="MODEL", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", metavar="DIR", type=click.Path(path_type=Path), help="The bundle [MODEL's stem.bundle]."
)
@click.option("--arch", metavar="NAME", help="The architecture of a state_dict, or timm:NAME, torchvision:NAME [read].")
@click.option(
    "--stride-in", type=click.Choice(["3x3", "1x1"]), help="Which convolution of a bottleneck strides [3x3, assumed]."
)
@click.option("--weights", metavar="KEY", help="Which state_dict of a training checkpoint, such as ema.")
@click.option("--input-shape", metavar="C,H,W", callback=_numbers(int, 3, "C,H,W"), help="What the model takes.")
@click.option(
    "--batch",
    "batches",
    metavar="MIN,OPT,MAX",
    multiple=True,
    callback=_batches,
    help="Batch sizes; repeat for engines that are tuned for several ranges [1,8,32].",
)
@click.option(
    "--precision",
    "variants",
    multiple=True,
    type=click.Choice(["fp32", "bf16", "fp16", "int8"]),
    help="A variant to make; repeat for several [all; int8 with --calibration].",
)
@click.option(
    "--calibration",
    metavar="PATH",
    type=click.Path(path_type=Path),
    help="Images for INT8: a folder, or .npy or .npz batches as the graph takes them.",
)
@click.option(
    "--calibration-table",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="A calibration.json of an earlier export of this model, instead of a pass over images.",
)
@click.option(
    "--calibration-method",
    type=click.Choice(["minmax", "percentile", "entropy", "mse"]),
    help="How ranges are clipped [what changes the answers to the images least, for each scheme].",
)
@click.option(
    "--evaluation",
    metavar="PATH",
    type=click.Path(path_type=Path),
    help="Images that INT8's accuracy is measured on, and its clipping chosen by: a folder with one folder a class; "
    "or see --evaluation-labels.",
)
@click.option(
    "--evaluation-labels",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Text, an image and its label a line.",
)
@click.option(
    "--max-drop",
    metavar="POINTS",
    type=float,
    help="Top-1 accuracy that INT8 may lose; the costliest layers go back to FP16 or FP32 until it is met [1.0].",
)
@click.option("--skip-bad-images", is_flag=True, help="Leave out images that cannot be read, and say which.")
@click.option(
    "--input",
    "input_dtype",
    type=click.Choice(["float32", "uint8"]),
    default="float32",
    show_default=True,
    help="uint8: bytes (N, H, W, C) in, with scale, mean and std inside the graph.",
)
@click.option("--mean", metavar="M,..", callback=_numbers(float, None, "numbers"), help="Per channel, of 0..1 values.")
@click.option("--std", metavar="S,..", callback=_numbers(float, None, "numbers"), help="Per channel, of 0..1 values.")
@click.option("--scale", metavar="X", type=float, help="What a byte is multiplied with [1/255].")
@click.option("--resize", metavar="N|H,W|none", callback=_size, help="N: the shorter side; H,W: exactly.")
@click.option("--crop", metavar="N|H,W|none", callback=_size, help="The center crop.")
@click.option(
    "--interpolation",
    type=click.Choice(["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]),
    help="Of the resize [bilinear].",
)
@click.option(
    "--color-order", type=click.Choice(["RGB", "BGR", "L"]), help="What the channels are [RGB, or L for one]."
)
@click.option("--labels", metavar="FILE", type=click.Path(path_type=Path), help="Text, one class a line.")
@click.option(
    "--reference",
    metavar="FILE.npz",
    type=click.Path(path_type=Path),
    help="Arrays input and output of your own code; checked before anything else.",
)
@click.option("--gate", "gates", metavar="V.FIGURE=X", multiple=True, callback=_gates, help="As fp16.max_error=0.02.")
@click.option(
    "--engine",
    type=click.Choice(["none", "auto", "tensorrt", "tensorrt-rtx"]),
    default="auto",
    show_default=True,
    help="What builds engines; auto: TensorRT for the GPU that is here, else TensorRT-RTX, which needs none.",
)
@click.option(
    "--engine-precision",
    "engine_precisions",
    multiple=True,
    type=click.Choice(["fp32", "fp16", "int8"]),
    help="What to build engines of; may be repeated [fp16; and int8 with TensorRT].",
)
@click.option(
    "--engine-capability",
    "engine_capabilities",
    metavar="X.Y",
    multiple=True,
    help="A GPU's compute capability that a TensorRT-RTX engine has to run on; may be repeated [8.0 and newer].",
)
@click.option("--engine-level", type=click.IntRange(0, 5), help="The builder's optimization level [its default].")
@click.option(
    "--engine-workspace", metavar="MB", type=click.IntRange(1, 2**20), help="Memory for one layer [all there is]."
)
@click.option("--version-compatible", is_flag=True, help="Newer TensorRT of the same major version may run the engine.")
@click.option("--hardware-compatible", is_flag=True, help="Other GPUs, from Ampere on, may run a TensorRT engine.")
@click.option("--trust", is_flag=True, help="Let code that the checkpoint holds run while it is read.")
@click.option("--force", is_flag=True, help="Replace the bundle at the destination.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output, the rest on standard error.")
@click.option("--quiet", is_flag=True, help="Only warnings and errors.")
@click.version_option(__version__, prog_name="resnet-export")
@click.pass_context
def command(context: click.Context, /, **arguments: Any) -> None:
    """Export the trained ResNet in MODEL to a verified bundle.

    MODEL is a state_dict, a training checkpoint that holds one (.pt, .pth, .safetensors), an .onnx file, a folder of
    Hugging Face's save_pretrained, or, with --trust, a pickled module, a TorchScript file or a .pt2 program. Or it is a
    bundle that stands, to which engines are added.
    """
    sys.exit(_run(context, arguments))


def main() -> None:
    """The entry point."""
    signal.signal(signal.SIGTERM, _terminate)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a path need not fit the terminal's encoding
    try:
        command.main(prog_name="resnet-export")
    finally:
        # At exit the interpreter would search millions of objects, most of them the tracer's, for cycles to free:
        # more than a second for memory that the system takes back anyway.
        gc.freeze()


def _terminate(number: int, frame: object) -> None:
    """Unwind, so that the staging folder is removed."""
    del frame
    sys.exit(128 + number)


def _run(context: click.Context, arguments: dict[str, Any]) -> int:
    from resnet_runtime.errors import ResnetRuntimeError

    from .errors import ResnetExportError, WriteError

    as_json = arguments["as_json"]
    try:
        from .cli_engines import is_bundle, run_on_bundle
        from .console import Console

        console = Console(quiet=arguments["quiet"], as_json=as_json)
        checkpoint: Path = arguments["checkpoint"]
        if is_bundle(checkpoint):
            added = run_on_bundle(context, console)
            return _shown(added.path, functools.partial(console.finish_engines, added), 0)
        from .pipeline import bundle_from_checkpoint

        destination = arguments["output"] or Path(f"{checkpoint.stem or 'model'}.bundle")
        result = bundle_from_checkpoint(checkpoint, destination, _options(arguments), console)
    except (ResnetExportError, ResnetRuntimeError) as error:
        return _fail(error, as_json)
    except ImportError as error:
        return _fail(_missing(error), as_json)
    except MemoryError:
        text = "the export needs more memory than this machine has: give a smaller --input-shape, if it is wrong"
        return _fail(ResnetExportError(text), as_json)
    except OSError as error:
        return _fail(WriteError(f"the system refused something while the model was exported: {error}"), as_json)
    asked = arguments["engine"] not in ("auto", "none") or arguments["engine_precisions"]
    status = (
        EXIT_VARIANT_DROPPED
        if result.dropped or (asked and result.engines is not None and result.engines.missing)
        else 0
    )
    return _shown(result.path, functools.partial(console.finish, result, status), status)


def _shown(path: Path, show: Callable[[], None], status: int) -> int:
    """The exit status of what is done, and only has to be shown."""
    from .errors import WriteError

    try:
        show()
        sys.stdout.flush()
    except OSError as error:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123  what is still buffered goes nowhere at exit
        _fail(WriteError(f"{path} is written, and standard output is not: {error.strerror}"), as_json=False)
        return 1
    return status


def _fail(error: ResnetExportError | ResnetRuntimeError, as_json: bool) -> int:
    """One sentence on standard error, and what belongs to it as a list; the exit status. Needs no package but click."""
    from resnet_runtime.cli_tables import printable, unicode_name

    message, *details = (unicode_name(text) for text in (error.message, *error.details))  # they may quote a path
    click.echo(f"{click.style('Error:', fg='red')} {printable(message)}", err=True)
    for line in details:
        click.echo(f"  {printable(line)}", err=True)
    if as_json:
        # ASCII, so that no terminal's encoding can break it.
        click.echo(json.dumps({"error": {"type": type(error).__name__, "message": message, "details": details}}))
    return error.exit_status


def _missing(error: ImportError) -> ResnetExportError:
    from .errors import ResnetExportError

    package = (error.name or "").partition(".")[0]
    what = f"the package {package!r}, which is not installed here" if package else f"what is not here: {error}"
    return ResnetExportError(f"the exporter needs {what}: pip install 'resnet-export[cpu]'")


def _options(arguments: dict[str, Any]) -> Any:
    import dataclasses

    from resnet_runtime.manifest import Resize

    from .cli_engines import batch_from_arguments, engines_from_arguments
    from .errors import RequestError
    from .options import (
        DEFAULT_LIMITS,
        VARIANTS,
        WITHOUT_IMAGES,
        CalibrationOptions,
        EvaluationOptions,
        ExportOptions,
        ModelOptions,
        PreprocessingOptions,
    )

    resize, crop = arguments["resize"], arguments["crop"]
    if isinstance(resize, tuple):
        interpolation = arguments["interpolation"] or "bilinear"
        mode = "shorter" if len(resize) == 1 else "exact"
        resize = Resize(mode=mode, size=resize, interpolation=interpolation, antialias=True)
    if isinstance(crop, tuple):
        crop = crop if len(crop) == 2 else crop * 2
    limits = {name: dataclasses.replace(DEFAULT_LIMITS[name], **arguments["gates"].get(name, {})) for name in VARIANTS}
    calibration = CalibrationOptions(
        images=arguments["calibration"],
        table=arguments["calibration_table"],
        skip_bad_images=arguments["skip_bad_images"],
        method=arguments["calibration_method"],
    )
    if arguments["max_drop"] is not None and arguments["evaluation"] is None:
        raise RequestError("--max-drop is measured on the images of --evaluation: give them too")
    chosen = tuple(name for name in VARIANTS if name in arguments["variants"]) or None
    for name in arguments["gates"]:
        if name not in (chosen or (VARIANTS if calibration.given else WITHOUT_IMAGES)):
            raise RequestError(f"--gate names {name}, and --precision leaves it out: take one of the two away")
    return ExportOptions(
        model=ModelOptions(
            arch=arguments["arch"],
            stride_in=arguments["stride_in"],
            weights=arguments["weights"],
            input_shape=arguments["input_shape"],
            trust=arguments["trust"],
            reference=arguments["reference"],
        ),
        preprocessing=PreprocessingOptions(
            resize=resize,
            crop=crop,
            mean=arguments["mean"],
            std=arguments["std"],
            scale=arguments["scale"],
            color_order=arguments["color_order"],
            interpolation=arguments["interpolation"],
            in_graph=arguments["input_dtype"] == "uint8",
        ),
        calibration=calibration,
        evaluation=EvaluationOptions(
            images=arguments["evaluation"],
            labels=arguments["evaluation_labels"],
            max_drop=1.0 if arguments["max_drop"] is None else arguments["max_drop"],
        ),
        variants=chosen,
        limits=limits,
        batch=batch_from_arguments(arguments),
        labels=arguments["labels"],
        force=arguments["force"],
        engines=engines_from_arguments(arguments),
    )
