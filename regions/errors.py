"""What can go wrong with state.

RegionsError
  BadName              outside text that is no valid name
  BadFilter            a metadata filter outside the language
  ConfigError          a configuration that cannot be used; carries every problem found
  ReplicaError         a vector index could not do what was asked
    ReplicaUnavailable   not reached, timed out, or overloaded: another replica may do
    ReplicaRejected      it understood and refused: no replica will do
    ReplicaAhead         the namespace is past the position that a change was to have
  LogError             a change log could not do what was asked
    LogUnavailable       not reached; what was asked was certainly not done
    AppendUnknown        an append may or may not be stored
    StaleEpoch           the epoch was fenced off: the index has another home or term by now
    LogTrimmed           entries that a reader has not seen are gone
    LogRecreated         the stream is another one than the reader's cursor is of
    LogCorrupt           an entry whose checksum or codec version is wrong
  Conflict             a compare-and-set lost against somebody else
  LsnSuperseded        a position that its epoch never reached: it ended before
  EpochAhead           a position of an epoch that is not known here, or not yet

Foreign exceptions are translated once, in the adapter where they enter, with `from`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from regions.positions import Lsn


class RegionsError(Exception):
    """Root of the tree."""


class BadName(RegionsError):
    """Text that is no valid name of its kind."""

    def __init__(self, kind: str, text: str, rule: str) -> None:
        shown = text if len(text) <= 60 else text[:57] + "..."
        super().__init__(f"{shown!r} is no valid {kind}: {rule}")
        self.kind, self.rule = kind, rule


class BadFilter(RegionsError):
    """A metadata filter outside Pinecone's language; `path` says where."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"filter{path}: {problem}")
        self.path = path


@dataclass(frozen=True, slots=True)
class ConfigProblem:
    """One thing wrong in a configuration."""

    path: str
    problem: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.path}: {self.problem}" + (f" ({self.hint})" if self.hint else "")


class ConfigError(RegionsError):
    """A configuration that cannot be used; `problems` holds all of them, not the first."""

    def __init__(self, source: str, problems: Sequence[ConfigProblem]) -> None:
        super().__init__("\n".join([f"{source}: {len(problems)} problem(s)", *map(str, problems)]))
        self.source, self.problems = source, tuple(problems)


class ReplicaError(RegionsError):
    """A vector index could not do what was asked."""


class ReplicaUnavailable(ReplicaError):
    """Not reached, timed out, overloaded: another replica may do.

    With `may_land` a change that was sent may still take effect, later; without, it certainly will not.
    """

    def __init__(self, message: str, retry_after_s: float | None = None, *, may_land: bool = True) -> None:
        super().__init__(message)
        self.retry_after_s, self.may_land = retry_after_s, may_land


class ReplicaRejected(ReplicaError):
    """Understood and refused; `status` and `message` are the index's own."""

    def __init__(self, status: int, code: int, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


class ReplicaAhead(ReplicaError):
    """The change is older than what the namespace has, and was not applied; `position` is the namespace's."""

    def __init__(self, position: Lsn) -> None:
        super().__init__(f"the namespace is at position {position} already")
        self.position = position


class LogError(RegionsError):
    """A change log could not do what was asked."""


class LogUnavailable(LogError):
    """Not reached in time; what was asked was certainly not done."""


class AppendUnknown(LogError):
    """The outcome of an append is unknown: it may be stored, or may yet be."""


class StaleEpoch(LogError):
    """The epoch was fenced off; the topology says who is home now."""


class LogTrimmed(LogError):
    """The entry after the cursor is gone; `first` is the oldest there is."""

    def __init__(self, shard: int, after: int, first: int) -> None:
        super().__init__(
            f"shard {shard}: entries {after + 1} to {first - 1} were trimmed before they were read"
        )
        self.shard, self.after, self.first = shard, after, first


class LogRecreated(LogError):
    """The stream was deleted and made anew, or lost its tail."""


class LogCorrupt(LogError):
    """An entry that cannot be what was written."""


class Conflict(RegionsError):
    """A compare-and-set lost: the register had changed."""


class LsnSuperseded(RegionsError):
    """The epoch of the position ended before it: what stood there is no part of the history."""


class EpochAhead(RegionsError):
    """The epoch of the position is later than any that is known here."""
