"""Metadata of a loaded namespace, one column a field, so that a filter costs microseconds and not a scan.

A column exists only for fields that some filter has asked for. Row i of a column is slot i of the namespace.
The meaning is `regions.filters`'; a hypothesis test holds the two against each other.
Not thread-safe: the namespace's lock guards it.
"""

from array import array
from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from regions.filters import ORDERINGS, All, AnyOf, Exists, Filter, Not, Ordered, Some
from regions.records import MetadataValue

Mask = npt.NDArray[np.bool_]
Slots = npt.NDArray[np.intp]

_EXACT: Final = 1 << 53
"""Integers up to here are exact as float64; larger ones are compared as Python integers."""


_TEXT_BYTES: Final = 120
"""What a text costs beside its characters: an object, a place in a dictionary."""


class Column:
    """One field's values by slot."""

    def __init__(self, capacity: int) -> None:
        self._present = np.zeros(capacity, np.bool_)
        self._numbers: npt.NDArray[np.float64] | None = None
        self._flags: npt.NDArray[np.int8] | None = None
        self._texts: npt.NDArray[np.int32] | None = None
        self._codes: dict[str, int] = {}
        self._elements: dict[str, array[int]] = {}
        self._lists: dict[int, list[str]] = {}
        self._large: dict[int, int] = {}
        self._text_bytes = 0

    @property
    def nbytes(self) -> int:
        parts = (self._present, self._numbers, self._flags, self._texts)
        return self._text_bytes + sum(part.nbytes for part in parts if part is not None)

    def put(self, slot: int, value: MetadataValue | None) -> None:
        """Set a slot that had no value; None leaves it without."""
        if slot >= len(self._present):
            self._grow(slot + 1)
        if value is None:
            return
        self._present[slot] = True
        capacity = len(self._present)
        if isinstance(value, bool):
            if self._flags is None:
                self._flags = np.full(capacity, -1, np.int8)
            self._flags[slot] = value
        elif isinstance(value, str):
            if self._texts is None:
                self._texts = np.full(capacity, -1, np.int32)
            if value not in self._codes:
                self._codes[value] = len(self._codes)
                self._text_bytes += _TEXT_BYTES + len(value)
            self._texts[slot] = self._codes[value]
        elif isinstance(value, list):
            self._lists[slot] = list(set(value))
            self._text_bytes += _TEXT_BYTES
            for element in self._lists[slot]:
                self._elements.setdefault(element, array("I")).append(slot)
                self._text_bytes += len(element)
        else:
            if self._numbers is None:
                self._numbers = np.full(capacity, np.nan)
            self._numbers[slot] = value
            if isinstance(value, int) and abs(value) > _EXACT:
                self._large[slot] = value

    def clear(self, slot: int) -> None:
        """Forget a slot's value."""
        if slot >= len(self._present) or not self._present[slot]:
            return
        self._present[slot] = False
        if self._numbers is not None:
            self._numbers[slot] = np.nan
        if self._flags is not None:
            self._flags[slot] = -1
        if self._texts is not None:
            self._texts[slot] = -1
        self._large.pop(slot, None)
        for element in self._lists.pop(slot, ()):
            self._elements[element].remove(slot)

    def present(self, count: int) -> Mask:
        return self._head(self._present, count).copy()

    def equal(self, operands: Iterable[tuple[str, Any]], count: int) -> Mask:
        """Slots below `count` whose value equals an operand, or is a list with such an element."""
        mask = np.zeros(count, np.bool_)
        texts = [operand for kind, operand in operands if kind == "text"]
        self._equal_texts(texts, mask)
        for kind, operand in operands:
            if kind == "boolean" and self._flags is not None:
                mask |= self._head(self._flags, count) == operand
            elif kind == "number" and self._numbers is not None:
                mask |= self._compare(np.equal, lambda a, b: a == b, operand, count)
        return mask

    def _equal_texts(self, texts: list[str], mask: Mask) -> None:
        codes = [self._codes[text] for text in texts if text in self._codes]
        if self._texts is not None and codes:
            column = self._head(self._texts, len(mask))
            if len(codes) == 1:
                mask |= column == codes[0]
            else:
                wanted = np.zeros(len(self._codes) + 1, np.bool_)
                wanted[codes] = True
                mask |= wanted[column]  # code -1 reads the last place, which no code has
        for text in texts:
            if text in self._elements:
                slots = np.array(self._elements[text], np.intp)
                mask[slots[slots < len(mask)]] = True

    def ordered(self, operator: str, operand: int | float, count: int) -> Mask:
        """Slots below `count` with a number on the right side of the operand."""
        if self._numbers is None:
            return np.zeros(count, np.bool_)
        vectorised = {"$gt": np.greater, "$gte": np.greater_equal, "$lt": np.less, "$lte": np.less_equal}
        return self._compare(vectorised[operator], ORDERINGS[operator], operand, count)

    def _compare(self, vectorised: Any, exact: Any, operand: int | float, count: int) -> Mask:
        """Compare the numbers as Python does, where an integer and a float compare by their exact values."""
        if self._numbers is None:
            return np.zeros(count, np.bool_)
        column = self._head(self._numbers, count)
        if isinstance(operand, int) and abs(operand) > _EXACT:
            mask = np.array([exact(number, operand) for number in column.tolist()], np.bool_)
        else:
            mask = vectorised(column, float(operand))
        for slot, number in self._large.items():
            if slot < count:
                mask[slot] = exact(number, operand)
        return mask

    def take(self, keep: Slots) -> "Column":
        """The column after compaction: old slot `keep[i]` is new slot i."""
        taken = Column(0)
        taken._present = self._padded(self._present, keep, False)
        if self._numbers is not None:
            taken._numbers = self._padded(self._numbers, keep, np.nan)
        if self._flags is not None:
            taken._flags = self._padded(self._flags, keep, -1)
        if self._texts is not None:
            taken._texts = self._padded(self._texts, keep, -1)
        taken._codes, taken._text_bytes = self._codes, self._text_bytes
        places = {int(old): new for new, old in enumerate(keep)} if self._lists or self._large else {}
        for text, slots in self._elements.items():
            moved = array("I", (places[slot] for slot in slots if slot in places))
            if moved:
                taken._elements[text] = moved
        taken._lists = {places[slot]: value for slot, value in self._lists.items() if slot in places}
        taken._large = {places[slot]: number for slot, number in self._large.items() if slot in places}
        return taken

    @staticmethod
    def _padded(values: npt.NDArray[Any], keep: Slots, missing: object) -> npt.NDArray[Any]:
        """The kept values; a slot beyond the array has none."""
        taken = np.full(len(keep), missing, values.dtype)
        inside = keep < len(values)
        taken[inside] = values[keep[inside]]
        return taken

    def _grow(self, at_least: int) -> None:
        capacity = max(at_least, 2 * len(self._present), 256)
        self._present = self._extended(self._present, capacity, False)
        if self._numbers is not None:
            self._numbers = self._extended(self._numbers, capacity, np.nan)
        if self._flags is not None:
            self._flags = self._extended(self._flags, capacity, -1)
        if self._texts is not None:
            self._texts = self._extended(self._texts, capacity, -1)

    @staticmethod
    def _extended(values: npt.NDArray[Any], capacity: int, missing: object) -> npt.NDArray[Any]:
        extended = np.full(capacity, missing, values.dtype)
        extended[: len(values)] = values
        return extended

    def _head(self, values: npt.NDArray[Any], count: int) -> npt.NDArray[Any]:
        if count > len(values):
            self._grow(count)
            return self._head(self._current(values), count)
        return values[:count]

    def _current(self, stale: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The array that replaced `stale` when the column grew; the four have different dtypes."""
        parts = (self._present, self._numbers, self._flags, self._texts)
        return next(part for part in parts if part is not None and part.dtype == stale.dtype)


class Columns:
    """The columns that filters have asked for, by field."""

    def __init__(self) -> None:
        self._columns: dict[str, Column] = {}

    @property
    def nbytes(self) -> int:
        return sum(column.nbytes for column in self._columns.values())

    def missing(self, fields: Iterable[str]) -> set[str]:
        """Fields that have no column yet."""
        return set(fields) - self._columns.keys()

    def adopt(self, built: Mapping[str, Column]) -> None:
        self._columns.update(built)

    def by_field(self) -> dict[str, Column]:
        return dict(self._columns)

    def is_empty(self) -> bool:
        return not self._columns

    def put(self, slot: int, metadata: Mapping[str, MetadataValue]) -> None:
        """Set a slot's metadata, forgetting what it had."""
        for field, column in self._columns.items():
            column.clear(slot)
            column.put(slot, metadata.get(field))

    def take(self, keep: Slots) -> "Columns":
        taken = Columns()
        taken._columns = {field: column.take(keep) for field, column in self._columns.items()}
        return taken

    def mask(self, tree: Filter, count: int) -> Mask:
        """Slots below `count` that match; every field of the tree must have its column."""
        match tree:
            case AnyOf():
                return self._columns[tree.field].equal(tree.operands, count)
            case Ordered():
                return self._columns[tree.field].ordered(tree.operator, tree.operand, count)
            case Exists():
                return self._columns[tree.field].present(count)
            case Not():
                return ~self.mask(tree.part, count)
            case All():
                mask = np.ones(count, np.bool_)
                for part in tree.parts:
                    mask &= self.mask(part, count)
                return mask
            case Some():
                mask = np.zeros(count, np.bool_)
                for part in tree.parts:
                    mask |= self.mask(part, count)
                return mask
            case _:
                raise TypeError(f"no filter: {tree!r}")
