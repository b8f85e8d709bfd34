"""Tenants: who may call, and what they are called inside. The only maker of `NamespaceRef`s.

Keys are kept as digests (blake2b, keyed with a pepper that the tenants file does not hold), so a
leaked file opens nothing. A key is looked up by its digest: the time taken says nothing of how much
of a guess was right.
"""

import hashlib
from collections.abc import Iterable
from typing import Final

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, field_validator

from gateway.allowances import Budget, CacheRules, Grants, Limits, Operation, Priority
from gateway.errors import BadRequest, Forbidden, NotFound
from gateway.messages import Degrade, RagMode
from regions.errors import BadName
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
    expires: AwareDatetime | None = Field(
        None, description="When it opens nothing any more, with its zone, such as 2027-01-31T00:00:00Z."
    )
    limits: Limits = Limits()
    grants: Grants = Field(Grants(), description="Narrower than the tenant's; what is empty is the tenant's.")


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

    def with_grants_of(self, key: TenantKey) -> "Tenant":
        """The tenant as this key opens it."""
        own, of_key = self.grants, key.grants
        narrowed = {name: getattr(of_key, name) or getattr(own, name) for name in Grants.model_fields}
        return self.model_copy(update={"grants": Grants(**narrowed)})

    def check(self, operation: Operation) -> None:
        """Raises: Forbidden: not granted."""
        if not self.grants.allows("operations", operation):
            raise Forbidden(f"this key may not {_DOES[operation]}: it lacks the grant {operation.value!r}")

    def check_model(self, alias: str) -> None:
        """Raises: Forbidden: not granted."""
        if not self.grants.allows("models", alias):
            raise Forbidden(f"this key may not use the model {alias[:100]!r}", param="model")

    def may_use(self, index: str) -> bool:
        return self.grants.allows("indexes", index)

    def index(self, name: str | None, known: Iterable[str]) -> IndexName:
        """The index a call means: the one it names, else the tenant's default.

        Raises: BadRequest: it names none and there is no default. Forbidden: outside the tenant's
        grants. NotFound: there is no such index.
        """
        chosen = name or self.defaults.index
        if chosen is None:
            raise BadRequest("name an index: this tenant has no default one", param="index")
        if not self.may_use(chosen):
            raise Forbidden(f"this key may not use the index {chosen!r}", param="index")
        try:
            parsed = parse_index(chosen)
        except BadName as error:
            raise BadRequest(str(error), param="index") from error
        if parsed not in known:
            raise NotFound(f"there is no index {chosen!r}", code="index_not_found", param="index")
        return parsed

    def namespace(self, index: IndexName, name: str) -> NamespaceRef:
        """The stored namespace of this tenant's name for it.

        Raises: BadRequest: not a valid name. Forbidden: outside the tenant's grants.
        """
        try:
            found = tenant_namespace(self.tenant_id, index, name)
        except BadName as error:
            raise BadRequest(str(error), param="namespace") from error
        # As the index stores it: however it was spelled, this is what is read and written.
        if not self.grants.allows_namespace(self._plain(found)):
            raise Forbidden(f"this key may not use the namespace {name[:100]!r}", param="namespace")
        return found

    def prefix(self) -> str:
        """What every stored namespace of this tenant begins with."""
        return tenant_prefix(self.tenant_id)

    def own_name(self, stored: str) -> str | None:
        """This tenant's name for a stored namespace; None when it is somebody else's, or not granted."""
        name = tenant_name(self.tenant_id, stored)
        return name if name is not None and self.grants.allows_namespace(name) else None

    def _plain(self, namespace: NamespaceRef) -> str:
        return tenant_name(self.tenant_id, namespace.stored) or ""


_DOES: Final = {
    Operation.CHAT: "ask models",
    Operation.READ: "read",
    Operation.WRITE: "write",
    Operation.ADMIN: "make or delete namespaces",
}
