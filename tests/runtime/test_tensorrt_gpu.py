"""Real engines on a real GPU: answers, threads, graphs, arrays on the device, mismatches, and what is left behind."""

from __future__ import annotations

import dataclasses
import importlib
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resnet_runtime.backends.tensorrt.backend import TensorRTBackend
from resnet_runtime.backends.tensorrt.cuda import OutOfMemoryError
from resnet_runtime.backends.tensorrt.library import LIBRARIES, library_named
from resnet_runtime.backends.tensorrt.pycuda_device import cuda_device, device_info
from resnet_runtime.errors import BackendError, UnavailableError
from tests.runtime.device_work import current_context
from tests.runtime.gpu_engines import (
    FP16_ERROR,
    LARGEST,
    Answers,
    Built,
    Images,
    Kernel,
    KernelBuilt,
    Opens,
    all_images,
    batch,
    built_by,
    kernel_built,
)
from tests.runtime.threads import in_threads

pytestmark = pytest.mark.gpu

GROWTH = 32 * 2**20
"""Bytes that 10,000 calls may leave: 3 kB each would be seen, another process's few megabytes are not."""


def library_built(name: str) -> Built:
    """For the GPU that is here, by a library that knows it."""
    for module in ("torch", "onnxruntime"):
        pytest.importorskip(module, reason=f"{module} is not installed: the network and its answers come from it")
    try:
        library, device = library_named(name), device_info()
    except UnavailableError as error:
        pytest.skip(error.message)
    if library.portable and device.capability not in library.capabilities:
        pytest.skip(f"{library.name} {library.version} knows no {device.name} ({device.capability})")
    return built_by(library)


@pytest.fixture(scope="module", params=LIBRARIES)
def engine(request: pytest.FixtureRequest) -> Built:
    """An engine."""
    return library_built(request.param)


@pytest.fixture(scope="module")
def kernel() -> KernelBuilt:
    """A kernel in an engine's place."""
    pytest.importorskip("cuda.bindings.driver", reason="cuda-bindings is not installed: the kernel needs it")
    pytest.importorskip("torch", reason="torch is not installed: the images come from it")
    return kernel_built()


@pytest.fixture(scope="module", params=[*LIBRARIES, "kernel"])
def built(request: pytest.FixtureRequest) -> Opens:
    """Each library's engine, and the kernel."""
    if request.param == "kernel":
        found: Opens = request.getfixturevalue("kernel")
        return found
    return library_built(request.param)


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


def test_the_answers_are_the_network_s(built: Opens) -> None:
    with closing(built.opened()) as backend:
        assert built.says in backend.description
        for count in (1, 2, 3, LARGEST, 1, LARGEST):
            for seed in range(4):
                images = batch(count, seed)
                built.check(call(backend, images), images)
        with pytest.raises(BackendError, match="not of 9"):
            call(backend, batch(9))
        built.check(call(backend, batch(4)), batch(4))


def test_graphs_change_no_answer(built: Opens) -> None:
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
                if built.repeats:
                    for name, array in expected.items():
                        np.testing.assert_array_equal(found[name], array)


def test_calls_that_are_started_together_have_their_own_answers(built: Opens) -> None:
    with closing(built.opened()) as backend:
        name = backend.signature.input.name
        images = [batch(1 + index % LARGEST, index) for index in range(24)]
        calls = [backend.start({name: array}) for array in images]
        for started, array in reversed(list(zip(calls, images, strict=True))):
            built.check(started.result(), array)


def test_eight_threads(built: Opens) -> None:
    answers = [(images, built.expected(images)) for images in (batch(1 + seed, seed) for seed in range(LARGEST))]
    spread = np.ptp(built.expected(all_images())["logits"])

    def work(index: int) -> None:
        for round_ in range(100):
            images, expected = answers[(index + round_) % LARGEST]
            error = np.abs(call(backend, images)["logits"] - expected["logits"]).max()
            assert error <= FP16_ERROR * spread
        assert current_context() == 0

    with closing(built.opened()) as backend:
        in_threads(8, work, 300)


def test_it_may_be_closed_in_another_thread(built: Opens) -> None:
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
def test_torch_s_arrays_are_read_and_written_where_they_are(built: Opens, torch: Any, own_stream: bool) -> None:
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
def test_cupy_s_arrays_are_too(built: Opens, cupy: Any) -> None:
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
def test_answers_on_the_device_outlive_the_backend(built: Opens, torch: Any) -> None:
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


def test_it_lives_beside_torch(built: Opens, torch: Any) -> None:
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
def test_an_engine_for_something_else_says_what_it_is_for(engine: Built, change: str) -> None:
    other = next(name for name in LIBRARIES if name != engine.library.name)
    changes: dict[str, dict[str, Any]] = {
        "version": {"builder_version": "0.1"},
        "device": {"compute_capabilities": ("1.0",)},
        "platform": {"platform": "plan9-vax"},
        "builder": {"builder": other},
    }
    said = (
        rf"the engine fp16-.* was built by .*, and here is .*: build one here with .* --engine {engine.library.name}$"
    )
    with pytest.raises(UnavailableError, match=said):
        engine.opened(**changes[change])


