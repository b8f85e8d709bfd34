"""Tenants: who may call, and what they are called inside. The only maker of `NamespaceRef`s.

Keys are kept as digests (blake2b, keyed with a pepper that the tenants file does not hold), so a
leaked file opens nothing. A key is looked up by its digest: the time taken says nothing of how much
of a guess was right.
"""

import hashlib
import hmac
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from pydantic import BaseModel, ConfigDict, Field, field_validator

from gateway.allowances import Budget, CacheRules, Grants, Limits, Priority
from gateway.errors import BadRequest, Forbidden, NotFound, Unauthenticated
from gateway.messages import Degrade, RagMode
from regions.errors import BadName, ConfigProblem
from regions.names import (
    IndexName,
    NamespaceRef,
    TenantId,
    parse_index,
    parse_tenant,
    tenant_name,
    tenant_namespace,
    tenant_prefix,
)

MAX_KEY_LENGTH: Final = 512


def digest_key(key: str, pepper: bytes) -> str:
    """The digest under which a key is kept: 32 hexadecimal bytes of blake2b keyed with `pepper`."""
    pepper = hashlib.blake2b(pepper).digest()  # any length of secret becomes blake2b's 64 bytes
    # A header may hold bytes that are no UTF-8; aiohttp hands them over as lone surrogates.
    return hashlib.blake2b(key.encode(errors="surrogateescape"), key=pepper, digest_size=32).hexdigest()


class TenantKey(BaseModel):
    """One key of a tenant, as its digest."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    digest: str = Field(pattern=r"^[0-9a-f]{64}$", description="From digest_key(); never the key itself.")
    label: str = Field("", description="For people: where this key is used.")
    limits: Limits = Limits()


class TenantDefaults(BaseModel):
    """What a tenant's plain calls mean."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    index: str | None = Field(None, description="Index of calls that name none.")
    namespace: str = Field("", description="Namespace of calls that name none.")
    mode: RagMode = Field(RagMode.AUTO, description="auto retrieves, off is a plain proxy.")
    degrade: Degrade = Field(Degrade.ALLOW, description="allow: excerpts when no LLM answers; never: 503.")
    retrieval_down: Degrade = Field(
        Degrade.NEVER, description="never: 503 when retrieval is down; allow: an ungrounded answer, marked."
    )
    serve_stale: bool = Field(
        False, description="Read from a replica beyond the bound, marked, when no fresh one can be had."
    )
    top_k: int | None = Field(None, ge=1, le=100, description="Passages retrieved; the gateway's by default.")
    deadline_s: float | None = Field(
        None, gt=0, le=3600, description="A request's whole time, within server.deadline_s, its default."
    )


class Tenant(BaseModel):
    """Who pays, what they may use, and what their calls mean by default."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(description="16 of a-z and 0-9; prefixes every stored namespace, never reused.")
    name: str = Field(description="For people.")
    keys: list[TenantKey] = Field(default_factory=list)
    grants: Grants = Grants()
    limits: Limits = Limits()
    model_limits: dict[str, Limits] = Field(
        default_factory=dict, description="Further limits, each of one model, by its alias."
    )
    weight: float = Field(1.0, gt=0, le=100, description="Its share of a full gateway, against the others'.")
    priority: Priority = Field(
        Priority.INTERACTIVE, description="Of calls that do not say; text ingestion comes last in any case."
    )
    budget: Budget | None = Field(None, description="Without one, spending is counted and not bounded.")
    cache: CacheRules = CacheRules()
    defaults: TenantDefaults = TenantDefaults()

    @field_validator("id")
    @classmethod
    def _check_id(cls, value: str) -> str:
        try:
            return parse_tenant(value)
        except BadName as error:
            raise ValueError(str(error)) from None

    @property
    def tenant_id(self) -> TenantId:
        return TenantId(self.id)

    def may_use(self, index: str) -> bool:
        return not self.grants.indexes or index in self.grants.indexes

    def index(self, name: str | None, known: Iterable[str]) -> IndexName:
        """The index a call means: the one it names, else the tenant's default.

        Raises: BadRequest: it names none and there is no default. Forbidden: outside the tenant's
        grants. NotFound: there is no such index.
        """
        chosen = name or self.defaults.index
        if chosen is None:
            raise BadRequest("name an index: this tenant has no default one", param="index")
        if not self.may_use(chosen):
            raise Forbidden(f"this key may not use the index {chosen!r}")
        try:
            parsed = parse_index(chosen)
        except BadName as error:
            raise BadRequest(str(error), param="index") from error
        if parsed not in known:
            raise NotFound(f"there is no index {chosen!r}", code="index_not_found", param="index")
        return parsed

    def namespace(self, index: IndexName, name: str) -> NamespaceRef:
        """The stored namespace of this tenant's name for it. Raises: BadRequest: not a valid name."""
        try:
            return tenant_namespace(self.tenant_id, index, name)
        except BadName as error:
            raise BadRequest(str(error), param="namespace") from error

    def prefix(self) -> str:
        """What every stored namespace of this tenant begins with."""
        return tenant_prefix(self.tenant_id)

    def own_name(self, stored: str) -> str | None:
        """This tenant's name for a stored namespace; None when it is somebody else's."""
        return tenant_name(self.tenant_id, stored)


class TenantsFile(BaseModel):
    """The tenants file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tenants: list[Tenant] = Field(default_factory=list)


def check_tenants(
    file: TenantsFile, indexes: Iterable[str], regions: Iterable[str] = ()
) -> list[ConfigProblem]:
    """Every problem that no single field shows: repeated ids and keys, names of what does not exist.

    `regions` are those with registers, where budgets can be kept.
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
        problems += _check_budget(tenant.budget, f"{path}.budget", places)
        named = [*tenant.grants.indexes, *([tenant.defaults.index] if tenant.defaults.index else [])]
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
    """Finds the tenant of a key."""

    def __init__(self, file: TenantsFile, pepper: bytes) -> None:
        self._pepper = pepper
        self._by_digest: Mapping[str, tuple[Tenant, TenantKey]] = {
            key.digest: (tenant, key) for tenant in file.tenants for key in tenant.keys
        }

    def authenticate(self, key: str | None) -> tuple[Tenant, TenantKey]:
        """Whose key this is, and which of theirs.

        Raises: Unauthenticated: no key, or one that belongs to nobody.
        """
        if not key:
            raise Unauthenticated("no API key: send it as 'Authorization: Bearer …' or 'Api-Key: …'")
        digest = digest_key(key[:MAX_KEY_LENGTH], self._pepper)
        found = self._by_digest.get(digest)
        if found is None or not hmac.compare_digest(digest, found[1].digest):
            raise Unauthenticated("this API key belongs to no tenant of this gateway")
        return found
