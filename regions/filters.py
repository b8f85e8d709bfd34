"""Pinecone's metadata filter language: decoded JSON in, a checked tree out, and what the tree means.

Pure. `compile_filter` reads a filter once; `Filter.matches` is its meaning on one record's metadata, and the
node evaluates the same tree over columns (`regions.node.columns`). What holds:

- A value meets `$eq` when it equals the operand and is of its kind: text, number (1 equals 1.0) or boolean
  (true is no number). A list of strings meets `$eq` when any element does, and so `$in`.
- `$ne` and `$nin` are the exact opposites, so a record without the field meets both, and a list meets them
  when no element equals an operand.
- `$gt $gte $lt $lte` compare numbers; anything else, and a missing field, meets none of them.
- Several operators on a field, several fields in an object, and `$and` must all hold. `{}` matches all.

Source: Pinecone's guide to metadata filters; where it is silent, MongoDB's query language, which it follows.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import ge, gt, le, lt
from typing import Any, Final, Protocol

from regions.errors import BadFilter
from regions.records import MetadataValue

Scalar = str | int | float | bool

MAX_OPERANDS: Final = 10_000
MAX_DEPTH: Final = 16
MAX_CONDITIONS: Final = 1_000
MAX_INTEGER: Final = (1 << 63) - 1

ORDERINGS: Final[dict[str, Callable[[float, float], bool]]] = {"$gt": gt, "$gte": ge, "$lt": lt, "$lte": le}


class Filter(Protocol):
    """A condition on one record's metadata."""

    def matches(self, metadata: Mapping[str, MetadataValue]) -> bool: ...


def kind_of(value: Scalar) -> str:
    """The kind that comparisons stay within: "text", "number" or "boolean"."""
    if isinstance(value, bool):
        return "boolean"
    return "text" if isinstance(value, str) else "number"


@dataclass(frozen=True, slots=True)
class AnyOf:
    """The field equals one of the operands, or holds a list with such an element: `$eq`, `$in`."""

    field: str
    operands: frozenset[tuple[str, Scalar]]
    """Each with its kind, because Python holds True equal to 1."""

    def matches(self, metadata: Mapping[str, MetadataValue]) -> bool:
        value = metadata.get(self.field)
        if value is None:
            return False
        if isinstance(value, list):
            return any(("text", element) in self.operands for element in value)
        return (kind_of(value), value) in self.operands


@dataclass(frozen=True, slots=True)
class Ordered:
    """The field is a number on the right side of the operand: `$gt $gte $lt $lte`."""

    field: str
    operator: str
    operand: int | float

    def matches(self, metadata: Mapping[str, MetadataValue]) -> bool:
        value = metadata.get(self.field)
        if not isinstance(value, int | float) or isinstance(value, bool):
            return False
        return ORDERINGS[self.operator](value, self.operand)


@dataclass(frozen=True, slots=True)
class Exists:
    """The record has the field."""

    field: str

    def matches(self, metadata: Mapping[str, MetadataValue]) -> bool:
        return self.field in metadata


@dataclass(frozen=True, slots=True)
class Not:
    """The part does not hold: how `$ne`, `$nin` and `$exists: false` are written."""

    part: Filter

    def matches(self, metadata: Mapping[str, MetadataValue]) -> bool:
        return not self.part.matches(metadata)


@dataclass(frozen=True, slots=True)
class All:
    """Every part holds; of no parts, always."""

    parts: tuple[Filter, ...]

    def matches(self, metadata: Mapping[str, MetadataValue]) -> bool:
        return all(part.matches(metadata) for part in self.parts)


@dataclass(frozen=True, slots=True)
class Some:
    """At least one part holds."""

    parts: tuple[Filter, ...]

    def matches(self, metadata: Mapping[str, MetadataValue]) -> bool:
        return any(part.matches(metadata) for part in self.parts)


def compile_filter(raw: Mapping[str, Any]) -> Filter:
    """The filter as a tree. Raises: BadFilter: outside the language; carries the path to the fault."""
    return _Reader().object_(raw, "", 0)


