"""The filter language: what it means, and what it refuses."""

from typing import Any

import pytest
from hypothesis import given

from regions.errors import BadFilter
from regions.filters import MAX_OPERANDS, compile_filter, fields_of
from tests.regions import strategies as st


@given(st.filters, st.metadata)
def test_a_filter_means_what_the_plain_model_says(raw: dict[str, Any], record: dict[str, Any]) -> None:
    assert compile_filter(raw).matches(record) is st.is_match(raw, record)


def test_an_empty_filter_matches_everything() -> None:
    assert compile_filter({}).matches({})


@pytest.mark.parametrize(
    ("raw", "record", "expected"),
    [
        ({"genre": "drama"}, {"genre": ["comedy", "drama"]}, True),
        ({"genre": {"$ne": "drama"}}, {"genre": ["comedy", "drama"]}, False),
        ({"genre": {"$nin": ["drama"]}}, {"genre": ["comedy"]}, True),
        ({"genre": {"$ne": "drama"}}, {}, True),
        ({"genre": {"$in": ["a", "drama"]}}, {"genre": ["comedy", "drama"]}, True),
        ({"genre": {"$in": []}}, {"genre": "a"}, False),
        ({"year": {"$gte": 2019, "$lt": 2020}}, {"year": 2019.5}, True),
        ({"year": {"$gt": 2019}}, {"year": "2020"}, False),
        ({"flag": 1}, {"flag": True}, False),
        ({"one": 1.0}, {"one": 1}, True),
        ({"big": 2**53 + 1}, {"big": float(2**53)}, False),
    ],
)
def test_the_cases_that_surprise(raw: dict[str, Any], record: dict[str, Any], expected: bool) -> None:
    assert compile_filter(raw).matches(record) is expected


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        ({"a": {"$regex": "x"}}, ".a.$regex"),
        ({"$not": {"a": 1}}, ".$not"),
        ({"a": {}}, ".a"),
        ({"a": None}, ".a"),
        ({"a": ["x"]}, ".a"),
        ({"a": {"$gt": "x"}}, ".a.$gt"),
        ({"a": {"$gt": True}}, ".a.$gt"),
        ({"a": {"$eq": 2**64}}, ".a.$eq"),
        ({"a": {"$in": "x"}}, ".a.$in"),
        ({"a": {"$in": ["x", None]}}, ".a.$in[1]"),
        ({"a": {"$in": ["x"] * 10_001}}, ".a.$in"),
        ({"a": {"$exists": 1}}, ".a.$exists"),
        ({"$and": []}, ".$and"),
        ({"$or": {"a": 1}}, ".$or"),
        ({"$or": [{"a": 1}, {}]}, ".$or[1]"),
        ({"$or": [{"a": 1}, {"b": {"$x": 1}}]}, ".$or[1].b.$x"),
    ],
)
def test_what_is_outside_the_language_is_refused_with_its_path(raw: dict[str, Any], path: str) -> None:
    with pytest.raises(BadFilter) as refused:
        compile_filter(raw)
    assert refused.value.path == path


def test_depth_and_number_of_conditions_are_bounded() -> None:
    deep: dict[str, Any] = {"a": 1}
    for _ in range(20):
        deep = {"$and": [deep]}
    with pytest.raises(BadFilter, match="nested"):
        compile_filter(deep)
    with pytest.raises(BadFilter, match="more than 1000 conditions"):
        compile_filter({"$or": [{"a": number} for number in range(1_001)]})


def test_the_fields_of_a_filter_are_known() -> None:
    tree = compile_filter({"a": 1, "$or": [{"b": {"$exists": False}}, {"c": {"$gt": 1}}]})
    assert fields_of(tree) == {"a", "b", "c"}


def test_operands_are_bounded_in_all_and_not_only_a_list_at_a_time() -> None:
    half = list(range(MAX_OPERANDS // 2))
    compile_filter({"$or": [{"a": {"$in": half}}, {"b": {"$nin": half}}]})
    with pytest.raises(BadFilter, match="values in one filter"):
        compile_filter({"$or": [{"a": {"$in": half}}, {"b": {"$nin": half}}, {"c": {"$in": [1]}}]})
