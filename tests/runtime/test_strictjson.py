"""The rules of the format's JSON, one malformed text each."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnet_runtime import strictjson
from resnet_runtime.strictjson import MAX_BYTES, MAX_DEPTH, StrictJSONError

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner)
    ),
    max_leaves=12,
)


@given(values)
def test_what_is_written_is_read(value: object) -> None:
    assert strictjson.loads(strictjson.dumps([value])) == [value]


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_read_as_json_reads_them_or_refused(data: bytes) -> None:
    try:
        value = strictjson.loads(data)
    except StrictJSONError:
        return
    assert value == json.loads(data)


def test_layout_is_fixed() -> None:
    assert strictjson.dumps({"b": [1, 0.5], "a": "é"}) == '{\n  "b": [\n    1,\n    0.5\n  ],\n  "a": "é"\n}\n'.encode()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_dumps_refuses_what_is_not_finite(value: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        strictjson.dumps(value)


def refusal(data: bytes) -> str:
    with pytest.raises(StrictJSONError) as caught:
        strictjson.loads(data)
    return str(caught.value)


def test_duplicate_key() -> None:
    assert refusal(b'{"a": {"b": 1, "b": 1}}') == "the key 'b' stands twice in one object"


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity"])
def test_constant_that_is_no_number(text: str) -> None:
    assert refusal(f'{{"a": {text}}}'.encode()) == f"{text} is not a finite number"


@pytest.mark.parametrize("text", ["1e999", "-1e400", "1.0E+309"])
def test_float_that_overflows(text: str) -> None:
    assert refusal(f"[{text}]".encode()) == f"{text} is not a finite number"


def test_largest_integers_are_read() -> None:
    assert strictjson.loads(b"[9007199254740991, -9007199254740991]") == [2**53 - 1, -(2**53) + 1]


@pytest.mark.parametrize("text", ["9007199254740992", "-9007199254740992", "1" * 5000])
def test_integer_of_2_to_the_53_or_more(text: str) -> None:
    assert refusal(f"[{text}]".encode()) == f"the integer {text[:32]} is not below 2**53"


def test_deepest_nesting_is_read() -> None:
    text = "[" * MAX_DEPTH + "]" * MAX_DEPTH
    assert strictjson.dumps(strictjson.loads(text.encode())).count(b"[") == MAX_DEPTH


@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_deep_nesting(opening: str) -> None:
    assert refusal(opening.encode() * (MAX_DEPTH + 1)) == f"it nests deeper than {MAX_DEPTH} levels"


def test_nesting_too_deep_for_a_recursive_parser() -> None:
    assert refusal(b"[" * 1_000_000) == f"it nests deeper than {MAX_DEPTH} levels"


def test_brackets_inside_strings_do_not_nest() -> None:
    text = "[" * 100 + '\\"' + "{" * 100
    assert strictjson.loads(f'["{text}"]'.encode()) == [text.replace('\\"', '"')]


def test_lone_surrogate() -> None:
    assert refusal(b'{"a": ["\\ud800"]}') == "a string holds a lone surrogate"


def test_lone_surrogate_in_a_key() -> None:
    assert refusal(b'{"\\udfff": 1}') == "a string holds a lone surrogate"


def test_surrogate_pair_is_a_character() -> None:
    assert strictjson.loads(b'["\\ud83d\\ude00"]') == ["\N{GRINNING FACE}"]


def test_surrogate_in_the_bytes() -> None:
    assert refusal(b'["\xed\xa0\x80"]') == "byte 2 is not UTF-8"


def test_byte_order_mark() -> None:
    assert "BOM" in refusal(b"\xef\xbb\xbf{}")


def test_latin_1() -> None:
    assert refusal(b'["caf\xe9"]') == "byte 5 is not UTF-8"


def test_utf_16() -> None:
    assert "is not" in refusal('{"a": 1}'.encode("utf-16"))


def test_too_large() -> None:
    assert strictjson.loads(b'"' + b"a" * (MAX_BYTES - 2) + b'"') == "a" * (MAX_BYTES - 2)
    assert refusal(b'"' + b"a" * (MAX_BYTES - 1) + b'"') == f"it has {MAX_BYTES + 1} bytes, and {MAX_BYTES} are allowed"


@pytest.mark.parametrize(
    "text", ["", "{", "{'a': 1}", "[1,]", "// comment\n{}", "{} {}", '["\t"]', "[01]", "[+1]", "[.5]"]
)
def test_what_other_readers_let_pass(text: str) -> None:
    assert "line " in refusal(text.encode())
