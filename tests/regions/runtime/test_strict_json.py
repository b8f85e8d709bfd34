"""Strict JSON: what parses and repeats no key passes, at any nesting and with any escapes."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regions.runtime.strict_json import MAX_PARTS, BadJson, check_keys, decode

texts = st.text(st.sampled_from('ab"\\{}[]:, \u00e9\n'), max_size=4)
scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), texts)
trees = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.lists(st.tuples(texts, inner), max_size=3)),
)


def written(tree: Any, is_ascii: bool) -> str:
    """JSON of a tree; a list of pairs is an object, which may repeat a key."""
    if isinstance(tree, list) and tree and all(isinstance(each, tuple) for each in tree):
        pairs = (
            f"{json.dumps(key, ensure_ascii=is_ascii)} : {written(value, is_ascii)}" for key, value in tree
        )
        return "{" + ", ".join(pairs) + "}"
    if isinstance(tree, list):
        return "[" + ",".join(written(each, is_ascii) for each in tree) + "]"
    return json.dumps(tree, ensure_ascii=is_ascii)


def has_repeats(body: str) -> bool:
    found = False

    def notice(pairs: list[tuple[str, Any]]) -> None:
        nonlocal found
        found |= len({key for key, _ in pairs}) < len(pairs)

    json.loads(body, object_pairs_hook=notice)
    return found


@given(trees, st.booleans())
def test_exactly_the_bodies_that_repeat_a_key_are_refused(tree: Any, is_ascii: bool) -> None:
    body = written(tree, is_ascii)
    try:
        check_keys(body.encode())
    except BadJson:
        assert has_repeats(body)
    else:
        assert not has_repeats(body)


def test_a_key_written_with_escapes_is_the_same_key() -> None:
    with pytest.raises(BadJson, match="repeated"):
        check_keys(b'{"a": 1, "\\u0061": 2}')


@pytest.mark.parametrize("body", [b"", b"{", b"[1,]", b"NaN", b'{"a":1}x', b'"\xff"', b"[" * 65 + b"]" * 65])
def test_what_is_no_json_or_too_deep_is_refused(body: bytes) -> None:
    with pytest.raises(BadJson):
        decode(body, Any)


def test_a_body_of_too_many_parts_is_refused() -> None:
    body = b"[" + b",".join([b"[]"] * (MAX_PARTS // 2)) + b"]"
    with pytest.raises(BadJson, match="more than"):
        check_keys(body)
