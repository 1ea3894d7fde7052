"""ResNets written as other families of code write them: their names of tensors, their way of computing."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from tests.export.models import varied_images


class _Padding(nn.Module):
    """Option A of the paper, which has no parameters."""

    def __init__(self, planes: int) -> None:
        super().__init__()
        self.planes = planes

    def forward(self, x: Tensor) -> Tensor:
        quarter = self.planes // 4
        return functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, quarter, quarter), "constant", 0)


class _CifarBlock(nn.Module):
    def __init__(self, inputs: int, planes: int, stride: int, bottleneck: bool, padded: bool) -> None:
        super().__init__()
        outputs = planes * 4 if bottleneck else planes
        if bottleneck:
            self.conv1, self.bn1 = nn.Conv2d(inputs, planes, 1, bias=False), nn.BatchNorm2d(planes)
            self.conv2, self.bn2 = nn.Conv2d(planes, planes, 3, stride, 1, bias=False), nn.BatchNorm2d(planes)
            self.conv3, self.bn3 = nn.Conv2d(planes, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        else:
            self.conv1, self.bn1 = nn.Conv2d(inputs, planes, 3, stride, 1, bias=False), nn.BatchNorm2d(planes)
            self.conv2, self.bn2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False), nn.BatchNorm2d(planes)
        self.bottleneck = bottleneck
        self.shortcut: nn.Module = nn.Sequential()
        if stride != 1 or inputs != outputs:
            if padded:
                self.shortcut = _Padding(planes)
            else:
                self.shortcut = nn.Sequential(
                    nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
                )

    def forward(self, x: Tensor) -> Tensor:
        out = functional.relu(self.bn1(self.conv1(x)))
        if self.bottleneck:
            out = functional.relu(self.bn2(self.conv2(out)))
            out = self.bn3(self.conv3(out))
        else:
            out = self.bn2(self.conv2(out))
        out += self.shortcut(x)
        return functional.relu(out)


class PytorchCifar(nn.Module):
    """``shortcut.0``, ``linear``, and an average pooling of the map's size."""

    def __init__(
        self, depths: Sequence[int], widths: Sequence[int], *, bottleneck: bool = False, padded: bool = False
    ) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, widths[0], 3, 1, 1, bias=False), nn.BatchNorm2d(widths[0])
        width = widths[0]
        self.stages = len(depths)
        for stage, (depth, planes) in enumerate(zip(depths, widths, strict=True), start=1):
            blocks = []
            for index in range(depth):
                stride = 2 if stage > 1 and index == 0 else 1
                blocks.append(_CifarBlock(width, planes, stride, bottleneck, padded))
                width = planes * 4 if bottleneck else planes
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
        self.linear = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        out = functional.relu(self.bn1(self.conv1(x)))
        for stage in range(1, self.stages + 1):
            out = getattr(self, f"layer{stage}")(out)
        out = functional.avg_pool2d(out, out.size()[3])
        return self.linear(out.view(out.size(0), -1))


class _ResidualFunction(nn.Module):
    def __init__(self, inputs: int, planes: int, stride: int, bottleneck: bool) -> None:
        super().__init__()
        outputs = planes * 4 if bottleneck else planes
        if bottleneck:
            layers = [
                nn.Conv2d(inputs, planes, 1, bias=False), nn.BatchNorm2d(planes), nn.ReLU(inplace=True),
                nn.Conv2d(planes, planes, 3, stride, 1, bias=False), nn.BatchNorm2d(planes), nn.ReLU(inplace=True),
                nn.Conv2d(planes, outputs, 1, bias=False), nn.BatchNorm2d(outputs),
            ]  # fmt: skip
        else:
            layers = [
                nn.Conv2d(inputs, planes, 3, stride, 1, bias=False), nn.BatchNorm2d(planes), nn.ReLU(inplace=True),
                nn.Conv2d(planes, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs),
            ]  # fmt: skip
        self.residual_function = nn.Sequential(*layers)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return nn.ReLU(inplace=True)(self.residual_function(x) + self.shortcut(x))


class PytorchCifar100(nn.Module):
    """``conv2_x.0.residual_function.0``."""

    def __init__(self, depths: Sequence[int], *, bottleneck: bool) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(
            nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True)
        )
        width = 64
        for stage, depth in enumerate(depths):
            blocks = []
            for index in range(depth):
                planes = 64 * 2**stage
                blocks.append(_ResidualFunction(width, planes, 2 if stage > 0 and index == 0 else 1, bottleneck))
                width = planes * 4 if bottleneck else planes
            setattr(self, f"conv{stage + 2}_x", nn.Sequential(*blocks))
        self.stages = len(depths)
        self.avg_pool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(width, 100)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv1(x)
        for stage in range(self.stages):
            out = getattr(self, f"conv{stage + 2}_x")(out)
        out = self.avg_pool(out)
        return self.fc(out.view(out.size(0), -1))


class _HfConvolution(nn.Module):
    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, *, active: bool = True) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        self.normalization = nn.BatchNorm2d(outputs)
        self.activation: nn.Module = nn.ReLU() if active else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.normalization(self.convolution(x)))


class _HfBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, bottleneck: bool) -> None:
        super().__init__()
        reshapes = stride != 1 or inputs != outputs
        self.shortcut = _HfConvolution(inputs, outputs, 1, stride, active=False) if reshapes else nn.Identity()
        inner = outputs // 4
        layers = (
            [
                _HfConvolution(inputs, inner, 1),
                _HfConvolution(inner, inner, 3, stride),
                _HfConvolution(inner, outputs, 1, active=False),
            ]
            if bottleneck
            else [_HfConvolution(inputs, outputs, 3, stride), _HfConvolution(outputs, outputs, 3, active=False)]
        )
        self.layer = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.layer(x)
        hidden += self.shortcut(x)
        return functional.relu(hidden)


class HuggingFace(nn.Module):
    """``resnet.encoder.stages.0.layers.0.layer.0.convolution``; the answer is in ``logits``."""

    def __init__(self, depths: Sequence[int], sizes: Sequence[int], embedding: int, *, bottleneck: bool) -> None:
        super().__init__()
        self.resnet = nn.Module()
        self.resnet.embedder = nn.Module()
        self.resnet.embedder.embedder = _HfConvolution(3, embedding, 7, 2)
        self.resnet.encoder = nn.Module()
        self.resnet.encoder.stages = nn.ModuleList()
        width = embedding
        for number, (depth, size) in enumerate(zip(depths, sizes, strict=True)):
            stage = nn.Module()
            blocks = []
            for index in range(depth):
                blocks.append(_HfBlock(width, size, 2 if number > 0 and index == 0 else 1, bottleneck))
                width = size
            stage.layers = nn.Sequential(*blocks)
            self.resnet.encoder.stages.append(stage)
        self.classifier = nn.Sequential(nn.Flatten(), nn.Linear(width, 7))

    def forward(self, x: Tensor) -> Tensor:
        hidden = functional.max_pool2d(self.resnet.embedder.embedder(x), 3, 2, 1)
        for stage in self.resnet.encoder.stages:
            hidden = stage.layers(hidden)
        return self.classifier(functional.adaptive_avg_pool2d(hidden, (1, 1)))


def alive(network: nn.Module, side: int) -> nn.Module:
    """With BatchNorm's statistics from varied images, in evaluation mode."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
            nn.init.uniform_(module.weight, 0.2, 0.6)
            nn.init.normal_(module.bias, 0, 0.2)
    with torch.no_grad():
        network.train()(varied_images(16, (3, side, side)))
    return network.eval()
