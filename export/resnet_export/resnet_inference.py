"""Which ResNet the tensors of a state_dict belong to.

The configuration is read off the tensors' names and shapes, then every name and shape that it implies is compared with
what is there. Nothing is guessed past that: one difference is enough to refuse.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from resnet_runtime.manifest import Assumption

from .errors import ArchitectureError
from .families import TORCHVISION, Family
from .resnet_config import ARCHITECTURES, COUNTER, EXPANSION, ResNetConfig, shapes_from_config

_OWN_COPY: Final = "--reference"


@dataclass(frozen=True)
class Inferred:
    """What the tensors say, and what they cannot say.

    Attributes:
        config: the network's configuration; every tensor of it is there with its shape, and nothing else is.
        name: the architecture's name where it has one, else a description such as "resnet-bottleneck[3,4,6,4]".
        assumptions: what was assumed because no tensor tells it.
    """

    config: ResNetConfig
    name: str
    assumptions: tuple[Assumption, ...]


@dataclass(frozen=True)
class Differences:
    """How a state_dict differs from a configuration's; false where it does not.

    Attributes:
        missing: names that the configuration has and the state_dict has not.
        unexpected: names that only the state_dict has.
        changed: name to (what is there, what should be there).
    """

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    changed: Mapping[str, tuple[str, str]]

    def __len__(self) -> int:
        return len(self.missing) + len(self.unexpected) + len(self.changed)

    def lines(self) -> tuple[str, ...]:
        """All of them, names that differ in the same way folded into one line by braces and ranges."""
        found = [f"missing: {name}" for name in folded(self.missing)]
        found += [f"unexpected: {name}" for name in folded(self.unexpected)]
        for actual, expected in dict.fromkeys(self.changed.values()):
            names = [name for name, change in self.changed.items() if change == (actual, expected)]
            found += [f"{name}: {actual}, where {expected} was expected" for name in folded(names)]
        return tuple(found)


def differences(state_dict: Mapping[str, Tensor], config: ResNetConfig) -> Differences:
    """Every difference between the tensors that ``config`` has and those of ``state_dict``.

    BatchNorm's counters may be there or not, one for each BatchNorm.
    """
    return differences_from_shapes(state_dict, shapes_from_config(config))


def differences_from_shapes(state_dict: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]]) -> Differences:
    """As ``differences``, from float32 tensors of these names and shapes, without the counters."""
    counters = {_counter(name) for name in expected if name.endswith(".running_mean")}
    changed = {}
    for name, shape in expected.items():
        if name in state_dict:
            wanted, actual = (
                _described(shape, torch.float32),
                _described(state_dict[name].shape, state_dict[name].dtype),
            )
            if wanted != actual:
                changed[name] = (actual, wanted)
    for name in sorted(counters & state_dict.keys()):
        if state_dict[name].numel() != 1:
            changed[name] = (_described(state_dict[name].shape, state_dict[name].dtype), "one number")
    return Differences(
        missing=tuple(name for name in expected if name not in state_dict),
        unexpected=tuple(name for name in state_dict if name not in expected and name not in counters),
        changed=changed,
    )


def _counter(name: str) -> str:
    return f"{name.rpartition('.')[0]}.{COUNTER}"


def _described(shape: Iterable[int], dtype: torch.dtype) -> str:
    """A tensor's shape, with its type where that is not float32."""
    text = f"({', '.join(map(str, shape))})"
    return text if dtype == torch.float32 else f"{text} {str(dtype).removeprefix('torch.')}"


def config_from_state_dict(
    state_dict: Mapping[str, Tensor],
    *,
    arch: str | None = None,
    stride_in: str | None = None,
    family: Family = TORCHVISION,
) -> Inferred:
    """Find the configuration whose tensors these are.

    Args:
        state_dict: names as torchvision has them, and float32 tensors; nothing of their values is read.
        arch: the name of the architecture that it has to be; only channels and classes are then read off.
        stride_in: "3x3" or "1x1": where the bottlenecks have their stride, which no tensor tells.
        family: whose code they are of; its names were exchanged for torchvision's.

    Raises:
        ArchitectureError: no configuration has just these tensors, the ``details`` being all differences from the
            nearest; or ``arch`` is not a known name; or ``stride_in`` was given for a network without bottlenecks.
    """
    if arch is not None and arch not in ARCHITECTURES:
        raise ArchitectureError(
            f"{arch!r} is not an architecture that is known here: take one of {', '.join(ARCHITECTURES)}, or "
            "timm:NAME or torchvision:NAME where that library is installed"
        )
    read = _config_from_shapes(state_dict, family)
    if arch is not None:
        pool, shortcut = _form(state_dict, family)
        config = dataclasses.replace(_adapted(ARCHITECTURES[arch], state_dict), pool=pool, shortcut=shortcut)
    elif read is not None and not differences(state_dict, read):
        config = read
    else:
        raise _refusal(state_dict, read)
    found = differences(state_dict, config)
    if found:
        raise ArchitectureError(
            f"the tensors are not those of {arch}{_but(state_dict, read)}: {_count(found)}", details=found.lines()
        )
    if stride_in is not None:
        if config.block != "bottleneck":
            raise ArchitectureError(
                f"--stride-in is about bottleneck blocks, and {_name(config)} has none: leave it out"
            )
        config = dataclasses.replace(config, stride_in=stride_in)
    return Inferred(config, _name(config), (*_assumptions(config, stride_in), *family.assumptions))


