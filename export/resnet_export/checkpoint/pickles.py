"""What a pickle asks for, read without doing any of it.

A pickle is a program. Here it runs on a machine whose values are inert: a global is its name, a call is an unknown
value. That tells which globals it needs, how much storage it claims, and whether each tensor lies within its storage,
before anything is allocated.
"""

from __future__ import annotations

import math
import pickletools
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Final

MAX_PICKLE_BYTES: Final = 64 << 20
"""The pickle holds names, shapes and a trainer's settings, not the numbers."""

_ITEM_BYTES: Final = {
    **dict.fromkeys(("Float", "Int", "ComplexHalf", "QInt32"), 4),
    **dict.fromkeys(("Double", "Long", "ComplexFloat"), 8),
    **dict.fromkeys(("Half", "BFloat16", "Short"), 2),
    "ComplexDouble": 16,
}
"""Bytes of an element by the name of its storage class; all others have 1."""

_TENSOR_CALLS: Final = frozenset(
    f"torch._utils._rebuild_{name}" for name in ("tensor", "tensor_v2", "tensor_v3", "qtensor")
)


class MalformedPickleError(ValueError):
    """The bytes are no pickle, or a pickle that claims what it does not have."""


@dataclass(frozen=True)
class PickleSummary:
    """What a pickle asks for.

    Attributes:
        globals: full names such as "collections.OrderedDict", in the order in which they come.
        storages: the key of each storage to the bytes that it claims.
        protocol: the pickle's protocol; torch.save writes 2 unless told otherwise.
    """

    globals: tuple[str, ...]
    storages: dict[str, int]
    protocol: int


@dataclass(frozen=True)
class _Global:
    name: str


@dataclass(frozen=True)
class _Storage:
    elements: int


_MARK: Final = object()
_UNKNOWN: Final = object()


class _Limited:
    """A file that never reads past ``limit`` bytes, whatever length is asked for."""

    def __init__(self, file: BinaryIO, limit: int) -> None:
        self.file = file
        self.left = limit

    def read(self, size: int) -> bytes:
        data = self.file.read(min(size, self.left))
        self.left -= len(data)
        return data

    def readline(self) -> bytes:
        data = self.file.readline(self.left)
        self.left -= len(data)
        return data


@dataclass
class _Machine:
    stack: list[Any] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)
    globals: dict[str, None] = field(default_factory=dict)
    storages: dict[str, int] = field(default_factory=dict)
    protocol: int = 0

    def pop(self) -> Any:
        value = self.stack.pop()
        if value is _MARK:
            raise MalformedPickleError("a mark where a value was expected")
        return value

    def pop_to_mark(self) -> list[Any]:
        values = []
        while (value := self.stack.pop()) is not _MARK:
            values.append(value)
        return values[::-1]

    def push_global(self, name: str) -> None:
        self.globals[name] = None
        self.stack.append(_Global(name))

    def step(self, opcode: pickletools.OpcodeInfo, argument: Any) -> None:
        name = opcode.name
        if name == "PROTO":
            self.protocol = argument
        elif name == "MARK":
            self.stack.append(_MARK)
        elif name == "GLOBAL":
            self.push_global(argument.replace(" ", "."))
        elif name == "INST":
            self.pop_to_mark()
            self.push_global(argument.replace(" ", "."))
        elif name == "STACK_GLOBAL":
            attribute, module = self.pop(), self.pop()
            self.push_global(f"{module}.{attribute}" if isinstance(module, str) else "an unknown global")
        elif name.startswith("EXT"):
            self.push_global(f"copyreg extension {argument}")
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self.memo[argument] = self.stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = self.stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[argument])
        elif name == "EMPTY_TUPLE":
            self.stack.append(())
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            values = [self.pop() for _ in range(int(name[-1]))]
            self.stack.append(tuple(values[::-1]))
        elif name == "TUPLE":
            self.stack.append(tuple(self.pop_to_mark()))
        elif name == "BINPERSID":
            self.stack.append(self.persistent(self.pop()))
        elif name in ("REDUCE", "NEWOBJ"):
            arguments, function = self.pop(), self.pop()
            self.stack.append(self.call(function, arguments))
        elif name == "BUILD":
            self.build(self.pop())
        else:
            self.generic(opcode, argument)

    def generic(self, opcode: pickletools.OpcodeInfo, argument: Any) -> None:
        """Take and give as many values as the opcode says; constants are kept, the rest is unknown."""
        before = opcode.stack_before
        if pickletools.markobject in before:
            self.pop_to_mark()
            before = before[: before.index(pickletools.markobject)]
        for _ in before:
            self.pop()
        known = argument if isinstance(argument, int | str | bytes) and not opcode.stack_before else _UNKNOWN
        self.stack.extend([known] * len(opcode.stack_after))

    def persistent(self, identity: Any) -> Any:
        """A storage: ("storage", class, key, location, elements, ...); old files also have ("module", class, ...)."""
        if isinstance(identity, tuple) and len(identity) >= 5:
            kind, storage, key, _, elements = identity[:5]
            if kind in ("storage", b"storage") and isinstance(storage, _Global):
                return self.storage(storage.name, key, elements)
        if isinstance(identity, tuple) and len(identity) >= 2 and identity[0] in ("module", b"module"):
            return identity[1]
        return _UNKNOWN

    def storage(self, name: str, key: Any, elements: Any) -> _Storage:
        if not isinstance(key, str | bytes) or type(elements) is not int or elements < 0:
            raise MalformedPickleError("a storage without a key or a size")
        text = key if isinstance(key, str) else key.decode("ascii")
        item = _ITEM_BYTES.get(name.rpartition(".")[2].removesuffix("Storage"), 1)
        self.storages[text] = max(self.storages.get(text, 0), elements * item)
        return _Storage(elements)

    def call(self, function: Any, arguments: Any) -> Any:
        if not isinstance(function, _Global) or not isinstance(arguments, tuple):
            return _UNKNOWN
        if function.name == "torch.Size" and len(arguments) == 1:
            return arguments[0]
        if function.name in _TENSOR_CALLS:
            _require_within(arguments)
        elif function.name.endswith(("Tensor", ".bytearray")) and any(type(a) is int for a in arguments):
            # torch.Tensor(n) and bytearray(n) make n elements out of nothing; no checkpoint has a use for them.
            raise MalformedPickleError("a call that asks for memory without giving data")
        return _UNKNOWN

    def build(self, state: Any) -> None:
        """Set the state of the object below, which stays where it is; a tensor's state may be a place in a storage."""
        self.pop()
        if isinstance(state, tuple) and len(state) >= 4 and isinstance(state[0], _Storage):
            _require_within(state)
        self.stack.append(_UNKNOWN)


