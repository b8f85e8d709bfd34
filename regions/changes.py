"""Changes: every way in which a namespace can be changed.

Pure. All mutations of the product are one of these values, pass through one write handler, and reach a
replica through `Replica.apply`.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from regions.names import NamespaceRef
from regions.records import Metadata, Record, SparseVector


class Upsert(msgspec.Struct, frozen=True, tag=True):
    """Write whole records; the last one of an id wins."""

    records: list[Record]


class Update(msgspec.Struct, frozen=True, tag=True):
    """Change parts of one record; metadata keys are merged, an unknown id is no error."""

    id: str
    values: Sequence[float] | None = None
    sparse_values: SparseVector | None = None
    set_metadata: Metadata | None = None


class UpdateByFilter(msgspec.Struct, frozen=True, tag=True):
    """Merge metadata into every record that matches."""

    filter: dict[str, Any]
    set_metadata: Metadata


class Delete(msgspec.Struct, frozen=True, tag=True):
    """Remove records by id; unknown ids are no error."""

    ids: list[str]


class DeleteByFilter(msgspec.Struct, frozen=True, tag=True):
    """Remove every record that matches."""

    filter: dict[str, Any]


class DeleteAll(msgspec.Struct, frozen=True, tag=True):
    """Remove every record; the namespace stays."""


class CreateNamespace(msgspec.Struct, frozen=True, tag=True):
    """Declare a namespace before its first record; `schema` is Pinecone's metadata schema, as decoded."""

    schema: dict[str, Any] | None = None


class DropNamespace(msgspec.Struct, frozen=True, tag=True):
    """Remove the namespace with all it holds."""


Change = (
    Upsert | Update | UpdateByFilter | Delete | DeleteByFilter | DeleteAll | CreateNamespace | DropNamespace
)


class Resolved(msgspec.Struct, frozen=True, tag=True):
    """The ids that the intent at `intent` (a change by filter) matched at its home, in chunks.

    `last` is set on the final chunk. Replicas never evaluate filters: they apply these ids at `intent`.
    """

    intent: int
    ids: list[str]
    last: bool


class Heartbeat(msgspec.Struct, frozen=True, tag=True):
    """Nothing changed; written each second, so that silence counts as lag."""


class EpochOpened(msgspec.Struct, frozen=True, tag=True):
    """The fence of a new epoch: what was appended under an earlier one ends before it."""


Body = Change | Resolved | Heartbeat | EpochOpened
"""What an entry of a change log can hold."""


class Write(msgspec.Struct, frozen=True):
    """A change and the namespace it is for."""

    namespace: NamespaceRef
    change: Change
