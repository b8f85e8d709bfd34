"""One hybrid query scores as the blend of two."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.policies.blend import hybrid_query
from regions.records import SparseVector


@given(st.floats(0, 0.99), st.integers(0, 2**32 - 1))
def test_the_index_scores_the_convex_blend(weight: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    dense, record = (row / np.linalg.norm(row) for row in rng.normal(size=(2, 16)).astype(np.float32))
    sparse = SparseVector([3, 7], [0.25, 0.75])
    vector, scaled = hybrid_query(dense, sparse, weight)
    assert scaled is not None
    assert np.dot(vector, record) == pytest.approx(weight * np.dot(dense, record), abs=1e-5)
    assert scaled.indices == sparse.indices
    assert scaled.values == pytest.approx([(1 - weight) * value for value in sparse.values])


@pytest.mark.parametrize("sparse", [None, SparseVector([], [])])
def test_without_words_the_dense_vector_goes_unscaled(sparse: SparseVector | None) -> None:
    vector, no_sparse = hybrid_query([0.6, 0.8], sparse, 0.5)
    assert vector == pytest.approx([0.6, 0.8])
    assert no_sparse is None


def test_full_weight_on_dense_sends_no_sparse_part() -> None:
    assert hybrid_query([1.0, 0.0], SparseVector([1], [1.0]), 1.0) == ([1.0, 0.0], None)