def _require_within(arguments: tuple[Any, ...]) -> None:
    """Refuse a tensor (storage, offset, size, stride, ...) that does not lie within its storage, or repeats parts."""
    if len(arguments) < 4 or not isinstance(arguments[0], _Storage):
        raise MalformedPickleError("a tensor without a storage")
    storage, offset, size, stride = arguments[:4]
    if not (_are_counts((offset,)) and _are_counts(size) and _are_counts(stride) and len(size) == len(stride)):
        raise MalformedPickleError("a tensor whose shape is none")
    if 0 in size:
        return
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if last >= storage.elements or math.prod(size) > storage.elements:
        raise MalformedPickleError(
            f"a tensor of {math.prod(size)} elements in a storage of {storage.elements} does not fit"
        )


def _are_counts(values: Any) -> bool:
    return isinstance(values, tuple) and len(values) <= 64 and all(type(v) is int and 0 <= v < 1 << 62 for v in values)


def summary_from_pickle(file: BinaryIO, *, limit: int = MAX_PICKLE_BYTES) -> PickleSummary:
    """Read one pickle, from where ``file`` stands to just after its end.

    Args:
        file: open for reading bytes.
        limit: how many bytes it may have.

    Raises:
        MalformedPickleError: it is cut off, longer than ``limit``, no pickle, or its tensors do not lie within the
            storages that they name.
    """
    machine = _Machine()
    try:
        for opcode, argument, _ in _operations(_Limited(file, min(limit, MAX_PICKLE_BYTES))):
            if opcode.name == "STOP":
                machine.pop()
                return PickleSummary(tuple(machine.globals), machine.storages, machine.protocol)
            machine.step(opcode, argument)
    except MalformedPickleError:
        raise
    except (ValueError, LookupError, EOFError, TypeError, AttributeError, ArithmeticError, struct.error) as error:
        # What pickletools and the machine above meet in bytes that are no pickle.
        raise MalformedPickleError(str(error)) from error
    raise MalformedPickleError("the pickle has no end")


def _operations(file: _Limited) -> Iterable[tuple[pickletools.OpcodeInfo, Any, int | None]]:
    return pickletools.genops(file)  # type: ignore[arg-type]


_ALLOWED: Final = frozenset(
    {
        "collections.OrderedDict", "collections.Counter", "torch.nn.parameter.Parameter", "torch.Size", "torch.Tensor",
        "torch.device", "torch.serialization._get_layout", "torch.torch_version.TorchVersion", "_codecs.encode",
        "torch._tensor._rebuild_from_type_v2", "builtins.set", "__builtin__.set", "builtins.complex",
        "__builtin__.complex", "builtins.bytearray", "__builtin__.bytearray",
    }
)  # fmt: skip


def unsafe_globals(names: Iterable[str], *, also: Iterable[str] = ()) -> tuple[str, ...]:
    """Those that ``torch.load(weights_only=True)`` does not take, in the same order.

    It is a first sieve, made to name them before anything is loaded; torch's own list has the last word.

    Args:
        names: full names of globals.
        also: names that the process has declared safe by ``torch.serialization.add_safe_globals``.
    """
    allowed = _ALLOWED.union(also)
    return tuple(name for name in names if name not in allowed and not _is_torch_data(name))


def _is_torch_data(name: str) -> bool:
    """Whether it is a storage or tensor class, a function that rebuilds a tensor, or a dtype."""
    module, _, attribute = name.rpartition(".")
    if module == "torch._utils":
        return attribute.startswith("_rebuild_")
    if module in ("torch", "torch.storage", "torch.cuda") and attribute.endswith(("Storage", "Tensor")):
        return True
    return module == "torch" and attribute in _DTYPES


_DTYPES: Final = frozenset(
    {
        "float16", "float32", "float64", "bfloat16", "half", "float", "double", "int8", "int16", "int32", "int64",
        "uint8", "uint16", "uint32", "uint64", "short", "int", "long", "bool", "complex32", "complex64", "complex128",
        "qint8", "quint8", "qint32", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz",
        "per_tensor_affine", "per_channel_affine", "strided",
    }
)  # fmt: skip
