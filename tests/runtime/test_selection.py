"""``choose``: a pure function, so every host is made by hand."""

from __future__ import annotations

import pytest

from resnet_runtime.backends.base import EMULATED, NATIVE, BackendFacts
from resnet_runtime.errors import InputError, UnavailableError
from resnet_runtime.manifest import Manifest, Variant
from resnet_runtime.selection import Choice, choose

from .bundles import sample_files, sample_gate, sample_manifest

FILES = sample_files()
NO_OPENVINO = BackendFacts("openvino", None, "openvino is not installed here: pip install 'resnet-export[openvino]'")
NO_ONNXRUNTIME = BackendFacts(
    "onnxruntime", None, "onnxruntime is not installed here: pip install 'resnet-export[onnxruntime]'"
)
ONNXRUNTIME = BackendFacts("onnxruntime", "1.20", precisions={"fp32": NATIVE})

ALL = ("fp32", "bf16", "fp16", "int8")


def manifest(*precisions: str) -> Manifest:
    """With one variant a precision, in that order, each under an id of its own."""
    file = sample_manifest(FILES).variants[0].file
    variants = tuple(
        Variant(
            id=f"the-{precision}",
            precision=precision,
            scheme="cpu" if precision == "int8" else None,
            file=file,
            gate=sample_gate(),
        )
        for precision in precisions
    )
    return sample_manifest(FILES, variants=variants)


def openvino(**precisions: str) -> BackendFacts:
    return BackendFacts("openvino", "2026.0", precisions=precisions)


def taken(choice: Choice) -> tuple[str, str, str]:
    return choice.backend, choice.variant, choice.precision


@pytest.mark.parametrize(
    ("held", "host", "expected"),
    [
        (ALL, {"bf16": NATIVE, "fp16": NATIVE, "fp32": NATIVE}, ("openvino", "the-bf16", "bf16")),
        (("fp16", "fp32"), {"bf16": NATIVE, "fp16": NATIVE, "fp32": NATIVE}, ("openvino", "the-fp16", "fp16")),
        (ALL, {"fp16": NATIVE, "fp32": NATIVE}, ("openvino", "the-fp16", "fp16")),
        (ALL, {"fp32": NATIVE}, ("openvino", "the-fp32", "fp32")),
        (ALL, {"bf16": EMULATED, "fp16": EMULATED, "fp32": NATIVE}, ("openvino", "the-fp32", "fp32")),
        (ALL, {"bf16": EMULATED, "fp16": NATIVE, "fp32": NATIVE}, ("openvino", "the-fp16", "fp16")),
        (ALL, {"bf16": NATIVE}, ("openvino", "the-bf16", "bf16")),
        # Native FP32 in the slower library goes before an emulation in the faster one.
        (ALL, {"bf16": EMULATED}, ("onnxruntime", "the-fp32", "fp32")),
        (("fp32",), {"bf16": NATIVE}, ("onnxruntime", "the-fp32", "fp32")),
    ],
)
@pytest.mark.parametrize("swapped", [False, True])
def test_auto_takes_the_fastest_native_combination(
    held: tuple[str, ...], host: dict[str, str], expected: tuple[str, str, str], swapped: bool
) -> None:
    facts = [openvino(**host), ONNXRUNTIME]
    # Neither the order of the backends nor that of the variants is a preference.
    found = choose(manifest(*held[:: -1 if swapped else 1]), facts[:: -1 if swapped else 1])
    assert taken(found) == expected


def test_a_named_backend_is_the_only_one_looked_at() -> None:
    host = [openvino(bf16=NATIVE, fp32=NATIVE), ONNXRUNTIME]
    choice = choose(manifest(*ALL), host, backend="onnxruntime")
    assert taken(choice) == ("onnxruntime", "the-fp32", "fp32")
    assert choice.reasons == (
        "int8 on onnxruntime: this CPU has no int8 arithmetic, it would be another precision",
        "fp32 on onnxruntime: the fastest that this host computes natively",
    )


def test_a_named_precision_is_the_only_one_looked_at() -> None:
    choice = choose(manifest(*ALL), [openvino(bf16=NATIVE, fp32=NATIVE), ONNXRUNTIME], precision="fp32")
    assert taken(choice) == ("openvino", "the-fp32", "fp32")
    assert choice.reasons == ("fp32 on openvino: as asked for",)


def test_a_named_precision_may_be_emulated() -> None:
    choice = choose(manifest(*ALL), [openvino(bf16=EMULATED, fp32=NATIVE), ONNXRUNTIME], precision="bf16")
    assert taken(choice) == ("openvino", "the-bf16", "bf16")
    assert choice.reasons == ("bf16 on openvino: as asked for, emulated here",)


