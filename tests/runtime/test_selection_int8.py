"""When ``auto`` takes int8: only what was measured to be faster, on this backend and such a CPU."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import pytest

from resnet_runtime.backends.base import EMULATED, NATIVE, BackendFacts
from resnet_runtime.errors import UnavailableError
from resnet_runtime.manifest import Manifest, Speed, Variant
from resnet_runtime.selection import MIN_INT8_SPEEDUP, Choice, choose

from .bundles import sample_files, sample_gate, sample_manifest

FILES = sample_files()
VNNI, AMX = "avx512_vnni", "amx_int8"


def speed(
    ratio: float, *, backend: str = "openvino", against: str = "fp32", instructions: str = VNNI, batch: int = 1
) -> Speed:
    return Speed(backend=backend, against=against, ratio=ratio, batch=batch, instructions=instructions)


def manifest(*speeds: Speed, schemes: tuple[str, ...] = ("cpu",), others: tuple[str, ...] = ("fp32",)) -> Manifest:
    """fp32 and the like, and an int8 variant a scheme; ``speeds`` are those of the last."""
    file = sample_manifest(FILES).variants[0].file
    variants = [
        Variant(id=precision, precision=precision, scheme=None, file=file, gate=sample_gate()) for precision in others
    ]
    variants += [
        Variant(id=f"int8-{scheme}", precision="int8", scheme=scheme, file=file, gate=sample_gate())
        for scheme in schemes
    ]
    variants[-1] = dataclasses.replace(variants[-1], speeds=speeds)
    return sample_manifest(FILES, variants=tuple(variants))


def facts(name: str = "openvino", *, instructions: str = VNNI, **precisions: str) -> BackendFacts:
    given: Mapping[str, str] = precisions or {"fp32": NATIVE, "int8": NATIVE}
    return BackendFacts(name, "1", precisions=given, instructions=instructions)


def taken(choice: Choice) -> tuple[str, str]:
    return choice.backend, choice.variant


def test_int8_is_taken_where_it_was_measured_to_be_faster() -> None:
    choice = choose(manifest(speed(2.125)), [facts()])
    assert taken(choice) == ("openvino", "int8-cpu")
    assert choice.precision == "int8"
    assert choice.reasons == (
        "int8 on openvino: the fastest that this host computes natively, measured 2.12 times as fast as fp32",
    )


def test_int8_goes_before_the_16_bit_precisions() -> None:
    host = [facts(int8=NATIVE, bf16=NATIVE, fp16=NATIVE, fp32=NATIVE)]
    held = manifest(speed(1.5, against="bf16"), others=("fp32", "bf16", "fp16"))
    assert taken(choose(held, host)) == ("openvino", "int8-cpu")
    assert taken(choose(manifest(others=("fp32", "bf16")), host)) == ("openvino", "bf16")


PASSED_OVER = {
    "never measured": ((), "never measured on openvino, so that it may be slower than another variant"),
    "on another backend": (
        (speed(3.0, backend="onnxruntime"),),
        "never measured on openvino, so that it may be slower than another variant",
    ),
    "too slow": ((speed(1.2),), "measured 1.2 times as fast as fp32, below 1.3"),
    "hardly too slow": ((speed(1.2999),), "measured 1.29 times as fast as fp32, below 1.3"),
    "slower": ((speed(0.456, against="bf16"),), "measured 0.45 times as fast as bf16, below 1.3"),
    "on another CPU": (
        (speed(3.0, instructions=AMX),),
        "measured on a CPU with amx_int8, and this one has avx512_vnni",
    ),
    "on a CPU without": (
        (speed(3.0, instructions="none"),),
        "measured on a CPU with no integer dot products, and this one has avx512_vnni",
    ),
    "on an unknown CPU": (
        (speed(3.0, instructions="unknown"),),
        "measured on a CPU with unknown instructions, and this one has avx512_vnni",
    ),
    "at one batch of two": (
        (speed(2.0), speed(1.1, batch=32)),
        "measured 1.1 times as fast as fp32, below 1.3",
    ),
    "here, and faster there": (
        (speed(3.0, instructions=AMX), speed(1.1)),
        "measured 1.1 times as fast as fp32, below 1.3",
    ),
}


@pytest.mark.parametrize(("speeds", "reason"), PASSED_OVER.values(), ids=PASSED_OVER.keys())
def test_int8_is_passed_over_with_the_reason(speeds: tuple[Speed, ...], reason: str) -> None:
    choice = choose(manifest(*speeds), [facts()])
    assert taken(choice) == ("openvino", "fp32")
    assert choice.reasons == (
        f"int8 on openvino: {reason}",
        "bf16 on openvino: not in the bundle",
        "fp16 on openvino: not in the bundle",
        "fp32 on openvino: the fastest that this host computes natively",
    )
    # A person who names it gets it all the same.
    named = choose(manifest(*speeds), [facts()], precision="int8")
    assert taken(named) == ("openvino", "int8-cpu")
    assert named.reasons == ("int8 on openvino: as asked for",)


def test_the_least_speedup_is_enough() -> None:
    assert taken(choose(manifest(speed(MIN_INT8_SPEEDUP)), [facts()])) == ("openvino", "int8-cpu")


def test_a_figure_of_a_cpu_without_integer_dot_products_holds_on_such_a_cpu() -> None:
    held = manifest(speed(1.6, instructions="none"))
    assert taken(choose(held, [facts(instructions="none")])) == ("openvino", "int8-cpu")


def test_an_unknown_cpu_is_not_like_another_unknown_one() -> None:
    choice = choose(manifest(speed(3.0, instructions="unknown")), [facts(instructions="unknown")])
    assert taken(choice) == ("openvino", "fp32")
    assert choice.reasons[0] == (
        "int8 on openvino: measured on a CPU with unknown instructions, and this one has unknown instructions"
    )


def test_onnxruntime_in_int8_goes_before_openvino_in_fp32() -> None:
    host = [facts(fp32=NATIVE), facts("onnxruntime")]
    choice = choose(manifest(speed(2.5, backend="onnxruntime")), host)
    assert taken(choice) == ("onnxruntime", "int8-cpu")
    assert choice.reasons[0] == "int8 on openvino: this CPU has no int8 arithmetic, it would be another precision"
    assert taken(choose(manifest(speed(1.2, backend="onnxruntime")), host)) == ("openvino", "fp32")


def test_each_backend_goes_by_its_own_figure() -> None:
    held = manifest(speed(1.1), speed(2.5, backend="onnxruntime"))
    assert taken(choose(held, [facts(), facts("onnxruntime")])) == ("onnxruntime", "int8-cpu")


def test_an_emulated_int8_is_taken_by_name_alone() -> None:
    host = [facts(int8=EMULATED, fp32=NATIVE)]
    assert taken(choose(manifest(speed(3.0)), host)) == ("openvino", "fp32")
    assert choose(manifest(), host, precision="int8").reasons == ("int8 on openvino: as asked for, emulated here",)


def test_the_variant_of_the_backends_scheme_is_taken() -> None:
    for schemes in (("tensorrt", "cpu"), ("cpu", "tensorrt")):
        choice = choose(manifest(schemes=schemes), [facts()], precision="int8")
        assert taken(choice) == ("openvino", "int8-cpu")
    for_tensorrt = dataclasses.replace(facts(), scheme="tensorrt")
    choice = choose(manifest(schemes=("tensorrt", "cpu")), [for_tensorrt], precision="int8")
    assert taken(choice) == ("openvino", "int8-tensorrt")


def test_int8_for_tensorrt_alone_is_passed_over_on_a_cpu() -> None:
    choice = choose(manifest(speed(9.0), schemes=("tensorrt",)), [facts()])
    assert taken(choice) == ("openvino", "fp32")
    assert choice.reasons[0] == (
        "int8 on openvino: int8-tensorrt is quantized for TensorRT, and openvino runs the scheme 'cpu'"
    )


def test_int8_for_tensorrt_alone_is_refused_on_a_cpu_by_name() -> None:
    with pytest.raises(UnavailableError) as caught:
        choose(manifest(schemes=("tensorrt",)), [facts(), facts("onnxruntime")], precision="int8")
    assert str(caught.value) == (
        "int8-tensorrt is quantized for TensorRT, and openvino runs the scheme 'cpu': "
        "export the model with a variant for that too, or take another precision"
    )


def test_a_bundle_of_unmeasured_int8_alone_says_how_to_have_it() -> None:
    with pytest.raises(UnavailableError) as caught:
        choose(manifest(others=()), [facts()])
    assert caught.value.message == (
        "auto passed over all that the bundle has for openvino on this host: name the precision to take"
    )
    assert caught.value.details[0].startswith("int8 on openvino: never measured on openvino")
