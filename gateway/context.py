"""What every stage knows of the request it serves, and the notes they leave behind."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from gateway.allowances import Priority, Resource, Standing
from gateway.cache_control import ANYTHING, CacheControl
from gateway.errors import DeadlineExceeded
from gateway.tenants import Tenant, TenantKey
from regions.positions import NO_LSN, Lsn
from regions.runtime import tracing
from regions.runtime.tracing import Trace

MAX_NOTES: Final = 64
TRACED_ELSEWHERE: Final = frozenset({"embed", "retrieve", "append", "llm_first_token", "llm_total"})
"""Stages that make spans by themselves, one a call of something else."""

ANSWER: Final = "answer"
"""The note that an ended chat answer leaves: `edge.facts.leave_note`."""
ATTEMPT: Final = "attempt"
"""The note that each call of an LLM upstream leaves: `stages.metering`."""


@dataclass(frozen=True, slots=True)
class Note:
    """One fact on a trail: what, how long after the request began (s), and its details."""

    name: str
    at_s: float
    details: dict[str, Any]


@dataclass(slots=True)
class Trail:
    """Append-only notes: who did what, when. `Observe` alone turns them into logs, metrics and spans.

    `trace` is None where nothing is traced.
    """

    notes: list[Note] = field(default_factory=list)
    stages_s: dict[str, float] = field(default_factory=dict)
    trace: Trace | None = None

    def note(self, name: str, at_s: float, **details: Any) -> None:
        """Leave a note; beyond `MAX_NOTES` it is dropped, so that no request grows without bound."""
        if len(self.notes) < MAX_NOTES:
            self.notes.append(Note(name, at_s, details))

    def took(self, stage: str, seconds: float) -> None:
        """Add to the time spent in a stage (a key of `telemetry.STAGES`), which ended just now."""
        self.stages_s[stage] = self.stages_s.get(stage, 0.0) + seconds
        if self.trace is not None and stage not in TRACED_ELSEWHERE:
            tracing.ended_now(self.trace, stage, seconds)

    def take_over(self, other: "Trail") -> None:
        """Add what another trail tells: its work was done for this request in the end."""
        self.notes.extend(other.notes[: MAX_NOTES - len(self.notes)])
        for stage, seconds in other.stages_s.items():
            self.took(stage, seconds)

    def last(self, name: str) -> dict[str, Any]:
        """Details of the latest note of that name; {} when there is none."""
        return next((n.details for n in reversed(self.notes) if n.name == name), {})


@dataclass(frozen=True, slots=True)
class RequestContext:
    """Frozen facts of one request. Times are those of `clock`, in seconds, and `deadline_s` is absolute.

    `floor` and `max_staleness_s` are what the caller's reads accept (None: the gateway's default), `ack` is
    what its writes wait for: "", "applied", or "region=…". `is_whole`: a stream is given out only once it is
    complete. `complexity` is the caller's hint to the route, "" for none. `key` is the one that was shown.
    `standings` are its limits as they were last counted, the tightest of each kind.
    """

    request_id: str
    tenant: Tenant
    dialect: str
    started_s: float
    deadline_s: float
    clock: Callable[[], float]
    trail: Trail = field(default_factory=Trail)
    floor: Lsn = NO_LSN
    max_staleness_s: float | None = None
    ack: str = ""
    is_whole: bool = False
    complexity: str = ""
    key: TenantKey | None = None
    priority: Priority = Priority.INTERACTIVE
    standings: dict[Resource, Standing] = field(default_factory=dict)
    cache: CacheControl = ANYTHING

    def elapsed_s(self) -> float:
        return self.clock() - self.started_s

    def remaining_s(self) -> float:
        """What is left of the deadline. Raises: DeadlineExceeded: nothing is."""
        left = self.deadline_s - self.clock()
        if left <= 0:
            raise DeadlineExceeded("the request's deadline passed before it could be answered")
        return left

    def note(self, name: str, **details: Any) -> None:
        """Leave a note on the trail, stamped with the time since the request began."""
        self.trail.note(name, self.elapsed_s(), **details)