def _assumptions(config: ResNetConfig, stride_in: str | None) -> tuple[Assumption, ...]:
    found = []
    if config.block == "bottleneck" and stride_in is None:
        found.append(
            Assumption(
                subject="stride of the bottleneck blocks",
                value=f"in the {config.stride_in} convolution",
                option="--stride-in",
            )
        )
    if config.stem == "cifar":
        found.append(Assumption(subject="stem", value="3x3 convolution of stride 1, no pooling", option=_OWN_COPY))
    found.append(Assumption(subject="epsilon of BatchNorm", value=f"{config.bn_eps:g}", option=_OWN_COPY))
    return tuple(found)


def _form(state_dict: Mapping[str, Tensor], family: Family) -> tuple[str, str]:
    """What a family's code may do otherwise than torchvision's: ``pool`` and ``shortcut`` of its configuration."""
    padded = family.may_pad and not any(".downsample." in name for name in state_dict)
    return family.pool, "padded" if padded else "projection"


def _config_from_shapes(state_dict: Mapping[str, Tensor], family: Family) -> ResNetConfig | None:
    """The configuration that the deciding tensors imply, or None where one of them is not there or makes no sense."""
    shapes = {name: tuple(tensor.shape) for name, tensor in state_dict.items()}
    depths: dict[int, int] = {}
    for name in shapes:
        if match := re.fullmatch(r"layer([1-9]\d?)\.(0|[1-9]\d{0,3})\.conv1\.weight", name):
            stage, index = int(match[1]), int(match[2])
            depths[stage] = max(depths.get(stage, 0), index + 1)
    if sum(depths.values()) > len(shapes):
        return None  # blocks are numbered that are not there: a few names must not describe a huge network
    if not depths or sorted(depths) != list(range(1, len(depths) + 1)):
        return None
    stages = range(1, len(depths) + 1)
    pool, shortcut = _form(state_dict, family)
    block = "bottleneck" if "layer1.0.conv3.weight" in shapes else "basic"
    last = "conv3" if block == "bottleneck" else "conv2"
    try:
        widths = tuple(shapes[f"layer{stage}.0.{last}.weight"][0] // EXPANSION[block] for stage in stages)
        inner, per_group, height, _ = shapes["layer1.0.conv2.weight"]
        groups, width_per_group = 1, 64
        if block == "bottleneck":
            groups = inner // per_group
            # The smallest that gives ``inner`` with the rounding down of ``ResNetConfig.inner_width``.
            width_per_group = -(-inner * 64 // (groups * widths[0]))
        kernel = shapes["conv1.weight"][2]
        if height != 3 or kernel not in (3, 7):
            return None
        return ResNetConfig(
            block=block,
            layers=tuple(depths[stage] for stage in stages),
            widths=widths,
            stem="imagenet" if kernel == 7 else "cifar",
            in_channels=shapes["conv1.weight"][1],
            classes=shapes["fc.weight"][0],
            groups=groups,
            width_per_group=width_per_group,
            pool=pool,
            shortcut=shortcut,
        )
    except (KeyError, IndexError, ValueError, ZeroDivisionError, ArchitectureError):
        return None


def _adapted(config: ResNetConfig, state_dict: Mapping[str, Tensor]) -> ResNetConfig:
    """``config`` with the tensors' numbers of channels and classes, where they have any."""
    stem, head = state_dict.get("conv1.weight"), state_dict.get("fc.weight")
    if stem is not None and stem.ndim == 4 and stem.shape[1] > 0:
        config = dataclasses.replace(config, in_channels=stem.shape[1])
    if head is not None and head.ndim == 2 and head.shape[0] > 0:
        config = dataclasses.replace(config, classes=head.shape[0])
    return config


def _name(config: ResNetConfig) -> str:
    """The registered name, or a description that tells the configuration's own values."""
    common = {"in_channels": 3, "classes": 1000, "stride_in": "3x3", "pool": "adaptive"}
    if config.shortcut == "padded":
        return f"{_name(dataclasses.replace(config, shortcut='projection'))}, zero-padded shortcuts"
    plain = dataclasses.replace(config, **common)  # type: ignore[arg-type]
    for name, known in ARCHITECTURES.items():
        if plain == dataclasses.replace(known, **common):  # type: ignore[arg-type]
            return name
    name = "resnet" if config.stem == "imagenet" else "cifar_resnet"
    name += f"-{config.block}[{','.join(map(str, config.layers))}]"
    usual = (64, 128, 256, 512, 1024)
    if config.widths != usual[: len(config.widths)]:
        name += f"-widths[{','.join(map(str, config.widths))}]"
    if (config.groups, config.width_per_group) != (1, 64):
        name += f"-{config.groups}x{config.width_per_group}d"
    return name


def _but(state_dict: Mapping[str, Tensor], read: ResNetConfig | None) -> str:
    return f" but of {_name(read)}" if read is not None and not differences(state_dict, read) else ""


def _count(found: Differences) -> str:
    parts = (
        (len(found.missing), "missing"),
        (len(found.unexpected), "unexpected"),
        (len(found.changed), "of another shape or type"),
    )
    return ", ".join(f"{number} {word}" for number, word in parts if number)


_FAMILIES: Final = (
    (
        r"(layer\d+\.\d+\.)?(se\.fc\d|se_module|se\.conv)",
        "a ResNet with squeeze-and-excitation: give --arch timm:NAME",
    ),
    (r"fc\.\d+\.", "a ResNet with a head of several layers: save the whole network as TorchScript or .pt2"),
    (r"conv1\.[03]\.(weight|bias)$", "a ResNet with a deep stem (ResNet-D): give --arch timm:NAME"),
    (r"stages\.\d+\.blocks\.\d+\.norm1\.|root\.conv", "a pre-activation ResNet (ResNetV2): give --arch timm:NAME"),
    (r"layer\d+\.\d+\.shortcut\.|linear\.weight$", "a ResNet whose shortcuts or classifier have other names"),
    (r"(.*\.)?(attn|attention|self_attn|self_attention)\.|(.*\.)?(cls_token|pos_embed\w*)$", "a transformer"),
    (r"features\.\d+\.(conv|block)\.", "a MobileNet or EfficientNet"),
    (r"features\.denseblock\d", "a DenseNet"),
    (r"features\.\d+\.(weight|bias)$", "a VGG or AlexNet"),
)


def _refusal(state_dict: Mapping[str, Tensor], read: ResNetConfig | None) -> ArchitectureError:
    """The error for tensors that no configuration has, measured against the nearest that has a name."""
    candidates = {name: _adapted(known, state_dict) for name, known in ARCHITECTURES.items()}
    if read is not None:
        candidates.setdefault(_name(read), read)
    measured = {name: differences(state_dict, config) for name, config in candidates.items()}
    nearest = min(measured, key=lambda name: len(measured[name]))
    found = measured[nearest]
    sentence = f"the tensors are those of no ResNet that is known here, the nearest being {nearest}: {_count(found)}"
    for pattern, family in _FAMILIES:
        if any(re.match(pattern, name) for name in state_dict):
            sentence += f"; their names are those of {family}"
            break
    return ArchitectureError(sentence, details=found.lines())


def folded(names: Iterable[str]) -> tuple[str, ...]:
    """The same names, shorter: ``layer1.{0-2}.bn{1,2}.weight`` stands for six. None is left out, none is added.

    Names are folded together where they differ in one component between dots, from the last component to the first.
    """
    products: list[_Product] = [tuple((part,) for part in name.split(".")) for name in dict.fromkeys(names)]
    for position in reversed(range(max(map(len, products), default=0))):
        groups: dict[object, list[_Product]] = {}
        for product in products:
            # What lies before and after the position has to be the same; a name too short for it stands alone.
            rest = (product[:position], product[position + 1 :], len(product)) if position < len(product) else product
            groups.setdefault(rest, []).append(product)
        products = [_merged(group, position) for group in groups.values()]
    return tuple(".".join(map(_braced, product)) for product in products)


_Product = tuple[tuple[str, ...], ...]
"""A name between dots, each component with its alternatives."""


def _merged(products: list[_Product], position: int) -> _Product:
    first = products[0]
    if len(products) == 1:
        return first
    alternatives = tuple(part for product in products for part in product[position])
    return (*first[:position], alternatives, *first[position + 1 :])


def _braced(parts: tuple[str, ...]) -> str:
    """One component: itself, or its alternatives between braces, runs of numbers as ranges."""
    if len(parts) == 1:
        return parts[0]
    numbers = sorted(int(part) for part in parts if re.fullmatch(r"0|[1-9]\d{0,8}", part))
    if len(numbers) != len(parts):
        return "{" + ",".join(parts) + "}"
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return "{" + ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs) + "}"
