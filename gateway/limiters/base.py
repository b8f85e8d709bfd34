"""What a limiter does: takes from several quotas at once or from none, and settles what was an estimate."""

from collections.abc import Sequence
from typing import Protocol

from gateway.policies.token_bucket import Charge, Verdict


class Limiter(Protocol):
    """Counts for one region."""

    async def take(self, charges: Sequence[Charge]) -> Verdict:
        """Take all charges, or none. Never waits for a limit, and for no store longer than its timeouts."""
        ...

    def settle(self, charges: Sequence[Charge]) -> None:
        """Add what was used beyond an estimate; a negative cost gives back. Soon, and in order."""
        ...