@pytest.mark.parametrize("damage", ["cut", "noise"])
def test_a_damaged_engine_is_refused_in_a_sentence(engine: Built, damage: str) -> None:
    data = engine.data[: len(engine.data) // 2] if damage == "cut" else b"\x5a" * 4096
    with pytest.raises(BackendError, match=r"cannot load the engine fp16-.*; build it anew with resnet-export"):
        dataclasses.replace(engine, data=data).opened()
    with closing(engine.opened()) as backend:
        engine.check(call(backend, batch(2)), batch(2))


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


def test_10_000_calls_leave_nothing(built: Opens) -> None:
    images = [batch(1 + index, index) for index in range(LARGEST)]
    with closing(built.opened()) as backend:

        def once(index: int) -> None:
            call(backend, images[index % LARGEST])

        no_growth(once, 10_000)
        built.check(call(backend, images[4]), images[4])


@pytest.mark.usefixtures("needs_bindings")
def test_10_000_calls_on_the_device_leave_nothing(built: Opens, torch: Any) -> None:
    images = [torch.from_numpy(batch(1 + index, index)).to("cuda") for index in range(LARGEST)]
    name = built.signature.input.name
    with closing(built.opened()) as backend:

        def once(index: int) -> None:
            backend.start({name: images[index % LARGEST]}).result()
            torch.cuda.synchronize()

        no_growth(once, 10_000)


def test_opening_and_closing_leaves_nothing(built: Opens) -> None:
    def once(index: int) -> None:
        with closing(built.opened()) as backend:
            call(backend, batch(2, index))

    keeper = cuda_device()  # or the context itself would come and go
    try:
        no_growth(once, 30)
    finally:
        keeper.close()


def test_a_graph_takes_the_kernel_s_place(kernel: KernelBuilt) -> None:
    with closing(kernel.opened(contexts=1)) as backend, closing(kernel.opened(contexts=1, graphs=False)) as plain:
        for index in range(10):
            for opened in (backend, plain):
                images = batch(4, index)
                kernel.check(call(opened, images), images)
        assert backend.engine.executed == 3, "the first call, the second one, and its capture"
        assert plain.engine.executed == 10


def test_calls_that_are_started_together_overlap(kernel: KernelBuilt) -> None:
    """Four slots have streams of their own: four kernels that idle for about 50 ms take as long as one or two."""
    images = batch(2)
    with closing(kernel.opened(contexts=4)) as backend:
        name = backend.signature.input.name
        for started in [backend.start({name: images}) for _ in range(4)]:
            started.result()
        backend.engine.cycles = 100_000_000

        def seconds(together: int) -> float:
            start = time.perf_counter()
            for started in [backend.start({name: images}) for _ in range(together)]:
                kernel.check(started.result(), images)
            return time.perf_counter() - start

        alone = seconds(1)
        assert alone > 0.02
        assert seconds(4) < 2 * alone


def test_a_call_returns_before_the_device_is_done(kernel: KernelBuilt, torch: Any) -> None:
    """On the caller's stream nothing waits: ``result()`` is there while the kernel still idles."""
    stream = torch.cuda.Stream()
    with closing(kernel.opened()) as backend, torch.cuda.stream(stream):
        images = torch.from_numpy(batch(3)).to("cuda")
        stream.synchronize()
        backend.engine.cycles = 100_000_000
        found = backend.start({backend.signature.input.name: images}, None, stream.cuda_stream).result()
        assert not stream.query()
        stream.synchronize()
        kernel.check({"logits": torch.as_tensor(found["logits"], device="cuda").cpu().numpy()}, batch(3))


def test_a_batch_that_the_device_has_no_room_for_leaves_nothing(kernel: KernelBuilt) -> None:
    huge = dataclasses.replace(kernel.signature, largest_batch=2**28)
    before = in_use()
    with pytest.raises(OutOfMemoryError, match="out of memory"):
        dataclasses.replace(kernel, signature=huge).opened()
    assert in_use()[0] - before[0] < GROWTH
    with closing(kernel.opened()) as backend:
        kernel.check(call(backend, batch(2)), batch(2))


def broken_backend() -> list[str]:
    """What a backend says whose kernel wrote where nothing is: that call, the next, and those of another size."""
    built, said = kernel_built(), []
    backend = built.opened(contexts=2)
    built.check(call(backend, batch(2)), batch(2))
    assert isinstance(backend.engine, Kernel)
    backend.engine.breaks = True
    for size in (2, 2, 3):
        try:
            call(backend, batch(size))
            said.append("nothing")
        except BackendError as error:
            said.append(error.message)
    backend.close()
    return said


def test_a_context_that_breaks_fails_every_later_call_and_is_closed_in_peace(kernel: KernelBuilt) -> None:
    """In a process of its own, which can do nothing on the device afterwards."""
    code = "from tests.runtime.test_tensorrt_gpu import *\nprint(*broken_backend(), sep='\\n', flush=True)"
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=False)
    first, *later = done.stdout.splitlines()
    assert "illegal" in first, done.stderr
    assert len(later) == 2
    for line in later:
        assert line.startswith("the device's context broke in an earlier call, and only a new process has another one")
    assert done.returncode == 0, done.stderr
