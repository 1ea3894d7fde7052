"""TensorRT and TensorRT-RTX on PyCUDA: they run a bundle's engines, which resnet-export builds of its variants."""

from __future__ import annotations

import functools

from resnet_runtime.backends.base import NATIVE, Backend, BackendFacts, Signature
from resnet_runtime.errors import UnavailableError
from resnet_runtime.manifest import Engine

from .pycuda_device import cuda_device, device_info

NAME = "tensorrt"


@functools.cache
def facts() -> BackendFacts:
    """Which of the libraries are here, on which device. Makes no context on it."""
    try:
        device = device_info()
    except UnavailableError as error:
        return BackendFacts(NAME, None, missing=error.message, scheme="tensorrt", hosts=())
    from .library import LIBRARIES, library_named  # where there is no device nobody waits for these
    from .loading import host_from_device

    hosts, missing = [], []
    for name in LIBRARIES:
        try:
            hosts.append(host_from_device(library_named(name), device))
        except UnavailableError as error:
            missing.append(error.message)
    if not hosts:
        return BackendFacts(NAME, None, missing=missing[0], scheme="tensorrt", hosts=())
    computed = dict.fromkeys(("fp32", "fp16", "int8"), NATIVE)  # an engine is what was built
    return BackendFacts(NAME, hosts[0].version, precisions=computed, scheme="tensorrt", hosts=tuple(hosts))


def open_engine(engine: Engine, data: bytes, signature: Signature, precision: str) -> Backend:
    """Load an engine on the first device.

    Args:
        engine: of a manifest.
        data: its bytes, of which the digest was checked.
        signature: of the bundle.
        precision: of the variant.

    Raises:
        UnavailableError: it was built for something else than what is here.
        BackendError: it cannot be loaded.
    """
    from .library import library_named
    from .loading import backend_from_engine

    library = library_named(engine.builder)
    return backend_from_engine(engine, data, signature, precision, library, cuda_device())
