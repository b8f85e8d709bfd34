"""An inverted index over sparse vectors: exact dot products for every record, in time linear in the postings.

Not thread-safe: the namespace's lock guards it.
"""

from array import array

import numpy as np
import numpy.typing as npt

from regions.node.rows import Floats, Indices

Scores = npt.NDArray[np.float64]
_TERM_BYTES = 280
"""What a term costs beside its postings: two arrays, a tuple, a key and their place in the dictionary."""


class Postings:
    """By term: the slots that have it and their weights. A slot is only ever appended, or left behind."""

    def __init__(self) -> None:
        self._terms: dict[int, tuple[array[int], array[float]]] = {}
        self._entries = 0

    @property
    def nbytes(self) -> int:
        return len(self._terms) * _TERM_BYTES + 8 * self._entries

    def put(self, slot: int, indices: Indices, weights: Floats) -> None:
        """Add the vector of a slot that has none yet."""
        for term, weight in zip(indices.tolist(), weights.tolist(), strict=True):
            slots_weights = self._terms.get(term)
            if slots_weights is None:
                slots_weights = self._terms[term] = (array("I"), array("f"))
            slots_weights[0].append(slot)
            slots_weights[1].append(weight)
        self._entries += len(indices)

    def scores(self, indices: Indices, weights: Floats, count: int) -> Scores:
        """Dot product with every slot below `count`, dead ones included; 0 where no term is shared."""
        scores = np.zeros(count, np.float64)
        for term, weight in zip(indices.tolist(), weights.tolist(), strict=True):
            found = self._terms.get(term)
            if found is None:
                continue
            # Copies: a live view would forbid the arrays to grow.
            slots, values = np.array(found[0], np.intp), np.array(found[1], np.float64)
            if slots[-1] >= count:
                values, slots = values[slots < count], slots[slots < count]
            scores[slots] += weight * values  # a slot stands once under a term
        return scores

    def take(self, places: npt.NDArray[np.int64]) -> "Postings":
        """The postings after compaction: `places[old slot]` is the new slot, or -1 for one left behind."""
        taken = Postings()
        for term, (slots, weights) in self._terms.items():
            moved = places[np.array(slots, np.intp)]
            kept = moved >= 0
            if not kept.any():
                continue
            new_slots, new_weights = array("I"), array("f")
            new_slots.frombytes(moved[kept].astype(np.uint32).tobytes())
            new_weights.frombytes(np.array(weights, np.float32)[kept].tobytes())
            taken._terms[term] = (new_slots, new_weights)
            taken._entries += len(new_slots)
        return taken
