"""What a log keeps: by age, by size, and for whom.

Pure. A lease says up to where a reader has read and until when (the log server's clock) it wants the rest
kept. Leases stand in the region's registers, one key a reader, so that they outlive every process.
"""

from collections.abc import Iterable
from typing import Final

import msgspec
from pydantic import BaseModel, ConfigDict, Field, model_validator

from regions.errors import LogCorrupt

LEASE_PREFIX: Final = "leases."


class Retention(BaseModel):
    """When entries go."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    age_s: float = Field(
        7 * 86_400.0, gt=0, description="Older entries go, unless a reader's lease keeps them."
    )
    soft_bytes: int = Field(
        3_000_000_000, gt=0, description="Beyond this the oldest entries of a shard go, leases permitting."
    )
    hard_bytes: int = Field(
        4_000_000_000,
        gt=0,
        description="Beyond this a shard takes no more; trimming then goes past leases down to soft_bytes.",
    )

    @model_validator(mode="after")
    def _check(self) -> "Retention":
        if self.hard_bytes < self.soft_bytes:
            raise ValueError("hard_bytes must not be below soft_bytes")
        return self


FORCED_RATIO: Final = 0.9
"""Trimming goes past leases from this part of hard_bytes on, before the log refuses appends."""


class Lease(msgspec.Struct, frozen=True):
    """Entries after `sequences` (one a shard) are wanted until `until_s`."""

    sequences: list[int]
    until_s: float


def lease_key(reader: str) -> str:
    return LEASE_PREFIX + reader


def encode_lease(lease: Lease) -> bytes:
    return msgspec.json.encode(lease)


def decode_lease(value: bytes) -> Lease:
    """Raises: LogCorrupt: no lease."""
    try:
        return msgspec.json.decode(value, type=Lease)
    except msgspec.DecodeError as error:
        raise LogCorrupt(f"a register under {LEASE_PREFIX} holds no lease: {error}") from error


def held_after(leases: Iterable[Lease], shard: int, now_s: float) -> int | None:
    """The sequence after which somebody wants every entry of the shard; None when nobody does."""
    return min(
        (
            lease.sequences[shard]
            for lease in leases
            if lease.until_s > now_s and shard < len(lease.sequences)
        ),
        default=None,
    )


def new_first(
    first: int, last: int, *, young: int, fitting: int, held: int | None, stored_bytes: int, keep: Retention
) -> int:
    """The first sequence to keep, from `first` (nothing goes) to `last + 1` (all goes).

    `young` is the first entry younger than the retention's age, `fitting` the first of those that fit into
    its soft size, `held` the sequence after which a lease wants all.
    """
    wanted = max(young, fitting)
    if held is not None:
        wanted = min(wanted, held + 1)
    if stored_bytes >= keep.hard_bytes * FORCED_RATIO:
        wanted = max(wanted, fitting)
    return max(first, min(wanted, last + 1))
