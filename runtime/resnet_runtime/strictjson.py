"""JSON with the rules of the bundle format, so that every reader in every language reads the same thing.

UTF-8 without a byte order mark, unique keys, finite numbers, integers below 2**53, no lone surrogates, bounded size and
depth. Limits are checked before anything is allocated for the content.
"""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

MAX_BYTES = 4 * 1024 * 1024
MAX_DEPTH = 16
MAX_INTEGER = 2**53 - 1


class StrictJSONError(ValueError):
    """What breaks the rules, and where that is known. Its callers turn it into an error that names the file."""


def loads(data: bytes) -> Any:
    """Parse ``data``.

    Raises:
        StrictJSONError: the bytes break one of the rules above.
    """
    if len(data) > MAX_BYTES:
        raise StrictJSONError(f"it has {len(data)} bytes, and {MAX_BYTES} are allowed")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise StrictJSONError(f"byte {error.start} is not UTF-8") from None
    _check_depth(text)
    try:
        value = json.loads(
            text,
            object_pairs_hook=_unique,
            parse_constant=_constant,
            parse_float=_finite,
            parse_int=_integer,
        )
    except json.JSONDecodeError as error:
        raise StrictJSONError(f"{error.msg} at line {error.lineno}, column {error.colno}") from None
    if "\\u" in text:
        _check_surrogates(value)
    return value


def dumps(value: Any) -> bytes:
    """Serialize with a fixed layout: two spaces of indentation, keys in the given order, one newline at the end."""
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8")


def _check_depth(text: str) -> None:
    depth = 0
    quoted = False
    escaped = False
    for character in text:
        if quoted:
            if escaped:
                escaped = False
            elif character == "\\":
                escaped = True
            elif character == '"':
                quoted = False
        elif character == '"':
            quoted = True
        elif character in "[{":
            depth += 1
            if depth > MAX_DEPTH:
                raise StrictJSONError(f"it nests deeper than {MAX_DEPTH} levels")
        elif character in "]}":
            depth -= 1


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise StrictJSONError(f"the key {key!r} stands twice in one object")
        result[key] = value
    return result


def _constant(name: str) -> NoReturn:
    raise StrictJSONError(f"{name} is not a finite number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise StrictJSONError(f"{text[:32]} is not a finite number")
    return value


def _integer(text: str) -> int:
    if len(text) > 17 or abs(int(text)) > MAX_INTEGER:
        raise StrictJSONError(f"the integer {text[:32]} is not below 2**53")
    return int(text)


def _check_surrogates(value: Any) -> None:
    if isinstance(value, str):
        if any("\ud800" <= character <= "\udfff" for character in value):
            raise StrictJSONError("a string holds a lone surrogate")
    elif isinstance(value, dict):
        for key, item in value.items():
            _check_surrogates(key)
            _check_surrogates(item)
    elif isinstance(value, list):
        for item in value:
            _check_surrogates(item)