def fields_of(tree: Filter) -> frozenset[str]:
    """The metadata fields that the filter looks at."""
    match tree:
        case AnyOf() | Ordered() | Exists():
            return frozenset((tree.field,))
        case Not():
            return fields_of(tree.part)
        case All() | Some():
            return frozenset().union(*map(fields_of, tree.parts))
        case _:
            raise TypeError(f"no filter: {tree!r}")


class _Reader:
    """Reads one filter; counts its parts, so that a small body cannot ask for unbounded work."""

    def __init__(self) -> None:
        self._conditions = 0
        self._operands = 0

    def object_(self, raw: object, path: str, depth: int) -> Filter:
        if not isinstance(raw, Mapping):
            raise BadFilter(path, "expected an object")
        if depth > MAX_DEPTH:
            raise BadFilter(path, f"nested deeper than {MAX_DEPTH} levels")
        parts = [self._entry(key, value, f"{path}.{key}", depth) for key, value in raw.items()]
        return parts[0] if len(parts) == 1 else All(tuple(parts))

    def _entry(self, key: str, value: object, path: str, depth: int) -> Filter:
        if key in ("$and", "$or"):
            if not isinstance(value, list) or not value:
                raise BadFilter(path, "expected a list of at least one filter")
            parts = [self._branch(part, f"{path}[{i}]", depth + 1) for i, part in enumerate(value)]
            return All(tuple(parts)) if key == "$and" else Some(tuple(parts))
        if key.startswith("$"):
            raise BadFilter(path, "is no operator that can stand here; $and and $or can")
        if not isinstance(value, Mapping):
            return self._condition(key, "$eq", value, path)
        if not value:
            raise BadFilter(path, "expected at least one operator")
        parts = [self._condition(key, name, operand, f"{path}.{name}") for name, operand in value.items()]
        return parts[0] if len(parts) == 1 else All(tuple(parts))

    def _branch(self, raw: object, path: str, depth: int) -> Filter:
        if isinstance(raw, Mapping) and not raw:
            raise BadFilter(path, "expected at least one condition")
        return self.object_(raw, path, depth)

    def _condition(self, field: str, name: str, operand: object, path: str) -> Filter:
        self._conditions += 1
        if self._conditions > MAX_CONDITIONS:
            raise BadFilter(path, f"more than {MAX_CONDITIONS} conditions")
        match name:
            case "$eq":
                return AnyOf(field, frozenset((_scalar(operand, path),)))
            case "$ne":
                return Not(AnyOf(field, frozenset((_scalar(operand, path),))))
            case "$in":
                return AnyOf(field, self._scalars(operand, path))
            case "$nin":
                return Not(AnyOf(field, self._scalars(operand, path)))
            case "$gt" | "$gte" | "$lt" | "$lte":
                return Ordered(field, name, _number(operand, path))
            case "$exists":
                if not isinstance(operand, bool):
                    raise BadFilter(path, "expected true or false")
                return Exists(field) if operand else Not(Exists(field))
            case _:
                raise BadFilter(path, "is no operator; known: $eq $ne $gt $gte $lt $lte $in $nin $exists")

    def _scalars(self, operand: object, path: str) -> frozenset[tuple[str, Scalar]]:
        if not isinstance(operand, list):
            raise BadFilter(path, "expected a list")
        self._operands += len(operand)
        if self._operands > MAX_OPERANDS:
            raise BadFilter(path, f"more than {MAX_OPERANDS} values in one filter")
        return frozenset(_scalar(element, f"{path}[{i}]") for i, element in enumerate(operand))


def _scalar(operand: object, path: str) -> tuple[str, Scalar]:
    if isinstance(operand, str | bool):
        return kind_of(operand), operand
    if isinstance(operand, int | float):
        return "number", _number(operand, path)
    raise BadFilter(path, "expected a string, a number or a boolean")


def _number(operand: object, path: str) -> int | float:
    if not isinstance(operand, int | float) or isinstance(operand, bool):
        raise BadFilter(path, "expected a number")
    if isinstance(operand, int):
        if abs(operand) > MAX_INTEGER:
            raise BadFilter(path, "the integer does not fit into 64 bits")
        return operand
    if operand != operand or operand in (float("inf"), float("-inf")):
        raise BadFilter(path, "expected a finite number")
    return operand
