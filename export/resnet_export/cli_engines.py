"""What the command line says of engines, and ``resnet-export BUNDLE``: engines for a bundle that stands."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

if TYPE_CHECKING:
    from resnet_runtime.manifest import Batch

    from .console import Console
    from .engine_stages import EnginesOptions, EnginesResult

OPTIONS = {
    "engine_precisions": "--engine-precision",
    "engine_capabilities": "--engine-capability",
    "engine_level": "--engine-level",
    "engine_workspace": "--engine-workspace",
    "version_compatible": "--version-compatible",
    "hardware_compatible": "--hardware-compatible",
}
"""What says how engines are built; one that is not given is None, False or empty."""

_FOR_A_BUNDLE = (*OPTIONS, "engine", "checkpoint", "batches", "as_json", "quiet")
_VARIANT = {"fp32": "fp32", "fp16": "fp16", "int8": "int8-tensorrt"}
_DEFAULT_BATCH = (1, 8, 32)


def is_bundle(path: Path) -> bool:
    """Whether it is a folder with a manifest, and so no checkpoint; not where the system refuses to say, for a name
    that is too long or a folder that may not be entered."""
    from resnet_runtime.manifest import MANIFEST_NAME

    try:
        return (path / MANIFEST_NAME).is_file()
    except OSError:
        return False


def run_on_bundle(context: click.Context, console: Console) -> EnginesResult:
    """Build and add.

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
    if context.get_parameter_source("engine") is ParameterSource.DEFAULT or arguments["engine"] == "none":
        raise RequestError(
            f"{arguments['checkpoint']} is a bundle already, to which engines can be added: "
            "say which with --engine tensorrt or --engine tensorrt-rtx"
        )
    options = engines_from_arguments(arguments)
    assert options is not None
    return engines_into_bundle(arguments["checkpoint"], options, console)


def batch_from_arguments(arguments: dict[str, Any]) -> Batch:
    """What the bundle takes: from the smallest to the largest of all, and the first one's best size.

    Raises:
        RequestError: one of them does not go up.
    """
    from resnet_runtime.manifest import Batch

    found = _profiles(arguments)
    if not found:
        smallest, optimal, largest = _DEFAULT_BATCH
        return Batch(smallest=smallest, optimal=optimal, largest=largest)
    return Batch(
        smallest=min(batch.smallest for batch in found),
        optimal=found[0].optimal,
        largest=max(batch.largest for batch in found),
    )


def engines_from_arguments(arguments: dict[str, Any]) -> EnginesOptions | None:
    """What is to be built; None where nothing is.

    Raises:
        RequestError: it makes no sense.
    """
    from .engine import EngineOptions
    from .engine_stages import EnginesOptions
    from .errors import RequestError

    if arguments["engine"] == "none":
        given = [option for name, option in OPTIONS.items() if _is_given(arguments[name])]
        if given:
            asks = "ask" if len(given) > 1 else "asks"
            raise RequestError(
                f"{', '.join(given)} {asks} for engines, and --engine none for none: leave one of them out"
            )
        return None
    workspace = arguments["engine_workspace"]
    return EnginesOptions(
        library=arguments["engine"],
        variants=tuple(_VARIANT[name] for name in dict.fromkeys(arguments["engine_precisions"])) or None,
        profiles=_profiles(arguments),
        build=EngineOptions(
            capabilities=arguments["engine_capabilities"],
            level=arguments["engine_level"],
            workspace=None if workspace is None else workspace * 2**20,
            version_compatible=arguments["version_compatible"],
            hardware_compatible=arguments["hardware_compatible"],
        ),
    )


def _is_given(value: object) -> bool:
    """0 is: it is a level."""
    return value is not None and value is not False and value != ()


def _profiles(arguments: dict[str, Any]) -> tuple[Batch, ...]:
    from resnet_runtime.manifest import Batch

    from .errors import RequestError

    for smallest, optimal, largest in arguments["batches"]:
        if not 1 <= smallest <= optimal <= largest:
            raise RequestError(
                f"--batch is {smallest},{optimal},{largest}, and goes up from MIN over OPT to MAX, from 1"
            )
    return tuple(
        Batch(smallest=smallest, optimal=optimal, largest=largest)
        for smallest, optimal, largest in arguments["batches"]
    )
