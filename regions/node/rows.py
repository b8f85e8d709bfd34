"""Records as the store keeps them: bytes for vectors and metadata.

Pure. `dense` is (dimension,) float32 little-endian; `sparse` is n uint32 indices, ascending, and then n
float32 values; `metadata` is a JSON object. An absent part is None.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from regions.records import Metadata, MetadataValue, Record, SparseVector

Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.uint32]

_METADATA: Final = msgspec.json.Decoder(Metadata)


class Row(msgspec.Struct, frozen=True):
    """One record, encoded."""

    id: str
    dense: bytes | None
    sparse: bytes | None
    metadata: bytes | None

    @property
    def size(self) -> int:
        """Bytes that the record counts for in `size_bytes`."""
        return len(self.id) + sum(len(part) for part in (self.dense, self.sparse, self.metadata) if part)


def encode_dense(values: Iterable[float]) -> bytes | None:
    """None for no values."""
    encoded = np.array(values, dtype="<f4").tobytes()
    return encoded or None


def decode_dense(encoded: bytes) -> Floats:
    return np.frombuffer(encoded, dtype="<f4")


def encode_sparse(sparse: SparseVector | None) -> bytes | None:
    """None for no vector; the indices are sorted, so equal vectors have equal bytes."""
    if sparse is None or not sparse.indices:
        return None
    indices = np.array(sparse.indices, dtype="<u4")
    order = np.argsort(indices)
    return indices[order].tobytes() + np.array(sparse.values, dtype="<f4")[order].tobytes()


def decode_sparse(encoded: bytes) -> tuple[Indices, Floats]:
    count = len(encoded) // 8
    return np.frombuffer(encoded, "<u4", count), np.frombuffer(encoded, "<f4", count, 4 * count)


def encode_metadata(metadata: Mapping[str, MetadataValue] | None) -> bytes | None:
    return msgspec.json.encode(metadata) if metadata else None


def decode_metadata(encoded: bytes | None) -> dict[str, Any]:
    return _METADATA.decode(encoded) if encoded else {}


def encode_record(record: Record) -> Row:
    return Row(
        record.id,
        encode_dense(record.values),
        encode_sparse(record.sparse_values),
        encode_metadata(record.metadata),
    )


def encode_records(records: Iterable[Record]) -> list[Row]:
    """The rows to write, in order; the last one of an id wins."""
    return [encode_record(record) for record in {record.id: record for record in records}.values()]


def decode_row(row: Row, *, values: bool = True, metadata: bool = True) -> Record:
    """The record, with the parts asked for; values come back as the float32 that were written."""
    sparse = None
    if values and row.sparse:
        indices, weights = decode_sparse(row.sparse)
        sparse = SparseVector(indices.tolist(), weights.tolist())
    return Record(
        id=row.id,
        values=decode_dense(row.dense).tolist() if values and row.dense else [],
        sparse_values=sparse,
        metadata=decode_metadata(row.metadata) if metadata and row.metadata else None,
    )
