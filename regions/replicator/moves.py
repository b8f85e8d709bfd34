"""What a follower is told (events) and what it asks for (effects). Values only.

The driver performs an effect and answers with the event that its docstring names.
"""

from collections.abc import Sequence

import msgspec

from regions.logs.base import Entry, ShardState
from regions.names import IndexName, NamespaceRef
from regions.positions import Epoch, Lsn
from regions.replicator.coalesce import Call
from regions.replicator.watermarks import Progress

# --- Events ---------------------------------------------------------------------------------------


class Probed(msgspec.Struct, frozen=True):
    """What stands: the saved progress, the log's shard, and the indexes that lost what they held.

    `markers` are the tokens by which the indexes are known from now on.
    """

    progress: Progress | None
    shard: ShardState
    wiped: Sequence[IndexName] = ()
    markers: dict[str, str] = {}


class Marked(msgspec.Struct, frozen=True):
    """The indexes are known by these tokens from now on: one that could not be asked before is among them."""

    markers: dict[str, str]


class Surveyed(msgspec.Struct, frozen=True):
    """The most advanced other replica: its progress, and every namespace that it or we hold."""

    source: Progress
    namespaces: Sequence[NamespaceRef]


class Adopted(msgspec.Struct, frozen=True):
    """The stream is new to us, and nobody has more than we have beside it: it goes on from ours."""


class Alone(msgspec.Struct, frozen=True):
    """There is no other replica to copy from, and the shard holds all that ever was: begin from nothing."""


class Leased(msgspec.Struct, frozen=True):
    """We are the region's applier until then (loop time)."""

    until_s: float


class Received(msgspec.Struct, frozen=True):
    """The next entry of the shard."""

    entry: Entry


class Applied(msgspec.Struct, frozen=True):
    """The call is done; `index_lsn` is the index's own position, None when it tells none."""

    namespace: NamespaceRef
    index_lsn: Lsn | None


class Past(msgspec.Struct, frozen=True):
    """The index refused the call, for the namespace is at `position` already."""

    namespace: NamespaceRef
    position: Lsn


class Failed(msgspec.Struct, frozen=True):
    """The call has to be made again; with `may_land` it may still take effect, late."""

    namespace: NamespaceRef
    may_land: bool
    retry_after_s: float | None = None


class Refused(msgspec.Struct, frozen=True):
    """The index understood the call and will never do it."""

    namespace: NamespaceRef
    reason: str


class Visible(msgspec.Struct, frozen=True):
    """Queries see everything of the namespace up to `sequence`."""

    namespace: NamespaceRef
    sequence: int


class Announced(msgspec.Struct, frozen=True):
    """The ids of an intent were appended, or could not be (`is_done` false)."""

    namespace: NamespaceRef
    is_done: bool


class Saved(msgspec.Struct, frozen=True):
    """The progress is in the register, or could not be put there (`is_done` false)."""

    is_done: bool


class EpochReady(msgspec.Struct, frozen=True):
    """Everything of the epochs before is applied here."""

    index: IndexName
    epoch: Epoch


class Copied(msgspec.Struct, frozen=True):
    """The namespace holds what the source held at `start`, mixed with changes up to `end`."""

    namespace: NamespaceRef
    start: int
    end: int


class CopyFailed(msgspec.Struct, frozen=True):
    """No source, or it went away; `past` is our index's own position when that was the hindrance."""

    namespace: NamespaceRef
    past: int = 0


class Unpark(msgspec.Struct, frozen=True):
    """An operator wants the refused change tried again."""

    namespace: NamespaceRef


class Resync(msgspec.Struct, frozen=True):
    """An operator, or a digest, wants the namespace copied anew."""

    namespace: NamespaceRef


class Sought(msgspec.Struct, frozen=True):
    """Whether there is a replica to copy the namespace from."""

    namespace: NamespaceRef
    is_found: bool


class Tick(msgspec.Struct, frozen=True):
    """Time went by."""


Event = (
    Probed
    | Surveyed
    | Adopted
    | Alone
    | Marked
    | Leased
    | Received
    | Applied
    | Past
    | Failed
    | Refused
    | Visible
    | Announced
    | Saved
    | EpochReady
    | Copied
    | CopyFailed
    | Unpark
    | Resync
    | Sought
    | Tick
)

# --- Effects --------------------------------------------------------------------------------------


class Read(msgspec.Struct, frozen=True):
    """Read the shard from after that sequence, instead of where it was being read -> Received."""

    after: int
    incarnation: str


class Apply(msgspec.Struct, frozen=True):
    """Make the call, unless the lease is about to end -> Applied, Past, Failed or Refused.

    `entries` are the changes that it is (a part of) the sum of.
    """

    namespace: NamespaceRef
    call: Call
    entries: Sequence[Entry] = ()


class AwaitVisible(msgspec.Struct, frozen=True):
    """Wait until queries see the index's own position (None: whatever it has by now) -> Visible."""

    namespace: NamespaceRef
    sequence: int
    position: Lsn
    index_lsn: Lsn | None


class Resolve(msgspec.Struct, frozen=True):
    """Ask our replica which ids the intent matches, and append them -> Announced."""

    intent: Entry


class Save(msgspec.Struct, frozen=True):
    """Put the progress into its register, if nobody else did -> Saved."""

    progress: Progress


class AwaitEpoch(msgspec.Struct, frozen=True):
    """Wait until the epochs before are applied here -> EpochReady."""

    index: IndexName
    epoch: Epoch


class Survey(msgspec.Struct, frozen=True):
    """Find the most advanced other replica that received at least so much -> Surveyed, Adopted, Alone.

    `progress` is our own, which may be of another incarnation than the shard is now; `indexes` are those to
    be copied, None: all that are in the shard.
    """

    shard: ShardState
    progress: Progress
    received: int
    indexes: Sequence[IndexName] | None


class Seek(msgspec.Struct, frozen=True):
    """See whether another replica that is at `applied` or beyond can be copied -> Sought."""

    namespace: NamespaceRef
    applied: int


class Copy(msgspec.Struct, frozen=True):
    """Make the namespace equal to another replica's that is at `applied` or beyond -> Copied, CopyFailed.

    Writes carry `position`, which moves nothing at the index.
    """

    namespace: NamespaceRef
    applied: int
    position: Lsn


class Alarm(msgspec.Struct, frozen=True):
    """The namespace is parked before that sequence: somebody has to look."""

    namespace: NamespaceRef
    sequence: int
    reason: str


class AllClear(msgspec.Struct, frozen=True):
    """The namespace is parked no more."""

    namespace: NamespaceRef


Effect = Read | Apply | AwaitVisible | Resolve | Save | AwaitEpoch | Survey | Seek | Copy | Alarm | AllClear
