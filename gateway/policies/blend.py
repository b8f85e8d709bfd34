"""How retrieval weighs dense against sparse: in one query of the index.

Pure. The index scores a record by dot product over unit dense vectors plus sparse vectors, so scaling
the query's two parts makes every score `weight * cosine + (1 - weight) * sparse`: a convex blend by
the index itself, one request, nothing to merge afterwards (Pinecone's documented hybrid scheme).

Why 0.55. Exact search over the bundled questions gives, as R@1 / R@5 / R@10 / MRR@10:

    dense alone .900 .992 .995 .941    weight 0.6  .906 .991 .998 .943    0.55 .904 .990 .998 .942
    sparse alone .803 .936 .958 .860   weight 0.5  .899 .987 .998 .938    0.4  .887 .981 .996 .930

and on two made-up sets of other domains (package descriptions; API documentation) R@1 falls with every
step towards dense: .683 and .589 at 0.55, .672 and .567 at 0.6, .599 and .260 for dense alone. Min-max
blending of two result lists (.875 .977 .990 .921 on the bundled questions) costs a second query and
loses; a weight by each list's own lead gains off-domain (.67 and .67) but needs both lists as well.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from regions.records import SparseVector

DENSE_WEIGHT: Final = 0.55


def hybrid_query(
    dense: NDArray[np.float32] | Sequence[float], sparse: SparseVector | None, weight: float = DENSE_WEIGHT
) -> tuple[list[float], SparseVector | None]:
    """The vectors to send so that the index answers `weight * dense score + (1 - weight) * sparse score`.

    `dense`: (dimension,) unit length; `weight` in [0, 1]. Without a sparse part (none, or a question of
    stop words) the dense one goes unscaled, so that its scores remain cosines.
    """
    vector = np.asarray(dense, np.float32)
    if sparse is None or not sparse.indices or weight >= 1:
        return vector.tolist(), None
    scaled = SparseVector(sparse.indices, [value * (1 - weight) for value in sparse.values])
    return (vector * np.float32(weight)).tolist(), scaled


def sparse_query(
    dimension: int, sparse: SparseVector, weight: float = DENSE_WEIGHT
) -> tuple[list[float], SparseVector]:
    """The vectors to send when there is no dense one: a score is what the blend's sparse part would be.

    A zero vector, because an index of dense vectors takes no query without one. Records that share no word
    with the question then score 0. Where the blend is dense alone, the sparse part goes unscaled.
    """
    scale = 1 - weight if weight < 1 else 1.0
    return [0.0] * dimension, SparseVector(sparse.indices, [value * scale for value in sparse.values])