def test_every_combination_that_was_passed_over_has_its_reason() -> None:
    choice = choose(manifest("fp16", "fp32"), [openvino(fp16=EMULATED), ONNXRUNTIME])
    assert choice.reasons == (
        "int8 on openvino: not in the bundle",
        "bf16 on openvino: not in the bundle",
        "fp16 on openvino: emulated on this CPU, right but slow",
        "int8 on onnxruntime: not in the bundle",
        "fp32 on openvino: this CPU has no fp32 arithmetic, it would be another precision",
        "fp32 on onnxruntime: the fastest that this host computes natively",
    )


def test_a_faster_backend_that_is_missing_is_a_reason() -> None:
    choice = choose(manifest(*ALL), [NO_OPENVINO, ONNXRUNTIME])
    assert taken(choice) == ("onnxruntime", "the-fp32", "fp32")
    assert choice.reasons == (
        "openvino is not installed here: pip install 'resnet-export[openvino]'",
        "int8 on onnxruntime: this CPU has no int8 arithmetic, it would be another precision",
        "fp32 on onnxruntime: the fastest that this host computes natively",
    )


@pytest.mark.parametrize("precision", ["fp8", "", "FP32"])
def test_unknown_precision(precision: str) -> None:
    with pytest.raises(InputError) as caught:
        choose(manifest(*ALL), [ONNXRUNTIME], precision=precision)
    assert str(caught.value) == f"there is no precision {precision!r}: take auto, fp32, bf16, fp16, int8"


def test_unknown_backend() -> None:
    with pytest.raises(InputError) as caught:
        choose(manifest(*ALL), [NO_OPENVINO, ONNXRUNTIME], backend="cuda")
    assert str(caught.value) == "there is no backend 'cuda' to choose: take auto, openvino, onnxruntime"


def refusal(held: Manifest, host: list[BackendFacts], **request: str) -> UnavailableError:
    with pytest.raises(UnavailableError) as caught:
        choose(held, host, **request)
    return caught.value


def test_a_missing_backend_that_was_named_says_what_to_install() -> None:
    error = refusal(manifest(*ALL), [NO_OPENVINO, ONNXRUNTIME], backend="openvino")
    assert str(error) == "openvino is not installed here: pip install 'resnet-export[openvino]'"


def test_without_any_backend_each_is_listed() -> None:
    error = refusal(manifest(*ALL), [NO_OPENVINO, NO_ONNXRUNTIME])
    assert error.message == "no backend is installed here: install one of these"
    assert error.details == (NO_OPENVINO.missing, NO_ONNXRUNTIME.missing)


def test_a_precision_that_the_bundle_lacks() -> None:
    error = refusal(manifest("fp32", "int8"), [openvino(bf16=NATIVE, fp32=NATIVE)], precision="bf16")
    assert str(error) == "the bundle has no bf16 variant: it has the-fp32, the-int8"


def test_a_named_precision_that_no_backend_computes() -> None:
    error = refusal(manifest(*ALL), [openvino(fp32=NATIVE), ONNXRUNTIME], precision="fp16")
    assert error.message == "nothing in the bundle can be computed by openvino, onnxruntime on this host"
    assert error.details == (
        "fp16 on openvino: this CPU has no fp16 arithmetic, it would be another precision",
        "fp16 on onnxruntime: the backend onnxruntime does not run fp16 variants",
    )


def test_a_precision_that_the_named_backend_never_computes() -> None:
    error = refusal(manifest(*ALL), [openvino(bf16=NATIVE), ONNXRUNTIME], backend="onnxruntime", precision="bf16")
    assert error.message == "nothing in the bundle can be computed by onnxruntime on this host"
    assert error.details == ("bf16 on onnxruntime: the backend onnxruntime does not run bf16 variants",)


def test_a_backend_that_would_do_and_is_missing_is_listed() -> None:
    error = refusal(manifest(*ALL), [NO_OPENVINO, ONNXRUNTIME], precision="bf16")
    assert error.details == (
        "openvino is not installed here: pip install 'resnet-export[openvino]'",
        "bf16 on onnxruntime: the backend onnxruntime does not run bf16 variants",
    )


def test_a_bundle_of_int8_alone() -> None:
    error = refusal(manifest("int8"), [openvino(fp32=NATIVE), ONNXRUNTIME])
    assert error.message == "nothing in the bundle can be computed by openvino, onnxruntime on this host"
    assert error.details == (
        "int8 on openvino: this CPU has no int8 arithmetic, it would be another precision",
        "bf16 on openvino: not in the bundle",
        "fp16 on openvino: not in the bundle",
        "int8 on onnxruntime: this CPU has no int8 arithmetic, it would be another precision",
        "fp32 on openvino: not in the bundle",
        "fp32 on onnxruntime: not in the bundle",
    )


def test_auto_never_takes_an_emulation() -> None:
    error = refusal(manifest("bf16"), [openvino(bf16=EMULATED, fp32=NATIVE)])
    assert error.message == (
        "auto passed over all that the bundle has for openvino on this host: name the precision to take"
    )
    assert error.details[1] == "bf16 on openvino: emulated on this CPU, right but slow"
