"""What the tests on a real GPU open: engines of each library that knows it, and a small kernel in an engine's place.

The kernel stands for the execution context where no library knows the GPU, so that contexts, streams, pinned copies,
graphs, arrays on the device, threads and errors are tested all the same.
"""

from __future__ import annotations

import ctypes
import dataclasses
import hashlib
import importlib
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from resnet_runtime.backends.base import Signature, TensorSpec
from resnet_runtime.backends.tensorrt.backend import TensorRTBackend
from resnet_runtime.backends.tensorrt.cuda import Cuda
from resnet_runtime.backends.tensorrt.library import Library
from resnet_runtime.backends.tensorrt.loading import backend_from_engine, host_from_device
from resnet_runtime.backends.tensorrt.pycuda_device import cuda_device, device_info
from resnet_runtime.engine_fit import DEVICE, PORTABLE
from resnet_runtime.manifest import Batch, Engine, FileRecord

FP16_ERROR = 0.02
"""Of the spread: the default gate of FP16 variants, whose weights and activations have 11 significant bits."""

LARGEST = 8
PROFILES = (Batch(smallest=1, optimal=1, largest=2), Batch(smallest=1, optimal=LARGEST, largest=LARGEST))

Images = NDArray[np.float32]
Answers = dict[str, NDArray[np.float32]]


class Opens(Protocol):
    """What the tests open, and what it has to answer."""

    @property
    def signature(self) -> Signature:
        """Of the backends."""

    @property
    def repeats(self) -> bool:
        """Whether the same input has the same answer to the last bit, each time."""

    @property
    def says(self) -> str:
        """What stands in the description."""

    def opened(self) -> TensorRTBackend:
        """A backend on the first device."""

    def without_graphs(self) -> TensorRTBackend:
        """A backend that captures nothing."""

    def expected(self, images: Images) -> Answers:
        """What is to be answered."""

    def check(self, found: Answers, images: Images) -> None:
        """Assert that it is."""


def all_images() -> Images:
    from tests.export.int8_graphs import images

    return images(32)


def batch(count: int, seed: int = 0) -> Images:
    pool = all_images()
    return np.ascontiguousarray(pool[np.random.default_rng(seed).permutation(len(pool))[:count]])


@dataclass(frozen=True)
class Built:
    """An engine, and what its network answers in FP32 by ONNX Runtime."""

    library: Library
    record: Engine
    data: bytes
    signature: Signature
    session: Any

    @property
    def repeats(self) -> bool:
        return not self.library.portable  # TensorRT-RTX swaps kernels as it has compiled better ones

    @property
    def says(self) -> str:
        return self.library.version

    def opened(self, **changes: Any) -> TensorRTBackend:
        """Of the record with ``changes``."""
        record, cuda = dataclasses.replace(self.record, **changes), cuda_device()
        try:
            return backend_from_engine(record, self.data, self.signature, "fp16", self.library, cuda)
        except BaseException:
            cuda.close()
            raise

    def without_graphs(self) -> TensorRTBackend:
        cuda = cuda_device()
        with cuda.current():
            engine = self.library.module.Runtime(self.library.logger([])).deserialize_cuda_engine(self.data)
        return TensorRTBackend(engine, cuda, self.signature, "without graphs", graphs=False)

    def expected(self, images: Images) -> Answers:
        names = [spec.name for spec in self.signature.outputs]
        return dict(zip(names, self.session.run(names, {self.signature.input.name: images}), strict=True))

    def check(self, found: Answers, images: Images) -> None:
        for name, expected in self.expected(images).items():
            error = np.abs(found[name] - expected).max()
            spread = np.ptp(self.expected(all_images())[name])
            assert error <= FP16_ERROR * spread, f"{name}: {error:.3g} of a spread of {spread:.3g}"


