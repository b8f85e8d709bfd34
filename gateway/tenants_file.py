"""The tenants file: read as a whole, checked as a whole, and looked keys up in.

What is found under a key is replaced as a whole too, between two requests: one that is under way ends as it
began. A key is looked up by its digest: the time taken says nothing of how much of a guess was right.
"""

import hmac
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC

from pydantic import BaseModel, ConfigDict, Field

from gateway.allowances import Budget
from gateway.errors import Unauthenticated
from gateway.tenants import MAX_KEY_LENGTH, Tenant, TenantKey, digest_key
from regions.errors import ConfigProblem


class TenantsFile(BaseModel):
    """The tenants file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tenants: list[Tenant] = Field(default_factory=list)


def check_tenants(
    file: TenantsFile, indexes: Iterable[str], regions: Iterable[str] = ()
) -> list[ConfigProblem]:
    """Every problem that no single field shows: repeated ids and keys, names of what does not exist.

    `regions` are those with registers, where budgets can be kept. Models are not looked for: they come and go
    while tenants stay.
    """
    places = list(regions)
    known, ids, digests = set(indexes), set[str](), set[str]()
    problems: list[ConfigProblem] = []
    for number, tenant in enumerate(file.tenants):
        path = f"tenants.{number}"
        if tenant.id in ids:
            problems.append(ConfigProblem(f"{path}.id", f"{tenant.id} stands twice"))
        ids.add(tenant.id)
        for place, key in enumerate(tenant.keys):
            if key.digest in digests:
                problems.append(ConfigProblem(f"{path}.keys.{place}.digest", "belongs to two keys"))
            digests.add(key.digest)
            problems += [
                ConfigProblem(f"{path}.keys.{place}.grants", f"{what} is not granted to the tenant itself")
                for what in key.grants.beyond(tenant.grants)
            ]
        problems += _check_budget(tenant.budget, f"{path}.budget", places)
        grants = [tenant.grants, *(key.grants for key in tenant.keys)]
        named = [name for each in grants for name in each.indexes]
        named += [tenant.defaults.index] if tenant.defaults.index else []
        problems += [
            ConfigProblem(path, f"names the index {name!r}, which is not configured")
            for name in sorted(set(named) - known)
        ]
    return problems


def _check_budget(budget: Budget | None, path: str, places: Sequence[str]) -> Iterator[ConfigProblem]:
    """A budget is kept in the registers of a region."""
    if budget is None:
        return
    if not places:
        yield ConfigProblem(path, "has no account: budgets stand in registers", "describe them under regions")
    elif budget.home is not None and budget.home not in places:
        known = f"there are: {', '.join(sorted(places))}"
        yield ConfigProblem(f"{path}.home", f"{budget.home} is not under regions.places", known)


class Tenants:
    """Finds the tenant of a key, by the file that was read last. `wall_clock`: seconds since 1970."""

    def __init__(self, file: TenantsFile, pepper: bytes, wall_clock: Callable[[], float]) -> None:
        self._pepper, self._wall_clock = pepper, wall_clock
        self.replace(file)

    def replace(self, file: TenantsFile) -> None:
        """Let these be the tenants from now on. The file was checked."""
        self.file = file
        self._by_digest: Mapping[str, tuple[Tenant, TenantKey]] = {
            key.digest: (tenant.with_grants_of(key), key) for tenant in file.tenants for key in tenant.keys
        }

    def authenticate(self, key: str | None) -> tuple[Tenant, TenantKey]:
        """Whose key this is, with what it grants, and which of theirs.

        Raises: Unauthenticated: no key, one that belongs to nobody, or one whose time is over.
        """
        if not key:
            raise Unauthenticated("no API key: send it as 'Authorization: Bearer …' or 'Api-Key: …'")
        digest = digest_key(key[:MAX_KEY_LENGTH], self._pepper)
        found = self._by_digest.get(digest)
        if found is None or not hmac.compare_digest(digest, found[1].digest):
            raise Unauthenticated("this API key belongs to no tenant of this gateway")
        expires = found[1].expires
        if expires is not None and self._wall_clock() >= expires.timestamp():
            day = expires.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            raise Unauthenticated(f"this API key expired at {day}", code="expired_api_key")
        return found
