"""From training to serving on real images: `make demo`.

Trains a small ResNet on scikit-learn's 1797 scanned digits (8x8 pixels, real handwriting), saves model.pt as a training
loop would, exports it with `resnet-export` to FP32, bf16, FP16 and INT8, calibrated on training images and gated by
its accuracy on others, runs the bundle with `resnet-run` on held-out digits as image files, and compares the accuracy
of each variant with eager PyTorch's.
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

import resnet_runtime
from resnet_export.emulate import answers_from_emulation
from resnet_export.graph import graph_from_bytes
from resnet_export.resnet import ResNet
from resnet_export.resnet_config import ResNetConfig

SIZE = 32
MEAN, STD = 0.3, 0.35
EPOCHS = 12
EVALUATED = 300
"""Images that the accuracy gate is measured on; not trained with."""
CALIBRATED = 128
FOLDER = Path("build/demo")
BIN = Path(sys.executable).parent
A_VARIANT_IS_MISSING = 3
"""The status of an export whose bundle lacks a variant that did not pass its gate: the others can be run."""


def main() -> None:
    """Train, export, run, compare."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    images, held_out, labels, held_out_labels = digit_images()
    model = train(images[EVALUATED:], labels[EVALUATED:])
    save_evaluation_images(images[:EVALUATED], labels[:EVALUATED])
    save_images(images[EVALUATED : EVALUATED + CALIBRATED], labels[EVALUATED:], "calibration")
    batch = normalized(held_out)
    with torch.inference_mode():
        eager = model(batch).numpy()
    save(model, batch, eager)
    files = save_images(held_out, held_out_labels, "held-out")

    run(
        "resnet-export", f"{FOLDER}/model.pt", "-o", f"{FOLDER}/model.bundle", "--input-shape", f"1,{SIZE},{SIZE}",
        "--mean", str(MEAN), "--std", str(STD), "--labels", f"{FOLDER}/labels.txt",
        "--reference", f"{FOLDER}/reference.npz",
        "--calibration", f"{FOLDER}/calibration", "--evaluation", f"{FOLDER}/evaluation", "--max-drop", "0.5",
    )  # fmt: skip
    run("resnet-run", f"{FOLDER}/model.bundle", *files[:3], "--top", "2")
    compare(eager, files, held_out_labels)
    print("""
Next, on a model of your own:
  resnet-export your_model.pt --labels classes.txt --reference reference.npz
  resnet-run --check your_model.bundle
  resnet-run your_model.bundle photo.jpg""")


def digit_images() -> tuple[list[Image.Image], list[Image.Image], np.ndarray, np.ndarray]:
    """Gray 8x8 images, three quarters to train with."""
    digits = load_digits()
    pixels = np.rint(digits.images * 255 / 16).astype(np.uint8)
    images = [Image.fromarray(array) for array in pixels]
    train_images, test_images, train_labels, test_labels = train_test_split(
        images, digits.target, test_size=0.25, stratify=digits.target, random_state=0
    )
    return train_images, test_images, train_labels, test_labels


def normalized(images: list[Image.Image]) -> torch.Tensor:
    """The training's own preprocessing: (N, 1, 32, 32) float32."""
    arrays = [np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BILINEAR)) for image in images]
    return ((torch.from_numpy(np.stack(arrays)).float() / 255 - MEAN) / STD).unsqueeze(1)


