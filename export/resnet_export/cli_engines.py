"""``resnet-export BUNDLE --engine ...``: engines for a bundle that stands."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

if TYPE_CHECKING:
    from .console import Console
    from .engine_stages import EnginesOptions

OPTIONS = (
    "engine",
    "engine_capabilities",
    "engine_level",
    "engine_workspace",
    "version_compatible",
    "hardware_compatible",
)
"""What says how engines are built."""

_FOR_A_BUNDLE = (*OPTIONS, "checkpoint", "variants", "batch", "as_json", "quiet")
_VARIANT = {"fp32": "fp32", "fp16": "fp16", "int8": "int8-tensorrt"}


def is_bundle(path: Path) -> bool:
    """Whether it is a folder with a manifest, and so no checkpoint."""
    from resnet_runtime.manifest import MANIFEST_NAME

    return (path / MANIFEST_NAME).is_file()


def run_on_bundle(context: click.Context, console: Console) -> int:
    """Build and add; the exit status.

    Raises:
        ResnetExportError, ResnetRuntimeError: see ``engines_into_bundle``.
    """
    from .engine_stages import engines_into_bundle
    from .errors import RequestError

    arguments = context.params
    for parameter in context.command.params:
        name = str(parameter.name)
        if name not in _FOR_A_BUNDLE and context.get_parameter_source(name) is not ParameterSource.DEFAULT:
            raise RequestError(
                f"{parameter.opts[-1]} belongs to the export of a checkpoint, and {arguments['checkpoint']} is a "
                "bundle: leave it out"
            )
    if arguments["engine"] == "none":
        raise RequestError(
            f"{arguments['checkpoint']} is a bundle already, to which engines can be added: "
            "say which with --engine tensorrt or --engine tensorrt-rtx"
        )
    result = engines_into_bundle(arguments["checkpoint"], options_from_arguments(arguments), console)
    console.finish_engines(result)
    return 0


def refuse_engine_options(context: click.Context) -> None:
    """A checkpoint becomes a bundle first.

    Raises:
        RequestError: an option of ``OPTIONS`` was given.
    """
    from .errors import RequestError

    for parameter in context.command.params:
        given = context.get_parameter_source(str(parameter.name)) is not ParameterSource.DEFAULT
        if parameter.name in OPTIONS and given and context.params["engine"] != "none":
            raise RequestError(
                f"{parameter.opts[-1]} adds engines to a bundle: export the checkpoint first, then give the bundle"
            )


def options_from_arguments(arguments: dict[str, Any]) -> EnginesOptions:
    """What the command line says of engines.

    Raises:
        RequestError: it makes no sense.
    """
    from resnet_runtime.manifest import Batch

    from .engine import EngineOptions
    from .engine_stages import EnginesOptions
    from .errors import RequestError

    unknown = [name for name in arguments["variants"] if name not in _VARIANT]
    if unknown:
        raise RequestError(f"--precision {unknown[0]} has no engine: TensorRT computes {', '.join(_VARIANT)}")
    profiles: tuple[Batch, ...] = ()
    if arguments["batch"] is not None:
        smallest, optimal, largest = arguments["batch"]
        if not 1 <= smallest <= optimal <= largest:
            raise RequestError(
                f"--batch is {smallest},{optimal},{largest}, and goes up from MIN over OPT to MAX, from 1"
            )
        profiles = (Batch(smallest=smallest, optimal=optimal, largest=largest),)
    workspace = arguments["engine_workspace"]
    return EnginesOptions(
        library=arguments["engine"],
        variants=tuple(_VARIANT[name] for name in arguments["variants"]) or None,
        profiles=profiles,
        build=EngineOptions(
            capabilities=arguments["engine_capabilities"],
            level=arguments["engine_level"],
            workspace=None if workspace is None else workspace * 2**20,
            version_compatible=arguments["version_compatible"],
            hardware_compatible=arguments["hardware_compatible"],
        ),
    )