def built_by(library: Library) -> Built:
    """Of a small folded network in FP16, for the GPU that is here."""
    import onnxruntime

    from resnet_export.engine import EngineOptions, EngineRequest, engine_from_request
    from resnet_export.observe import observation_from_graph
    from resnet_export.passes.to_fp16 import Fp16Options, to_fp16
    from tests.export.int8_graphs import SIDE, folded, images

    device, graph = device_info(), folded("basic")
    half = to_fp16(graph, observation_from_graph(graph, images(4)).ranges, Fp16Options()).graph
    request = EngineRequest(
        name="fp16",
        model=half.to_bytes(),
        precision="fp16",
        kept=frozenset(),
        input=(graph.input_name, (3, SIDE, SIDE)),
        profiles=PROFILES,
    )
    capabilities = (device.capability,) if library.portable else ()
    data = engine_from_request(request, library, EngineOptions(capabilities=capabilities)).data
    record = Engine(
        id=f"fp16-{library.name}",
        variant="fp16",
        file=FileRecord(path="engines/fp16.engine", sha256=hashlib.sha256(data).hexdigest(), size=len(data)),
        builder=library.name,
        builder_version=library.version,
        platform=host_from_device(library, device).platform,
        gpu=None if library.portable else device.name,
        compute_capabilities=(device.capability,),
        compatibility=PORTABLE if library.portable else DEVICE,
        profiles=PROFILES,
        verified_on=None,
    )
    session = onnxruntime.InferenceSession(graph.to_bytes(), providers=["CPUExecutionProvider"])
    signature = Signature(
        TensorSpec(graph.input_name, np.dtype(np.float32), (3, SIDE, SIDE)),
        tuple(
            TensorSpec(output.name, np.dtype(np.float32), tuple(output.shape[1:])) for output in session.get_outputs()
        ),
        largest_batch=LARGEST,
    )
    return Built(library, record, data, signature, session)


LOGITS = 10
CYCLES = 200_000
"""That the kernel idles first, so that whoever does not wait for it comes too early: about 0.1 ms."""

# For compute capability 7.5, TensorRT's oldest, and on: the driver compiles it. One block an image, one thread a logit.
TWICE_AND_ONE = """
.version 6.3
.target sm_75
.address_size 64

.visible .entry answer(.param .u64 images, .param .u64 logits, .param .u32 stride, .param .u64 cycles)
{
    .reg .pred %p;
    .reg .b32 %r<6>;
    .reg .f32 %f<2>;
    .reg .b64 %d<8>;
    ld.param.u64 %d1, [cycles];
    mov.u64 %d2, %clock64;
idle:
    mov.u64 %d3, %clock64;
    sub.u64 %d3, %d3, %d2;
    setp.lt.u64 %p, %d3, %d1;
    @%p bra idle;
    mov.u32 %r1, %ctaid.x;
    mov.u32 %r2, %tid.x;
    ld.param.u32 %r3, [stride];
    mad.lo.u32 %r4, %r1, %r3, %r2;
    ld.param.u64 %d4, [images];
    mul.wide.u32 %d5, %r4, 4;
    add.u64 %d4, %d4, %d5;
    ld.f32 %f1, [%d4];
    add.f32 %f1, %f1, %f1;
    add.f32 %f1, %f1, 0f3F800000;
    mov.u32 %r5, %ntid.x;
    mad.lo.u32 %r4, %r1, %r5, %r2;
    ld.param.u64 %d6, [logits];
    mul.wide.u32 %d7, %r4, 4;
    add.u64 %d6, %d6, %d7;
    st.f32 [%d6], %f1;
    ret;
}
"""


