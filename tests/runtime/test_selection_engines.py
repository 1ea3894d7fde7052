"""When an engine is taken: one of the bundle's, that fits what is here, before all that a CPU could do."""

from __future__ import annotations

import dataclasses

import pytest

from resnet_runtime.backends.base import NATIVE, BackendFacts
from resnet_runtime.engine_fit import PORTABLE, Host
from resnet_runtime.errors import UnavailableError
from resnet_runtime.manifest import Batch, Engine, FileRecord, Manifest, Variant
from resnet_runtime.selection import choose, engines_for

from .bundles import sample_files, sample_gate, sample_manifest

FILES = sample_files()
CPU = BackendFacts("openvino", "1", precisions={"fp32": NATIVE})
RTX = Host("tensorrt-rtx", "1.7", "linux-x86_64", "NVIDIA L4", "8.9")
FULL = Host("tensorrt", "10.13", "linux-x86_64", "NVIDIA L4", "8.9")


def facts(*hosts: Host) -> BackendFacts:
    computed = dict.fromkeys(("fp32", "fp16", "int8"), NATIVE)
    return BackendFacts("tensorrt", "1.7", precisions=computed, scheme="tensorrt", hosts=hosts)


def engine(name: str, variant: str, **changes: object) -> Engine:
    made = Engine(
        id=name,
        variant=variant,
        file=FileRecord(path=f"engines/{name}.engine", sha256="0" * 64, size=1),
        builder="tensorrt-rtx",
        builder_version="1.7",
        platform="linux-x86_64",
        gpu=None,
        compute_capabilities=("8.6", "8.9"),
        compatibility=PORTABLE,
        profiles=(Batch(smallest=1, optimal=4, largest=8),),
        verified_on=None,
    )
    return dataclasses.replace(made, **changes)


def manifest(*engines: Engine) -> Manifest:
    file = sample_manifest(FILES).variants[0].file
    variants = (
        Variant(id="fp32", precision="fp32", scheme=None, file=file, gate=sample_gate()),
        Variant(id="fp16", precision="fp16", scheme=None, file=file, gate=sample_gate()),
        Variant(id="int8-tensorrt", precision="int8", scheme="tensorrt", file=file, gate=sample_gate()),
    )
    return sample_manifest(FILES, variants=variants, engines=engines)


def test_an_engine_that_fits_goes_before_a_cpu() -> None:
    choice = choose(manifest(engine("half", "fp16")), [facts(RTX), CPU])
    assert (choice.backend, choice.variant, choice.engine) == ("tensorrt", "fp16", "half")
    assert choice.reasons[-1] == "fp16 on tensorrt: the fastest that this host computes natively"


def test_int8_that_nobody_timed_is_taken_only_when_it_is_asked_for() -> None:
    held = manifest(engine("half", "fp16"), engine("bytes", "int8-tensorrt"))
    assert choose(held, [facts(RTX), CPU]).engine == "half"
    assert choose(held, [facts(RTX), CPU], precision="int8").engine == "bytes"


def test_an_engine_that_was_verified_goes_before_one_that_was_not() -> None:
    held = manifest(engine("first", "fp16"), engine("second", "fp16", verified_on="NVIDIA L4"))
    assert choose(held, [facts(RTX)]).engine == "second"


def test_one_that_does_not_fit_is_passed_over_for_one_that_does() -> None:
    other = engine("other", "fp16", compute_capabilities=("12.0",), verified_on="NVIDIA B40")
    assert choose(manifest(other, engine("half", "fp16")), [facts(RTX)]).engine == "half"


def test_without_an_engine_the_cpu_is_taken_and_the_command_is_said() -> None:
    choice = choose(manifest(), [facts(RTX), CPU])
    assert (choice.backend, choice.engine) == ("openvino", None)
    said = "fp16 on tensorrt: no engine in the bundle: resnet-export BUNDLE --engine tensorrt-rtx builds one here"
    assert said in choice.reasons
    for precision in ("fp32", "int8"):
        command = f"resnet-export BUNDLE --engine tensorrt-rtx --engine-precision {precision}"
        assert f"{precision} on tensorrt: no engine in the bundle: {command} builds one here" in choice.reasons


def test_where_tensorrt_rtx_builds_nothing_for_the_gpu_the_command_names_tensorrt() -> None:
    host = dataclasses.replace(RTX, gpu="NVIDIA H200", capability="9.0", builds=False)
    choice = choose(manifest(), [facts(host), CPU])
    said = "fp16 on tensorrt: no engine in the bundle: resnet-export BUNDLE --engine tensorrt builds one here"
    assert said in choice.reasons


def test_an_engine_of_another_device_is_a_reason() -> None:
    choice = choose(manifest(engine("half", "fp16", compute_capabilities=("12.0",))), [facts(RTX), CPU])
    assert choice.backend == "openvino"
    (reason,) = [text for text in choice.reasons if text.startswith("fp16 on tensorrt")]
    assert "was built by TensorRT-RTX 1.7 for compute capability 12.0 on linux-x86_64" in reason
    assert "and here is NVIDIA L4 with compute capability 8.9" in reason


def test_either_library_may_have_built_it() -> None:
    held = manifest(
        engine("full", "fp16", builder="tensorrt", builder_version="10.13", gpu="NVIDIA L4", compatibility="device"),
        engine("half", "fp16", compute_capabilities=("12.0",)),
    )
    choice = choose(held, [facts(FULL, RTX), CPU])
    assert choice.engine == "full"


def test_tensorrt_alone_without_an_engine_is_refused() -> None:
    with pytest.raises(UnavailableError) as caught:
        choose(manifest(), [facts(RTX)], backend="tensorrt")
    assert any("no engine in the bundle" in text for text in caught.value.details)


def test_one_that_was_verified_here_goes_before_one_that_was_verified_elsewhere() -> None:
    held = manifest(
        engine("first", "fp16"),
        engine("second", "fp16", verified_on="NVIDIA A10, tensorrt-rtx 1.7"),
        engine("third", "fp16", verified_on="NVIDIA L4, tensorrt-rtx 1.7"),
    )
    variant = held.variants[1]
    found, refusal = engines_for(held, variant, facts(RTX))
    assert ([item.id for item in found], refusal) == (["third", "second", "first"], None)
    assert engines_for(held, variant, CPU) == ((), "the backend runs no engines")


def test_what_was_refused_is_passed_over_with_its_reason() -> None:
    held = manifest(engine("first", "fp16"), engine("second", "fp16"), engine("whole", "fp32"))
    assert choose(held, [facts(RTX), CPU], refused={"first": "it is wrong"}).engine == "second"
    both = {"first": "it is wrong", "second": "so is it"}
    choice = choose(held, [facts(RTX), CPU], refused=both)
    assert choice.engine == "whole"
    assert "fp16 on tensorrt: it is wrong; so is it" in choice.reasons
    choice = choose(held, [facts(RTX), CPU], refused={**both, "whole": "and the third"})
    assert (choice.backend, choice.engine) == ("openvino", None)
    with pytest.raises(UnavailableError) as caught:
        choose(held, [facts(RTX)], refused={**both, "whole": "and the third"})
    assert "fp32 on tensorrt: and the third" in caught.value.details
    assert caught.value.message == "nothing in the bundle can be computed by tensorrt on this host"
    with pytest.raises(UnavailableError) as caught:
        choose(held, [facts(RTX), CPU], precision="fp16", refused=both)
    assert "fp16 on tensorrt: it is wrong; so is it" in caught.value.details
