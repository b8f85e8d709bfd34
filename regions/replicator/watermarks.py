"""What a follower has done: its cursor and, at once, what it tells everyone about freshness.

Pure. One record for each shard of each home, in the registers of the follower's own region. Because the
cursor and the published watermark are the same bytes, a successor never starts before what readers were
promised. What holds:

- Every namespace of the shard that is not in `behind` is applied and queryable up to `received`.
- A namespace in `behind` is applied up to its own mark. A successor reads again from the lowest mark and
  skips, for every namespace, what that namespace already has.
- Of one incarnation, `received` and every namespace's positions only grow.

Sequences are of the home's stream; times are that log server's clock, seconds since 1970.
"""

from typing import Final

import msgspec

from regions.names import IndexName, NamespaceRef

NONE_S: Final = 0.0


class Mark(msgspec.Struct, frozen=True, omit_defaults=True):
    """A namespace that is not caught up, or not readable.

    `unapplied_s` and `unqueryable_s` say when the oldest change that it lacks was appended (0: none).
    """

    applied: int
    queryable: int
    unapplied_s: float = NONE_S
    unqueryable_s: float = NONE_S
    parked: str = ""
    """Why the namespace stands still: the index's own words about the change after `applied`."""
    is_copying: bool = False
    """It is being copied from another replica, over `applied`."""
    admit_at: int = 0
    """After a copy: unreadable until this sequence is applied."""

    @property
    def is_readable(self) -> bool:
        return not self.parked and not self.is_copying and self.applied >= self.admit_at


class Gate(msgspec.Struct, frozen=True, omit_defaults=True):
    """An epoch of an index, opened at `sequence`, whose changes wait for the end of the one before."""

    epoch: int
    sequence: int
    later: list["Gate"] = []
    """Epochs that were opened behind it, in the same log; they wait in their turn."""

    @property
    def newest(self) -> int:
        """The last epoch that this log has opened."""
        return self.later[-1].epoch if self.later else self.epoch

    def then(self, epoch: int, sequence: int) -> "Gate":
        """This gate, with another one behind it."""
        return msgspec.structs.replace(self, later=[*self.later, Gate(epoch, sequence)])

    @property
    def following(self) -> "Gate | None":
        """What stands in the way when this one is open."""
        if not self.later:
            return None
        return msgspec.structs.replace(self.later[0], later=self.later[1:])


class Progress(msgspec.Struct, frozen=True, omit_defaults=True):
    """How far a follower is. `writer` is the daemon that wrote it: two of them never both believe."""

    writer: str
    incarnation: str
    received: int
    received_s: float = NONE_S
    is_first: bool = False
    """All that was ever written came from this stream: no other one was followed before it."""
    is_resyncing: bool = False
    """Nothing of the shard may be read: what there is to copy is not even known yet."""
    behind: dict[str, Mark] = {}
    gates: dict[str, Gate] = {}
    epochs: dict[str, int] = {}
    """The epoch of each index that this follower applies."""
    markers: dict[str, str] = {}
    """What the follower left in each index, to know it again."""
    changed: dict[str, int] = {}
    """The last change of each index that was taken in: only changes beyond a term's end make a tail."""

    def mark(self, namespace: NamespaceRef) -> Mark:
        """Where the namespace stands: its own mark, or the shard's."""
        return self.behind.get(key_of(namespace)) or Mark(self.received, self.received)

    def is_readable(self, namespace: NamespaceRef) -> bool:
        return (
            not self.is_resyncing and namespace.index not in self.gates and self.mark(namespace).is_readable
        )

    def is_copyable(self, namespace: NamespaceRef) -> bool:
        """Whether it can be copied: also while it stands still, or is not exact yet after a copy."""
        is_settled = not self.is_resyncing and namespace.index not in self.gates
        return is_settled and not self.mark(namespace).is_copying

    def applied_s(self, namespace: NamespaceRef) -> float:
        """Up to which time of the log server the namespace has everything applied."""
        mark = self.behind.get(key_of(namespace))
        return mark.unapplied_s if mark is not None and mark.unapplied_s else self.received_s

    def queryable_s(self, namespace: NamespaceRef) -> float:
        """Up to which time of the log server the namespace has everything visible to queries."""
        mark = self.behind.get(key_of(namespace))
        return mark.unqueryable_s if mark is not None and mark.unqueryable_s else self.received_s

    @property
    def hold_after(self) -> int:
        """The log must keep what comes after this, also for namespaces that stand still."""
        return min([self.received, *(mark.applied for mark in self.behind.values())])


def key_of(namespace: NamespaceRef) -> str:
    """How a namespace is called in a record: an index's name has no slash."""
    return f"{namespace.index}/{namespace.stored}"


def namespace_of(key: str) -> NamespaceRef:
    index, _, stored = key.partition("/")
    return NamespaceRef(IndexName(index), stored)


def progress_key(home: str, shard: int) -> str:
    """The register of a follower's progress."""
    return f"progress.{home}.{shard}"


_DECODER: Final = msgspec.json.Decoder(Progress)


def encode(progress: Progress) -> bytes:
    return msgspec.json.encode(progress)


def decode(data: bytes) -> Progress:
    """Raises: msgspec.DecodeError: the bytes are no progress record."""
    return _DECODER.decode(data)
