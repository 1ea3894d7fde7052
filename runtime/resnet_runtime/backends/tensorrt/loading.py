"""From an engine's bytes to a backend: compared with the host, deserialized, and its runtime cache read.

TensorRT-RTX compiles an engine's kernels when they are first run. What it compiled is kept in the user's cache folder,
in a file for each engine, library version and GPU, so that the next process does not compile again; the library itself
refuses a cache that does not fit, and it is then made anew.
"""

from __future__ import annotations

import dataclasses
import platform
from contextlib import suppress
from pathlib import Path
from typing import Any

from resnet_runtime.backends.base import Signature
from resnet_runtime.engine_fit import VERSIONS, Host, build_command, misfit
from resnet_runtime.errors import BackendError, UnavailableError
from resnet_runtime.manifest import Engine
from resnet_runtime.user_cache import cache_folder, keep

from .backend import TensorRTBackend
from .cuda import Cuda, DeviceInfo
from .library import Library


def host_from_device(library: Library, device: DeviceInfo) -> Host:
    """What an engine would run on here."""
    system = f"{platform.system().lower()}-{platform.machine().lower()}"
    builds = not library.portable or device.capability in library.capabilities
    return Host(library.name, library.version, system, device.name, device.capability, device.driver, builds)


def backend_from_engine(
    engine: Engine,
    data: bytes,
    signature: Signature,
    precision: str,
    library: Library,
    cuda: Cuda,
    *,
    graphs: bool = True,
) -> TensorRTBackend:
    """Load an engine.

    Args:
        engine: of a manifest.
        data: its bytes, of which the digest was checked.
        signature: of the bundle; the backend's has the largest batch that the engine was built for.
        precision: of the variant, for the description.
        library: of the builder's name.
        cuda: the device; it is the backend's, and closed where none is made.
        graphs: whether CUDA graphs are used, by the backend or by TensorRT-RTX itself.

    Raises:
        UnavailableError: it was built for another library, version or device.
        BackendError: the library cannot deserialize it, or there is no memory to run it.
    """
    try:
        return _backend(engine, data, signature, precision, library, cuda, graphs)
    except BaseException:
        cuda.close()
        raise


def _backend(
    engine: Engine, data: bytes, signature: Signature, precision: str, library: Library, cuda: Cuda, graphs: bool
) -> TensorRTBackend:
    host = host_from_device(library, cuda.info)
    refusal = misfit(engine, host)
    if refusal is not None:
        raise UnavailableError(refusal)
    messages: list[str] = []
    logger = library.logger(messages)
    runtime = library.module.Runtime(logger)
    if engine.compatibility.endswith(VERSIONS):
        # Such an engine brings the lean runtime of the version that built it, which is code for the host: TensorRT
        # loads it only where that is allowed. No other engine has to run code of its own, and none may.
        runtime.engine_host_code_allowed = True
    with cuda.current():
        loaded = runtime.deserialize_cuda_engine(data)
        if loaded is None:
            why = next(reversed(messages), "it gives no reason")
            raise BackendError(
                f"{library.name} {library.version} cannot load the engine {engine.id}: {why}; build it anew with "
                f"{build_command(library.name, precision)}"
            )
        save = None
        if library.portable:
            loaded = RuntimeCache(loaded, library, cache_file(engine, host), graphs)
            save = loaded.save
    description = f"{library.name} {library.version} on {cuda.info.name}, {precision}" + (
        "" if graphs else ", no CUDA graphs"
    )
    return TensorRTBackend(
        loaded,
        cuda,
        dataclasses.replace(signature, largest_batch=max(profile.largest for profile in engine.profiles)),
        description,
        graphs=graphs and not library.portable,
        on_close=save,
    )


def cache_file(engine: Engine, host: Host) -> Path:
    """Where what TensorRT-RTX compiled of an engine is kept."""
    name = f"{engine.file.sha256[:24]}-{host.version}-sm{host.capability.replace('.', '')}.cache"
    return cache_folder("tensorrt-rtx") / name


class RuntimeCache:
    """An ``ICudaEngine`` of TensorRT-RTX whose contexts share a runtime cache, and capture their graphs themselves.

    Args:
        engine: an ``ICudaEngine``.
        library: TensorRT-RTX.
        path: of the cache; what cannot be read is made anew.
        graphs: whether it captures graphs.
    """

    def __init__(self, engine: Any, library: Library, path: Path, graphs: bool = True) -> None:
        self._engine = engine
        self._path = path
        self._config = engine.create_runtime_config()
        strategy = library.module.CudaGraphStrategy
        self._config.cuda_graph_strategy = strategy.WHOLE_GRAPH_CAPTURE if graphs else strategy.DISABLED
        self._cache = self._config.create_runtime_cache()
        self._known = b""
        with suppress(OSError):
            data = path.read_bytes()
            if self._cache.deserialize(data):
                self._known = data
        self._config.set_runtime_cache(self._cache)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def create_execution_context(self) -> Any:
        """With the cache."""
        return self._engine.create_execution_context(self._config)

    def save(self) -> None:
        """Keep what was compiled; a disk that cannot is no reason to fail."""
        found = self._cache.serialize()
        data = b"" if found is None else bytes(found)
        if not data or data == self._known:
            return
        keep(self._path, data)