class Kernel:
    """An ``ICudaEngine`` whose answers are ``2 x + 1`` of each image's first ``LOGITS`` values.

    Args:
        cuda: the device, its context current.
        signature: with one output, ``logits``.
        cycles: of the device's clock that each call idles.

    Attributes:
        executed: how often a context was run or captured; the launch of a graph does not count.
        breaks: whether it writes where nothing is from now on, which breaks the context.
    """

    def __init__(self, cuda: Cuda, signature: Signature, cycles: int = CYCLES) -> None:
        self._driver: Any = importlib.import_module("cuda.bindings.driver")
        self._signature = signature
        self.cycles = cycles
        self.executed = 0
        self.breaks = False
        module = self.checked(self._driver.cuModuleLoadData(TWICE_AND_ONE.encode() + b"\0"))
        self.function = self.checked(self._driver.cuModuleGetFunction(module, b"answer"))
        self._specs = (signature.input, *signature.outputs)
        self.num_io_tensors = len(self._specs)
        self.num_optimization_profiles = len(PROFILES)

    def get_tensor_name(self, index: int) -> str:
        return self._specs[index].name

    def get_tensor_mode(self, name: str) -> Any:
        return _Named("INPUT" if name == self._signature.input.name else "OUTPUT")

    def get_tensor_dtype(self, name: str) -> Any:
        return _Named("FLOAT")

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (-1, *next(spec.shape for spec in self._specs if spec.name == name))

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        sizes = PROFILES[profile]
        return [(size, *self.get_tensor_shape(name)[1:]) for size in (sizes.smallest, sizes.optimal, sizes.largest)]

    def create_execution_context(self) -> KernelContext:
        return KernelContext(self)

    def launch(self, count: int, stride: int, addresses: dict[str, int], stream: int) -> None:
        """Queue the kernel on ``count`` images of ``stride`` values each."""
        self.executed += 1
        logits = 0 if self.breaks else addresses["logits"]
        values = (addresses[self._signature.input.name], logits, stride, self.cycles)
        kinds = (ctypes.c_uint64, ctypes.c_uint64, ctypes.c_uint32, ctypes.c_uint64)
        grid, block = (count, 1, 1), (LOGITS, 1, 1)
        self.checked(self._driver.cuLaunchKernel(self.function, *grid, *block, 0, stream, (values, kinds), 0))

    @staticmethod
    def checked(answer: tuple[Any, ...]) -> Any:
        status, *values = answer
        assert int(status) == 0, status
        return values[0] if values else None


@dataclass(frozen=True)
class _Named:
    name: str


class KernelContext:
    """An ``IExecutionContext`` that launches the kernel."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._shape: tuple[int, ...] = ()
        self._addresses: dict[str, int] = {}

    def set_optimization_profile_async(self, index: int, stream: int) -> bool:
        return 0 <= index < len(PROFILES)

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._shape = tuple(shape)
        return True

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        self._kernel.launch(self._shape[0], int(np.prod(self._shape[1:])), self._addresses, stream)
        return True


@dataclass(frozen=True)
class KernelBuilt:
    """The kernel in the place of an engine: every answer is exact."""

    signature: Signature
    repeats: bool = True
    says: str = "a kernel"

    def opened(self, **options: Any) -> TensorRTBackend:
        """With options of ``TensorRTBackend``."""
        cuda = cuda_device()
        try:
            with cuda.current():
                kernel = Kernel(cuda, self.signature)
            return TensorRTBackend(kernel, cuda, self.signature, self.says, **options)
        except BaseException:
            cuda.close()
            raise

    def without_graphs(self) -> TensorRTBackend:
        return self.opened(graphs=False)

    def expected(self, images: Images) -> Answers:
        return {"logits": images.reshape(len(images), -1)[:, :LOGITS] * np.float32(2) + np.float32(1)}

    def check(self, found: Answers, images: Images) -> None:
        np.testing.assert_array_equal(found["logits"], self.expected(images)["logits"])


def kernel_built() -> KernelBuilt:
    from tests.export.int8_graphs import SIDE

    logits = TensorSpec("logits", np.dtype(np.float32), (LOGITS,))
    return KernelBuilt(
        Signature(TensorSpec("images", np.dtype(np.float32), (3, SIDE, SIDE)), (logits,), largest_batch=LARGEST)
    )
