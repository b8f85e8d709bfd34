"""Metadata and filters for hypothesis, what filters mean, told a second time, and changes to be compared."""

from typing import Any

import msgspec
from hypothesis import strategies as st

from regions.changes import Body, Upsert

FIELDS = ["a", "b", "c"]
LARGE = [2**53, 2**53 + 1, 2**53 + 2, -(2**53) - 1, 2**63 - 1, -(2**63) + 1]

texts = st.sampled_from(["", "x", "y", "1", "true"])
numbers = st.one_of(
    st.integers(-2, 3),
    st.sampled_from([0.0, -0.0, 1.0, 1.5, 2.0, float(2**53), 1e300, *LARGE]),
)
scalars = st.one_of(texts, numbers, st.booleans())
values = st.one_of(scalars, st.lists(texts, max_size=3))
metadata = st.dictionaries(st.sampled_from(FIELDS), values, max_size=3)

_operators = st.one_of(
    st.tuples(st.sampled_from(["$eq", "$ne"]), scalars),
    st.tuples(st.sampled_from(["$gt", "$gte", "$lt", "$lte"]), numbers),
    st.tuples(st.sampled_from(["$in", "$nin"]), st.lists(scalars, max_size=3)),
    st.tuples(st.just("$exists"), st.booleans()),
)
_conditions = st.one_of(scalars, st.lists(_operators, min_size=1, max_size=2).map(dict))
_plain = st.dictionaries(st.sampled_from(FIELDS), _conditions, min_size=1, max_size=2)
filters = st.recursive(
    _plain,
    lambda inner: st.dictionaries(
        st.sampled_from(["$and", "$or"]), st.lists(inner, min_size=1, max_size=3), min_size=1, max_size=2
    ),
    max_leaves=6,
)


def is_match(raw: dict[str, Any], record: dict[str, Any]) -> bool:
    """Whether a record's metadata meets a filter: the language, told plainly."""
    for key, condition in raw.items():
        if key == "$and":
            if not all(is_match(part, record) for part in condition):
                return False
        elif key == "$or":
            if not any(is_match(part, record) for part in condition):
                return False
        else:
            operators = condition if isinstance(condition, dict) else {"$eq": condition}
            if not all(_holds(operator, operand, key, record) for operator, operand in operators.items()):
                return False
    return True


def _holds(operator: str, operand: Any, key: str, record: dict[str, Any]) -> bool:
    has, value = key in record, record.get(key)
    if operator == "$exists":
        return has is operand
    if operator == "$ne":
        return not _holds("$eq", operand, key, record)
    if operator == "$nin":
        return not _holds("$in", operand, key, record)
    if operator == "$in":
        return any(_holds("$eq", each, key, record) for each in operand)
    if operator == "$eq":
        candidates = value if isinstance(value, list) else [value]
        return has and any(_kind(each) is _kind(operand) and each == operand for each in candidates)
    if not has or _kind(value) is not float:
        return False
    if operator == "$gt":
        return bool(value > operand)
    if operator == "$gte":
        return bool(value >= operand)
    if operator == "$lt":
        return bool(value < operand)
    return bool(value <= operand)


def _kind(value: Any) -> type:
    if isinstance(value, bool):
        return bool
    return float if isinstance(value, int | float) else type(value)


def listed(body: Body) -> Body:
    """The change with all vectors as lists, so that `==` compares numbers whatever holds them."""
    if not isinstance(body, Upsert):
        return body
    return Upsert([msgspec.structs.replace(r, values=list(r.values)) for r in body.records])
