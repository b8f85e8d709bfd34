"""Names of regions, tenants, indexes and namespaces: parsing and limits.

Pure. Every name is a `str` subtype, so it costs nothing at run time; the `parse_*` functions are the
only places that let outside text become one.

Source: Pinecone's documented limits (namespace and id <= 512 ASCII characters, index name <= 45 of
``[a-z0-9-]``); our namespace limit leaves room for the tenant prefix (DESIGN, section 2).
"""

import re
from dataclasses import dataclass
from typing import Final, NewType

from regions.errors import BadName

RegionId = NewType("RegionId", str)
TenantId = NewType("TenantId", str)
IndexName = NewType("IndexName", str)

TENANT_ID_LENGTH: Final = 16
MAX_STORED_NAMESPACE: Final = 512
MAX_TENANT_NAMESPACE: Final = MAX_STORED_NAMESPACE - TENANT_ID_LENGTH - 1
DEFAULT_NAMESPACE: Final = "__default__"
"""What Pinecone calls the namespace of a call that names none."""

_REGION = re.compile(r"[a-z][a-z0-9-]{0,31}")
_TENANT = re.compile(r"[a-z0-9]{16}")
_INDEX = re.compile(r"[a-z0-9]([a-z0-9-]{0,43}[a-z0-9])?")
_PRINTABLE_ASCII = re.compile(r"[\x20-\x7e]*")


def parse_region(text: str) -> RegionId:
    """Raises: BadName: not 1-32 characters of ``[a-z0-9-]`` that begin with a letter."""
    if not _REGION.fullmatch(text):
        raise BadName("region", text, "1 to 32 of a-z, 0-9 and '-', beginning with a letter")
    return RegionId(text)


def parse_tenant(text: str) -> TenantId:
    """Raises: BadName: not exactly 16 characters of ``[a-z0-9]``."""
    if not _TENANT.fullmatch(text):
        raise BadName("tenant id", text, "exactly 16 of a-z and 0-9")
    return TenantId(text)


def parse_index(text: str) -> IndexName:
    """Raises: BadName: not 1-45 characters of ``[a-z0-9-]`` with an alphanumeric at both ends."""
    if not _INDEX.fullmatch(text):
        raise BadName("index", text, "1 to 45 of a-z, 0-9 and '-', with a letter or digit at both ends")
    return IndexName(text)


@dataclass(frozen=True, slots=True, order=True)
class NamespaceRef:
    """A namespace as it is stored in an index; the only thing a replica accepts.

    Made by `gateway.tenants.Tenant.namespace` alone, so that no request text reaches a replica without
    its tenant's prefix.
    """

    index: IndexName
    stored: str


def tenant_namespace(tenant: TenantId, index: IndexName, name: str) -> NamespaceRef:
    """The stored namespace of a tenant's name for it; the default namespace is mapped too.

    Raises: BadName: longer than 495 characters, or not printable ASCII.
    """
    name = name or DEFAULT_NAMESPACE
    if len(name) > MAX_TENANT_NAMESPACE or not _PRINTABLE_ASCII.fullmatch(name):
        raise BadName("namespace", name, f"at most {MAX_TENANT_NAMESPACE} printable ASCII characters")
    return NamespaceRef(index, f"{tenant}.{name}")


def tenant_prefix(tenant: TenantId) -> str:
    """What every stored namespace of the tenant begins with."""
    return f"{tenant}."


def tenant_name(tenant: TenantId, stored: str) -> str | None:
    """The tenant's own name for a stored namespace, or None when it is not the tenant's."""
    prefix = tenant_prefix(tenant)
    return stored[len(prefix) :] if stored.startswith(prefix) else None


def is_tenants(stored: str) -> bool:
    """Whether a stored namespace is some tenant's; others hold what replicators note in an index."""
    tenant, dot, _ = stored.partition(".")
    return bool(dot) and _TENANT.fullmatch(tenant) is not None
