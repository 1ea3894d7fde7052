"""Real engines on a real GPU: answers, threads, graphs, arrays on the device, mismatches, and what is left behind."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from resnet_runtime.backends.base import Signature, TensorSpec
from resnet_runtime.backends.tensorrt.backend import TensorRTBackend
from resnet_runtime.backends.tensorrt.library import LIBRARIES, Library, library_named
from resnet_runtime.backends.tensorrt.loading import backend_from_engine, host_from_device
from resnet_runtime.backends.tensorrt.pycuda_device import cuda_device, device_info
from resnet_runtime.engine_fit import DEVICE, PORTABLE
from resnet_runtime.errors import BackendError, UnavailableError
from resnet_runtime.manifest import Batch, Engine, FileRecord
from tests.runtime.device_work import current_context

pytestmark = pytest.mark.gpu

FP16_ERROR = 0.02
"""Of the spread: the default gate of FP16 variants, whose weights and activations have 11 significant bits."""

LARGEST = 8
PROFILES = (Batch(smallest=1, optimal=1, largest=2), Batch(smallest=1, optimal=LARGEST, largest=LARGEST))
GROWTH = 32 * 2**20
"""Bytes that 10,000 calls may leave: 3 kB each would be seen, another process's few megabytes are not."""

Images = NDArray[np.float32]
Answers = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Built:
    """An engine, and what its network answers in FP32 by ONNX Runtime."""

    library: Library
    record: Engine
    data: bytes
    signature: Signature
    expected: Callable[[Images], Answers]

    def opened(self, **changes: Any) -> TensorRTBackend:
        """A backend on the first device, of the record with ``changes``."""
        record, cuda = dataclasses.replace(self.record, **changes), cuda_device()
        try:
            return backend_from_engine(record, self.data, self.signature, "fp16", self.library, cuda)
        except BaseException:
            cuda.close()
            raise

    def without_graphs(self) -> TensorRTBackend:
        """A backend that captures nothing."""
        cuda = cuda_device()
        with cuda.current():
            engine = self.library.module.Runtime(self.library.logger([])).deserialize_cuda_engine(self.data)
        return TensorRTBackend(engine, cuda, self.signature, "without graphs", graphs=False)

    def check(self, found: Answers, images: Images) -> None:
        for name, expected in self.expected(images).items():
            error = np.abs(found[name] - expected).max()
            spread = np.ptp(self.expected(all_images())[name])
            assert error <= FP16_ERROR * spread, f"{name}: {error:.3g} of a spread of {spread:.3g}"


def all_images() -> Images:
    from tests.export.int8_graphs import images

    return images(32)


def batch(count: int, seed: int = 0) -> Images:
    pool = all_images()
    return np.ascontiguousarray(pool[np.random.default_rng(seed).permutation(len(pool))[:count]])


@pytest.fixture(scope="module", params=LIBRARIES)
def built(request: pytest.FixtureRequest) -> Built:
    """For the GPU that is here, by each library that knows it."""
    for module in ("torch", "onnxruntime"):
        pytest.importorskip(module, reason=f"{module} is not installed: the network and its answers come from it")
    try:
        library, device = library_named(request.param), device_info()
    except UnavailableError as error:
        pytest.skip(error.message)
    if library.portable and device.capability not in library.capabilities:
        pytest.skip(f"{library.name} {library.version} knows no {device.name} ({device.capability})")
    return built_by(library)


def built_by(library: Library) -> Built:
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
    outputs = [(output.name, tuple(output.shape[1:])) for output in session.get_outputs()]

    def expected(array: Images) -> Answers:
        return dict(zip([name for name, _ in outputs], session.run(None, {graph.input_name: array}), strict=True))

    signature = Signature(
        TensorSpec(graph.input_name, np.dtype(np.float32), (3, SIDE, SIDE)),
        tuple(TensorSpec(name, np.dtype(np.float32), shape) for name, shape in outputs),
        largest_batch=LARGEST,
    )
    return Built(library, record, data, signature, expected)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@pytest.fixture
def torch() -> Any:
    module = pytest.importorskip("torch", reason="torch is not installed")
    if not module.cuda.is_available():
        pytest.skip("this build of torch has no CUDA")
    module.ones(1, device="cuda")
    return module


@pytest.fixture
def cupy() -> Any:
    module = pytest.importorskip("cupy", reason="CuPy is not installed")
    module.zeros(1)
    return module


