"""One JSON object, taken apart member by member, with every fault collected."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

Parsed = TypeVar("Parsed")


class Fields:
    """The members of one JSON object, taken one by one; faults are collected, not raised."""

    def __init__(self, value: Any, where: str, faults: list[str]) -> None:
        self._where = where
        self._faults = faults
        self._members: dict[str, Any] = {}
        self._taken: set[str] = set()
        self._is_object = isinstance(value, dict)
        if self._is_object:
            self._members = value
        else:
            self.fault("", f"is a JSON {kind_of(value)}, not an object")

    def fault(self, key: str, text: str) -> None:
        """Note what is wrong with the member ``key``."""
        path = ".".join(part for part in (self._where, key) if part)
        self._faults.append(f"{path or 'the manifest'} {text}")

    def done(self) -> None:
        """Note the members that nothing took."""
        for key in self._members:
            if key not in self._taken:
                self.fault(key, "is not a key of this schema")

    def raw(self, key: str) -> Any:
        """The member, or None with a fault where it is missing."""
        self._taken.add(key)
        if key not in self._members:
            if self._is_object:
                self.fault(key, "is missing")
            return None
        return self._members[key]

    def _present(self, key: str) -> bool:
        self._taken.add(key)
        return self._members.get(key) is not None

    def text(self, key: str, choices: Sequence[str] = (), pattern: re.Pattern[str] | None = None) -> str:
        """A non-empty string; one of ``choices`` or matching the whole ``pattern``, where given."""
        value = self.raw(key)
        if value is None and key not in self._members:
            return ""
        if not isinstance(value, str) or not value:
            self.fault(key, f"is {shortened(value)}, not a non-empty string")
        elif choices and value not in choices:
            self.fault(key, f"is {shortened(value)}, not one of {', '.join(choices)}")
        elif pattern and not pattern.fullmatch(value):
            self.fault(key, f"is {shortened(value)}, which is not allowed there")
        else:
            return value
        return ""

    def optional_text(
        self, key: str, choices: Sequence[str] = (), pattern: re.Pattern[str] | None = None
    ) -> str | None:
        """A string as ``text`` takes it, or null."""
        if key not in self._members:
            self.raw(key)
            return None
        return self.text(key, choices, pattern) if self._present(key) else None

    def integer(self, key: str, smallest: int = 0) -> int:
        """An integer of at least ``smallest``."""
        value = self.raw(key)
        if value is None and key not in self._members:
            return smallest
        if not _is_integer(value) or value < smallest:
            self.fault(key, f"is {shortened(value)}, not an integer of at least {smallest}")
            return smallest
        return int(value)

    def number(self, key: str) -> float:
        """A finite number."""
        value = self.raw(key)
        if value is None and key not in self._members:
            return 0.0
        if not _is_number(value):
            self.fault(key, f"is {shortened(value)}, not a number")
            return 0.0
        return float(value)

    def positive(self, key: str) -> float:
        """A finite number above 0."""
        value = self.number(key)
        if _is_number(self._members.get(key)) and value <= 0:
            self.fault(key, f"is {shortened(self._members[key])}, not above 0")
        return value

    def optional_number(self, key: str) -> float | None:
        """A finite number, or null."""
        if key not in self._members:
            self.raw(key)
            return None
        return self.number(key) if self._present(key) else None

    def boolean(self, key: str) -> bool:
        """True or false."""
        value = self.raw(key)
        if not isinstance(value, bool) and key in self._members:
            self.fault(key, f"is {shortened(value)}, not true or false")
        return value is True

    def numbers(self, key: str) -> tuple[float, ...]:
        """A list of finite numbers."""
        return tuple(float(item) for item in self._list(key, _is_number, "a list of numbers"))

    def integers(self, key: str, length: int | None = None) -> tuple[int, ...]:
        """A list of positive integers, of ``length`` where given."""
        what = f"a list of {length} positive integers" if length else "a list of positive integers"
        items = self._list(key, lambda item: _is_integer(item) and item > 0, what)
        if length is not None and len(items) != length:
            if items:
                self.fault(key, f"has {len(items)} items, not {length}")
            return (1,) * length
        return tuple(items)

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of strings."""
        return tuple(self._list(key, lambda item: isinstance(item, str), "a list of strings"))

    def record(self, key: str, parse: Callable[[Fields], Parsed]) -> Parsed:
        """The object ``key``, by ``parse``."""
        return self._parse(self.raw(key), key, parse) if key in self._members else self._missing(key, parse)

    def optional_record(self, key: str, parse: Callable[[Fields], Parsed], *, may_lack: bool = False) -> Parsed | None:
        """The object ``key`` by ``parse``, or null; with ``may_lack`` the key itself may be absent."""
        if key not in self._members:
            if not may_lack:
                self.raw(key)
            return None
        return self.record(key, parse) if self._present(key) else None

    def records(self, key: str, parse: Callable[[Fields], Parsed], *, may_lack: bool = False) -> tuple[Parsed, ...]:
        """A list of objects, each by ``parse``; with ``may_lack`` the key may be absent, which is an empty list."""
        if may_lack and key not in self._members:
            return ()
        items = self._list(key, lambda item: isinstance(item, dict), "a list of objects")
        return tuple(self._parse(item, f"{key}[{index}]", parse) for index, item in enumerate(items))

    def mapping(self, key: str) -> dict[str, str]:
        """An object whose values are strings."""
        value = self.raw(key)
        if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
            if key in self._members:
                self.fault(key, "is not an object of strings")
            return {}
        return dict(value)

    def _missing(self, key: str, parse: Callable[[Fields], Parsed]) -> Parsed:
        self.raw(key)
        return parse(Fields({}, key, []))

    def _parse(self, value: Any, key: str, parse: Callable[[Fields], Parsed]) -> Parsed:
        where = ".".join(part for part in (self._where, key) if part)
        fields = Fields(value, where, self._faults)
        parsed = parse(fields)
        fields.done()
        return parsed

    def _list(self, key: str, accepts: Callable[[Any], bool], what: str) -> list[Any]:
        value = self.raw(key)
        if not isinstance(value, list) or not all(accepts(item) for item in value):
            if key in self._members:
                self.fault(key, f"is not {what}")
            return []
        return value


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def kind_of(value: Any) -> str:
    """What JSON calls the type of a parsed value."""
    names = {type(None): "null", bool: "boolean", int: "number", float: "number", str: "string", list: "array"}
    return names.get(type(value), "object")


def shortened(value: Any) -> str:
    """A value for a message."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
