"""An engine is run before it ships, where the device that it is for is here: by the runtime, on check.npz."""

from __future__ import annotations

import dataclasses

from resnet_runtime.backends.base import signature_from_manifest
from resnet_runtime.backends.tensorrt.backend import TensorRTBackend
from resnet_runtime.backends.tensorrt.cuda import DeviceInfo
from resnet_runtime.backends.tensorrt.library import Library
from resnet_runtime.backends.tensorrt.loading import host_from_device
from resnet_runtime.bundle import Bundle
from resnet_runtime.engine_fit import misfit, verified_name
from resnet_runtime.errors import ResnetRuntimeError
from resnet_runtime.manifest import Engine, Variant
from resnet_runtime.parity import faults, parity, tie_of
from resnet_runtime.selection import Choice
from resnet_runtime.session import Session

from .engine import BuiltEngine, EngineRequest
from .engine_host import EngineHost
from .engine_inspection import inspected_convolutions, refuse_other_precisions
from .errors import EngineError
from .progress import Stage


def verified_engine(
    bundle: Bundle,
    engine: Engine,
    variant: Variant,
    request: EngineRequest,
    built: BuiltEngine,
    library: Library,
    device: DeviceInfo | None,
    host: EngineHost,
    stage: Stage,
) -> Engine:
    """The record, with ``verified_on`` where the engine could be run.

    Args:
        bundle: that the engine is for.
        engine: its record.
        variant: that it was built of.
        request: what of it.
        built: what came of that.
        library: that built it.
        device: that is here, or None.
        host: what runs it.
        stage: told of the figures.

    Raises:
        EngineError: it was built for the device here and cannot be run, computes a convolution in another precision, or
            is outside its variant's gate.
    """
    if device is None:
        return engine
    here = host_from_device(library, device)
    refusal = misfit(engine, here)
    if refusal is not None:
        stage.tell("it is for another GPU than the one here")
        return engine
    limits = variant.gate.limits
    check = bundle.check_data()
    try:
        backend = host.open(engine, built.data, signature_from_manifest(bundle.manifest), variant.precision)
        choice = Choice("tensorrt", variant.id, variant.precision, ("the engine is being verified",), engine.id)
        with Session(bundle, backend, choice, None) as session:
            if isinstance(backend, TensorRTBackend):
                inspected = inspected_convolutions(backend.engine, library.module)
                unseen = refuse_other_precisions(request, built.nodes, inspected)
                if unseen is not None:
                    stage.warn(unseen)
            measured = parity(check.outputs, session.infer(check.inputs), tie=tie_of(limits))
    except ResnetRuntimeError as error:
        raise EngineError(f"the engine {engine.id} does not run on {device.name}: {error.message}") from error
    found = faults(measured, limits)
    if found:
        raise EngineError(
            f"the engine {engine.id} does not compute on {device.name} what the model computed: {found[0]}",
            details=found[1:],
        )
    stage.tell(f"max error {measured.max_error:.2g} of the spread")
    return dataclasses.replace(engine, verified_on=verified_name(here))