@pytest.fixture(autouse=True)
def thread_s_context(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever is called, this thread's context is what it was; torch and CuPy make theirs current before."""
    for name in {"torch", "cupy"} & set(request.fixturenames):
        request.getfixturevalue(name)
    before = current_context()
    yield
    assert current_context() == before


def call(backend: TensorRTBackend, images: Images) -> Answers:
    found = backend.start({backend.signature.input.name: images}).result()
    return {name: np.asarray(array) for name, array in found.items()}


def test_the_answers_are_the_network_s(built: Built) -> None:
    with closing(built.opened()) as backend:
        assert built.library.version in backend.description
        for count in (1, 2, 3, LARGEST, 1, LARGEST):
            for seed in range(4):
                images = batch(count, seed)
                built.check(call(backend, images), images)
        with pytest.raises(BackendError, match="not of 9"):
            call(backend, batch(9))
        built.check(call(backend, batch(4)), batch(4))


def test_graphs_change_no_answer(built: Built) -> None:
    """The first call of a size is not a graph, the third is, where the runtime captures them."""
    with closing(built.opened()) as backend, closing(built.without_graphs()) as plain:
        for count in (1, 5, LARGEST):
            images = batch(count, count)
            expected = call(plain, images)
            built.check(expected, images)
            for round_ in range(6):
                call(backend, batch(count, round_))
                found = call(backend, images)
                built.check(found, images)
                if not built.library.portable:  # TensorRT-RTX swaps kernels as it has compiled better ones
                    for name, array in expected.items():
                        np.testing.assert_array_equal(found[name], array)


def test_calls_that_are_started_together_have_their_own_answers(built: Built) -> None:
    with closing(built.opened()) as backend:
        name = backend.signature.input.name
        images = [batch(1 + index % LARGEST, index) for index in range(24)]
        calls = [backend.start({name: array}) for array in images]
        for started, array in reversed(list(zip(calls, images, strict=True))):
            built.check(started.result(), array)


def test_eight_threads(built: Built) -> None:
    raised: list[BaseException] = []
    answers = [(images, built.expected(images)) for images in (batch(1 + seed, seed) for seed in range(LARGEST))]
    spread = np.ptp(built.expected(all_images())["logits"])

    def work(index: int) -> None:
        try:
            for round_ in range(100):
                images, expected = answers[(index + round_) % LARGEST]
                error = np.abs(call(backend, images)["logits"] - expected["logits"]).max()
                assert error <= FP16_ERROR * spread
            assert current_context() == 0
        except BaseException as error:
            raised.append(error)

    with closing(built.opened()) as backend:
        threads = [threading.Thread(target=work, args=(index,)) for index in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(300)
        assert not any(thread.is_alive() for thread in threads)
        assert raised == []


def test_it_may_be_closed_in_another_thread(built: Built) -> None:
    backend = built.opened()
    pending = backend.start({backend.signature.input.name: batch(3)})
    thread = threading.Thread(target=backend.close)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    built.check(pending.result(), batch(3))


@pytest.fixture
def needs_bindings() -> None:
    pytest.importorskip("cuda.bindings.driver", reason="cuda-bindings is not installed: device arrays need it")


@pytest.mark.usefixtures("needs_bindings")
@pytest.mark.parametrize("own_stream", [True, False])
def test_torch_s_arrays_are_read_and_written_where_they_are(built: Built, torch: Any, own_stream: bool) -> None:
    """On a stream of the caller's and on torch's default one; nothing waits before the answers are read."""
    stream = torch.cuda.Stream() if own_stream else torch.cuda.default_stream()
    name = built.signature.input.name
    with closing(built.opened()) as backend, torch.cuda.stream(stream):
        for seed in range(8):
            host = batch(1 + seed, seed)
            torch.cuda._sleep(2_000_000)  # what the input comes from takes its time
            images = torch.from_numpy(host).to("cuda", non_blocking=True) * 1.0
            given = torch.full((len(host), built.signature.outputs[0].shape[0]), torch.nan, device="cuda")
            handle = stream.cuda_stream if own_stream else None
            found = backend.start({name: images}, {"logits": given} if seed % 2 else None, handle).result()
            answers = {key: torch.as_tensor(value, device="cuda") for key, value in found.items()}
            if seed % 2:
                assert answers["logits"].data_ptr() == given.data_ptr()
            copied = {key: value.clone() for key, value in answers.items()}
            images.zero_()
            stream.synchronize()
            built.check({key: value.cpu().numpy() for key, value in copied.items()}, host)


@pytest.mark.usefixtures("needs_bindings")
def test_cupy_s_arrays_are_too(built: Built, cupy: Any) -> None:
    name = built.signature.input.name
    with closing(built.opened()) as backend, cupy.cuda.Stream(non_blocking=True) as stream:
        for seed in range(8):
            host = batch(1 + seed, seed)
            images = cupy.asarray(host) + cupy.float32(0)
            found = backend.start({name: images}, None, stream.ptr).result()
            answers = {key: cupy.asarray(value).copy() for key, value in found.items()}
            stream.synchronize()
            built.check({key: cupy.asnumpy(value) for key, value in answers.items()}, host)


@pytest.mark.usefixtures("needs_bindings")
def test_answers_on_the_device_outlive_the_backend(built: Built, torch: Any) -> None:
    host = batch(4)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        backend = built.opened()
        images = torch.from_numpy(host).to("cuda")
        found = backend.start({built.signature.input.name: images}, None, stream.cuda_stream).result()
        backend.close()
        answers = {key: torch.as_tensor(value, device="cuda").cpu().numpy() for key, value in found.items()}
    built.check(answers, host)
    del found
    assert float(torch.ones(3, device="cuda").sum()) == 3


def test_it_lives_beside_torch(built: Built, torch: Any) -> None:
    """Before, between and after; the contexts of the thread are torch's throughout."""

    def works() -> None:
        matrix = torch.eye(64, device="cuda") * 3
        assert float((matrix @ matrix).sum()) == 9 * 64
        assert torch.cuda.current_device() == 0

    works()
    before = current_context()
    for seed in range(3):
        with closing(built.opened()) as backend:
            works()
            images = batch(3, seed)
            built.check(call(backend, images), images)
            assert current_context() == before
            works()
        assert current_context() == before
        works()


@pytest.mark.parametrize("change", ["version", "device", "platform", "builder"])
def test_an_engine_for_something_else_says_what_it_is_for(built: Built, change: str) -> None:
    other = next(name for name in LIBRARIES if name != built.library.name)
    changes: dict[str, dict[str, Any]] = {
        "version": {"builder_version": "0.1"},
        "device": {"compute_capabilities": ("1.0",)},
        "platform": {"platform": "plan9-vax"},
        "builder": {"builder": other},
    }
    said = rf"the engine fp16-.* was built by .*, and here is .*: build one here with .* --engine {built.library.name}$"
    with pytest.raises(UnavailableError, match=said):
        built.opened(**changes[change])


@pytest.mark.parametrize("damage", ["cut", "noise"])
def test_a_damaged_engine_is_refused_in_a_sentence(built: Built, damage: str) -> None:
    data = built.data[: len(built.data) // 2] if damage == "cut" else b"\x5a" * 4096
    with pytest.raises(BackendError, match=r"cannot load the engine fp16-.*; build it anew with resnet-export"):
        dataclasses.replace(built, data=data).opened()
    with closing(built.opened()) as backend:
        built.check(call(backend, batch(2)), batch(2))


def in_use() -> tuple[int, int]:
    """Bytes of the device's memory, and of this process's."""
    driver: Any = importlib.import_module("pycuda.driver")
    cuda = cuda_device()
    with cuda.current():
        free, total = driver.mem_get_info()
    cuda.close()
    lines = Path("/proc/self/status").read_text().splitlines()
    resident = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))
    return total - free, resident


def no_growth(once: Callable[[int], None], calls: int) -> None:
    for index in range(calls // 10):
        once(index)
    before = in_use()
    for index in range(calls):
        once(index)
    grown = [after - start for after, start in zip(in_use(), before, strict=True)]
    assert max(grown) < GROWTH, f"{grown[0]} bytes on the device, {grown[1]} on the host"


def test_10_000_calls_leave_nothing(built: Built) -> None:
    images = [batch(1 + index, index) for index in range(LARGEST)]
    with closing(built.opened()) as backend:

        def once(index: int) -> None:
            call(backend, images[index % LARGEST])

        no_growth(once, 10_000)
        built.check(call(backend, images[4]), images[4])


@pytest.mark.usefixtures("needs_bindings")
def test_10_000_calls_on_the_device_leave_nothing(built: Built, torch: Any) -> None:
    images = [torch.from_numpy(batch(1 + index, index)).to("cuda") for index in range(LARGEST)]
    name = built.signature.input.name
    with closing(built.opened()) as backend:

        def once(index: int) -> None:
            backend.start({name: images[index % LARGEST]}).result()
            torch.cuda.synchronize()

        no_growth(once, 10_000)


def test_opening_and_closing_leaves_nothing(built: Built) -> None:
    def once(index: int) -> None:
        with closing(built.opened()) as backend:
            call(backend, batch(2, index))

    keeper = cuda_device()  # or the context itself would come and go
    try:
        no_growth(once, 30)
    finally:
        keeper.close()