def train(images: list[Image.Image], labels: np.ndarray) -> ResNet:
    """A ResNet with CIFAR's stem and three stages, SGD with a one-cycle schedule and shifts of up to 3 pixels."""
    torch.manual_seed(0)
    config = ResNetConfig(
        block="basic",
        layers=(1, 1, 1),
        widths=(16, 32, 64),
        stem="cifar",
        in_channels=1,
        classes=10,
        width_per_group=64,
    )
    model = ResNet(config)
    inputs, targets = normalized(images), torch.from_numpy(labels)
    batch_size = 64
    steps = EPOCHS * (len(inputs) // batch_size)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=steps)
    start = time.perf_counter()
    for epoch in range(EPOCHS):
        total = 0.0
        for indices in torch.randperm(len(inputs))[: len(inputs) // batch_size * batch_size].split(batch_size):
            shifts = torch.randint(-3, 4, (2,)).tolist()
            loss = nn.functional.cross_entropy(model(inputs[indices].roll(shifts, (2, 3))), targets[indices])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        mean = total * batch_size / len(inputs)
        print(f"epoch {epoch + 1:2} of {EPOCHS}, loss {mean:.3f}, {time.perf_counter() - start:.0f} s", flush=True)
    return model.eval()


def save(model: ResNet, batch: torch.Tensor, eager: np.ndarray) -> None:
    """What a training loop leaves, and what --reference takes: a few inputs and what this code made of them."""
    torch.save({"model": model.state_dict(), "epoch": EPOCHS}, FOLDER / "model.pt")
    np.savez(FOLDER / "reference.npz", input=batch[:8].numpy(), output=eager[:8])
    (FOLDER / "labels.txt").write_text("".join(f"digit {number}\n" for number in range(10)))


def save_images(images: list[Image.Image], labels: np.ndarray, name: str) -> list[str]:
    """PNG files of 8x8 pixels; the bundle knows how to resize them."""
    folder = FOLDER / name
    folder.mkdir()
    files = [str(folder / f"{index:03}-is-{label}.png") for index, label in enumerate(labels[: len(images)])]
    for image, file in zip(images, files, strict=True):
        image.save(file)
    return files


def save_evaluation_images(images: list[Image.Image], labels: np.ndarray) -> None:
    """One folder a class, named as in the labels file."""
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        folder = FOLDER / "evaluation" / f"digit {label}"
        folder.mkdir(parents=True, exist_ok=True)
        image.save(folder / f"{index:03}.png")


def run(*command: str) -> None:
    """Show a command and run it; where it fails, it has said why, and this ends with its status."""
    print(f"\n$ {shlex.join(command)}", flush=True)
    status = subprocess.run([BIN / command[0], *command[1:]], check=False).returncode
    if status not in (0, A_VARIANT_IS_MISSING):
        sys.exit(status)


def compare(eager: np.ndarray, files: list[str], labels: np.ndarray) -> None:
    """The accuracy of eager PyTorch beside that of every variant, run from image files by the runtime."""
    bundle = resnet_runtime.load(FOLDER / "model.bundle").bundle
    print(f"\n{len(files)} held-out digits   accuracy   agrees with eager   computed by")
    row("eager PyTorch", eager.argmax(1), eager.argmax(1), labels, f"torch {torch.__version__}")
    for variant in bundle.manifest.variants:
        precision = "fp16" if variant.scheme == "tensorrt" else variant.precision
        try:
            if variant.scheme == "tensorrt":
                raise resnet_runtime.UnavailableError("it is for a GPU")
            best, by = answers_by_command(precision, files)
        except resnet_runtime.UnavailableError:
            batch = resnet_runtime.load(FOLDER / "model.bundle").preprocess(files)
            graph = graph_from_bytes(bundle.read(variant.file))
            best = answers_from_emulation(graph, precision, batch)["logits"].argmax(1)
            by = "emulation: this CPU computes no such variant"
        row(variant.id, best, eager.argmax(1), labels, by)


def answers_by_command(precision: str, files: list[str]) -> tuple[np.ndarray, str]:
    """What `resnet-run --json` says of the files.

    Raises:
        UnavailableError: this host cannot compute the precision.
    """
    command = [str(BIN / "resnet-run"), f"{FOLDER}/model.bundle", *files, "--precision", precision, "--json", "--quiet"]
    finished = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)
    answer = json.loads(finished.stdout)
    if "error" in answer:
        raise resnet_runtime.UnavailableError(answer["error"]["message"])
    best = np.array([result["top"][0]["index"] for result in answer["results"]])
    return best, f"resnet-run, {answer['backend']}"


def row(name: str, best: np.ndarray, eager: np.ndarray, labels: np.ndarray, by: str) -> None:
    """One line of the table."""
    print(f"{name:<22}{np.mean(best == labels):>9.2%}   {np.mean(best == eager):>17.2%}   {by}")


if __name__ == "__main__":
    main()
