"""What an embedder can do, whatever model stands behind it.

Every row it returns has unit length, so that dot product and cosine agree and an index can hold dense
and sparse vectors together. `version` names model, weights and pooling: vectors of two versions are
never compared, and each record remembers its own in `_m.embedding`.

A plug-in file holds `Config` (pydantic, frozen, extra="forbid"), `build(config, name, resolve)`, where
`resolve` turns a secret's reference into the secret, and `version_of(config)`: the version of what would be
built, so that a configuration can be checked before anything is.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from regions.runtime.config_file import SecretRef

Vectors = NDArray[np.float32]
Kind = Literal["query", "passage"]
Resolve = Callable[[SecretRef], str]


@dataclass(frozen=True, slots=True)
class Embedded:
    """`vectors`: (n, dimension) float32, unit rows in the order asked; `tokens` is what the model read."""

    vectors: Vectors
    tokens: int


class Embedder(Protocol):
    """Text in, unit vectors out."""

    @property
    def version(self) -> str:
        """Equal versions mean comparable vectors; printable ASCII without spaces."""
        ...

    @property
    def dimension(self) -> int: ...

    async def start(self) -> None:
        """Load and warm up: the first caller must not pay for it. Raises: GatewayError: cannot serve."""
        ...

    async def embed(self, texts: Sequence[str], *, kind: Kind, timeout_s: float) -> Embedded:
        """Vectors of `texts`; a query never waits behind passages.

        Raises: BadRequest: no texts, or an empty one. Overloaded: the queue is full (`retry_after_s`
        says when to come back). UpstreamTimeout: not done in `timeout_s`. UpstreamUnavailable,
        UpstreamRejected, UpstreamProtocolError: as the model's endpoint failed.
        """
        ...

    async def close(self) -> None:
        """Let go of threads and connections; what still waits fails with UpstreamUnavailable."""
        ...


def to_unit(vectors: Vectors) -> Vectors:
    """Rows scaled to length 1; a zero row stays zero. `vectors`: (n, dimension) float32."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: Vectors = (vectors / np.where(norms > 0, norms, 1)).astype(np.float32, copy=False)
    return unit
