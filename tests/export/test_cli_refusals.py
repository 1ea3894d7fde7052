"""``resnet-export`` on what it must refuse: one sentence that names the thing, and nothing left behind.

``refused`` asserts the exit status, the sentence in both of its forms, and that the working directory is as it was.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from resnet_export.resnet import ResNet
from tests.export.checkpoints import Payload
from tests.export.commands import SHAPE, invoked, refused

pytestmark = pytest.mark.usefixtures("here")

Reference = dict[str, np.ndarray]


def labels_refused(checkpoint: Path, data: bytes) -> str:
    Path("labels.txt").write_bytes(data)
    error = refused(checkpoint, *SHAPE, "--labels", "labels.txt")
    assert (error["type"], error["details"]) == ("RequestError", [])
    return error["message"]


def reference_refused(checkpoint: Path, **arrays: object) -> str:
    np.savez("reference.npz", **arrays)  # type: ignore[arg-type]
    error = refused(checkpoint, *SHAPE, "--reference", "reference.npz")
    assert (error["type"], error["details"]) == ("ReferenceFileError", [])
    return error["message"]


def checkpoint_refused(state: object, *arguments: str) -> dict[str, object]:
    torch.save(state, "model.pt")
    return refused("model.pt", *SHAPE, *arguments)


# The checkpoint


def test_a_truncated_checkpoint(tiny_checkpoint: Path) -> None:
    data = tiny_checkpoint.read_bytes()
    Path("model.pt").write_bytes(data[: len(data) // 2])
    error = refused("model.pt", *SHAPE)
    assert error["type"] == "CheckpointError"
    assert "model.pt" in error["message"]


def test_an_empty_checkpoint() -> None:
    Path("model.pt").touch()
    assert refused("model.pt")["message"] == "model.pt is empty: copy or download it again"


def test_a_picture_named_pt() -> None:
    Image.new("RGB", (8, 8)).save("cat.png")
    Path("cat.png").rename("model.pt")
    error = refused("model.pt")
    assert error["type"] == "CheckpointError"
    assert error["message"].startswith("model.pt is a PNG image")


def test_a_foreign_file() -> None:
    with zipfile.ZipFile("model.pt", "w") as archive:
        archive.writestr("letter.txt", "Dear reader")
    error = refused("model.pt")
    assert error["type"] == "CheckpointError"
    assert "model.pt" in error["message"]


def test_a_checkpoint_that_is_not_there() -> None:
    assert refused("model.pt")["message"] == "there is no file model.pt: check its name"


def test_a_state_dict_of_another_architecture() -> None:
    state = {
        **{f"features.{index}.weight": torch.zeros(8, 8, 3, 3) for index in (0, 2, 5, 7, 10)},
        **{f"classifier.{index}.weight": torch.zeros(8, 8) for index in (0, 3, 6)},
    }
    error = checkpoint_refused(state)
    assert error["type"] == "ArchitectureError"
    assert "VGG" in error["message"]


def test_a_missing_key(tiny_network: ResNet) -> None:
    state = tiny_network.state_dict()
    del state["layer2.0.bn1.weight"]
    error = checkpoint_refused(state)
    assert error["type"] == "ArchitectureError"
    assert any("layer2.0.bn1.weight" in line for line in error["details"])


def test_a_weight_that_is_not_a_number(tiny_network: ResNet) -> None:
    state = {name: tensor.clone() for name, tensor in tiny_network.state_dict().items()}
    state["layer1.0.conv1.weight"][0, 0, 0, 0] = float("nan")
    error = checkpoint_refused(state)
    assert error["type"] == "CheckpointError"
    assert "layer1.0.conv1.weight" in str(error)


def test_a_pickled_module_without_trust(tiny_network: ResNet) -> None:
    error = checkpoint_refused(tiny_network)
    assert error["type"] == "UntrustedError"
    assert "--trust" in error["message"]


def test_no_code_of_a_checkpoint_runs(here: Path, tiny_network: ResNet) -> None:
    error = checkpoint_refused({**tiny_network.state_dict(), "extra": Payload(here / "ran")})
    assert error["type"] == "UntrustedError"
    assert not (here / "ran").exists()


def test_an_architecture_that_is_unknown(tiny_checkpoint: Path) -> None:
    error = refused(tiny_checkpoint, "--arch", "resnet51")
    assert error["type"] == "ArchitectureError"
    assert error["message"].startswith("'resnet51' is not an architecture that is known here")


def test_a_stride_where_there_is_no_bottleneck(tiny_checkpoint: Path) -> None:
    error = refused(tiny_checkpoint, "--stride-in", "1x1")
    assert error["type"] == "ArchitectureError"
    assert error["message"].startswith("--stride-in is about bottleneck blocks")


def test_weights_that_are_not_there(tiny_checkpoint: Path) -> None:
    error = refused(tiny_checkpoint, "--weights", "ema")
    assert error["type"] == "CheckpointError"
    assert "ema" in error["message"]


# The numbers on the command line


def test_an_input_shape_of_other_channels(tiny_checkpoint: Path) -> None:
    error = refused(tiny_checkpoint, "--input-shape", "1,16,16")
    assert error["message"] == "--input-shape has 1 channels, and the model's first convolution takes 3"


@pytest.mark.parametrize(
    ("option", "value", "form"),
    [
        ("--input-shape", "3x16x16", "C,H,W"),
        ("--input-shape", "16,16", "C,H,W"),
        ("--input-shape", "3,0,16", "C,H,W"),
        ("--input-shape", "", "C,H,W"),
        ("--batch", "1,2", "MIN,OPT,MAX"),
        ("--batch", "1,2,4.5", "MIN,OPT,MAX"),
        ("--batch", "0,1,2", "MIN,OPT,MAX"),
        ("--batch", "1,1,2147483648", "MIN,OPT,MAX"),
        ("--mean", "a,b,c", "numbers"),
        ("--std", "1;2;3", "numbers"),
        ("--resize", "1,2,3", "N, H,W or none"),
        ("--resize", "0", "N, H,W or none"),
        ("--crop", "all", "N, H,W or none"),
    ],
)
def test_a_list_of_numbers_of_another_form(tiny_checkpoint: Path, option: str, value: str, form: str) -> None:
    error = refused(tiny_checkpoint, option, value)
    assert error["type"] == "RequestError"
    assert error["message"] == f"Invalid value for '{option}': {value!r} is not {form}; see resnet-export --help"


@pytest.mark.parametrize(
    "value", ["fp16", "fp16.max_error", "fp16.max_error=", "int4.max_error=1", "fp16.snr=1", "fp16.max_error=-1",
              "fp16.max_error=nan", "fp16.max_error=inf"]
)  # fmt: skip
def test_a_gate_of_another_form(tiny_checkpoint: Path, value: str) -> None:
    message = refused(tiny_checkpoint, "--gate", value)["message"]
    assert message.startswith(f"Invalid value for '--gate': {value!r} is not VARIANT.FIGURE=NUMBER")


@pytest.mark.parametrize("value", ["8,4,32", "1,64,32"])
def test_a_batch_that_does_not_go_up(tiny_checkpoint: Path, value: str) -> None:
    error = refused(tiny_checkpoint, *SHAPE, "--batch", value)
    assert error["message"] == f"--batch is {value}, and goes up from MIN over OPT to MAX, from 1"


@pytest.mark.parametrize("option", ["--mean", "--std"])
def test_statistics_of_the_wrong_count(tiny_checkpoint: Path, option: str) -> None:
    error = refused(tiny_checkpoint, *SHAPE, option, "0.5,0.25")
    assert error["message"] == f"{option} has 2 values, and the input has 3 channels: give one each"


@pytest.mark.parametrize("value", ["0.5,0,0.5", "0.5,-1,0.5", "0.5,inf,0.5", "nan"])
def test_a_deviation_that_cannot_divide(tiny_checkpoint: Path, value: str) -> None:
    error = refused(tiny_checkpoint, *SHAPE, "--std", value)
    shown = "nan,nan,nan" if value == "nan" else value
    assert error["message"] == f"--std is {shown}, and a deviation is over 0 and finite"


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_mean_that_is_not_finite(tiny_checkpoint: Path, value: str) -> None:
    error = refused(tiny_checkpoint, *SHAPE, "--mean", value)
    assert error["message"] == f"--mean is {value},{value},{value}, and a mean is a finite number"


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf"])
def test_a_scale_that_cannot_be_one(tiny_checkpoint: Path, value: str) -> None:
    error = refused(tiny_checkpoint, *SHAPE, "--scale", value)
    assert error["message"] == f"--scale is {value}, and what a byte is multiplied with is over 0 and finite"


def test_a_crop_to_another_size_than_the_models(tiny_checkpoint: Path) -> None:
    error = refused(tiny_checkpoint, *SHAPE, "--resize", "20", "--crop", "20")
    assert error["message"] == "--crop gives 20x20 pixels, and the model takes 16x16: set it by --input-shape C,H,W"


def test_an_unknown_value_of_an_option(tiny_checkpoint: Path) -> None:
    error = refused(tiny_checkpoint, "--precision", "int9")
    assert error["message"].startswith("Invalid value for '--precision': 'int9' is not one of ")


def test_an_unknown_option(tiny_checkpoint: Path) -> None:
    message = refused(tiny_checkpoint, "--compress")["message"]
    assert "--compress" in message
    assert message.endswith("; see resnet-export --help")


def test_a_refused_option_without_json_leaves_standard_output_empty() -> None:
    result = invoked("model.pt", "--precision", "int9")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("Error: Invalid value for '--precision'")
    assert result.stderr.count("\n") == 1


def test_no_model_at_all() -> None:
    assert refused()["message"] == "Missing argument 'MODEL'; see resnet-export --help"


# The reference


def test_a_reference_that_disagrees_lists_what_was_assumed(tiny_checkpoint: Path, tiny_reference: Reference) -> None:
    np.savez("reference.npz", input=tiny_reference["input"], output=tiny_reference["output"] * 1.5)
    error = refused(tiny_checkpoint, *SHAPE, "--reference", "reference.npz")
    assert error["type"] == "ReferenceFileError"
    assert error["message"].startswith("the model disagrees with the reference by ")
    assert "and 0.10% is allowed: one of the assumptions is wrong" in error["message"]
    assert [line.partition(":")[0] for line in error["details"]] == ["stem", "epsilon of BatchNorm"]


def test_a_reference_that_is_just_outside_the_tolerance(tiny_checkpoint: Path, tiny_reference: Reference) -> None:
    # The tolerance is 1e-3 of the spread; that of these answers is 1e-7 from float32 arithmetic alone.
    output = tiny_reference["output"].astype(np.float64)
    output[0, 0] += 2e-3 * np.ptp(output, axis=0).max()
    np.savez("reference.npz", input=tiny_reference["input"], output=output)
    message = refused(tiny_checkpoint, *SHAPE, "--reference", "reference.npz")["message"]
    assert message.startswith("the model disagrees with the reference by 0.20% of its spread, and 0.10% is allowed")


def test_a_reference_of_another_input_shape(tiny_checkpoint: Path, tiny_reference: Reference) -> None:
    message = reference_refused(
        tiny_checkpoint, input=tiny_reference["input"][..., :8], output=tiny_reference["output"]
    )
    assert message == (
        "the reference has an input of shape (N, 3, 16, 8), and the model is exported for (N, 3, 16, 16): "
        "set --input-shape 3,16,8"
    )


def test_a_reference_of_another_output_shape(tiny_checkpoint: Path, tiny_reference: Reference) -> None:
    message = reference_refused(tiny_checkpoint, input=tiny_reference["input"], output=tiny_reference["output"][:, :4])
    assert message == "the reference's output has the shape (4, 4), and the model's 'logits' has (4, 5)"


@pytest.mark.parametrize("missing", ["input", "output"])
def test_a_reference_without_an_array(tiny_checkpoint: Path, tiny_reference: Reference, missing: str) -> None:
    arrays = {name: array for name, array in tiny_reference.items() if name != missing}
    message = reference_refused(tiny_checkpoint, **arrays)
    assert message == f"the reference reference.npz has no array {missing!r}"


@pytest.mark.parametrize("shape", [(), (0, 3, 16, 16), (4,)])
def test_a_reference_without_samples(tiny_checkpoint: Path, shape: tuple[int, ...]) -> None:
    message = reference_refused(tiny_checkpoint, input=np.zeros(shape, np.float32), output=np.zeros(shape[:1]))
    assert message.startswith(f"the reference reference.npz has an input of {shape} float32")


@pytest.mark.parametrize("which", ["input", "output"])
def test_a_reference_that_is_not_finite(tiny_checkpoint: Path, tiny_reference: Reference, which: str) -> None:
    arrays = {name: array.copy() for name, array in tiny_reference.items()}
    arrays[which].flat[0] = np.inf
    assert reference_refused(tiny_checkpoint, **arrays) == (
        "the reference reference.npz holds values that are not finite"
    )


def test_a_reference_that_is_no_npz(tiny_checkpoint: Path) -> None:
    Path("reference.npz").write_text("input,output\n1,2\n")
    error = refused(tiny_checkpoint, *SHAPE, "--reference", "reference.npz")
    assert error["type"] == "ReferenceFileError"
    assert error["message"].startswith("the reference reference.npz is not an .npz file with numeric arrays")


def test_a_reference_that_is_one_array_alone(tiny_checkpoint: Path) -> None:
    np.save("reference.npy", np.zeros((4, 5)))
    error = refused(tiny_checkpoint, *SHAPE, "--reference", "reference.npy")
    assert error["message"] == (
        "the reference reference.npy is one array alone: save both by np.savez(path, input=..., output=...)"
    )


def test_no_pickle_in_a_reference_runs(here: Path, tiny_checkpoint: Path, tiny_reference: Reference) -> None:
    objects = np.empty(1, dtype=object)
    objects[0] = Payload(here / "ran")
    message = reference_refused(tiny_checkpoint, input=tiny_reference["input"], output=objects)
    assert message.startswith("the reference reference.npz is not an .npz file with numeric arrays")
    assert not (here / "ran").exists()


def test_a_reference_whose_reader_complains_in_several_lines(tiny_checkpoint: Path, tiny_reference: Reference) -> None:
    many = np.zeros(1, [(f"field{index}", np.float32) for index in range(1000)])  # a header over NumPy's limit
    message = reference_refused(tiny_checkpoint, input=many, output=tiny_reference["output"])
    assert message.startswith("the reference reference.npz is not an .npz file with numeric arrays")


def test_a_reference_that_is_not_there(tiny_checkpoint: Path) -> None:
    error = refused(tiny_checkpoint, *SHAPE, "--reference", "r.npz")
    assert error["message"] == "the reference r.npz cannot be read: No such file or directory"


# The labels


def test_labels_of_the_wrong_count(tiny_checkpoint: Path) -> None:
    assert labels_refused(tiny_checkpoint, b"a\nb\nc\nd\n") == (
        "--labels has 4 lines, and the model has 5 classes: give one line a class"
    )


def test_labels_that_are_not_utf8(tiny_checkpoint: Path) -> None:
    assert labels_refused(tiny_checkpoint, "a\nbär\n".encode("latin-1")) == (
        "the labels labels.txt are not UTF-8 text at byte 3"
    )


def test_labels_that_are_not_there(tiny_checkpoint: Path) -> None:
    error = refused(tiny_checkpoint, *SHAPE, "--labels", "labels.txt")
    assert error["message"] == "the labels labels.txt cannot be read: No such file or directory"


def test_a_gate_of_a_variant_that_is_not_made(tiny_checkpoint: Path) -> None:
    error = refused(tiny_checkpoint, *SHAPE, "--precision", "fp32", "--gate", "fp16.max_error=0.01")
    assert error["message"] == "--gate names fp16, and --precision leaves it out: take one of the two away"
