"""Page tokens: ours, opaque, good for one tenant, one namespace and one call.

Pure. A token seals the index's own token together with the region it came from, under a key derived
from the pepper; changed by one bit, or used for another tenant, index, namespace or call, it is a 400.
What holds of its position:

* Ids and namespaces are listed in the order of their names, and the node's own token is the last name
  shown. It means the same on every replica, so a page may come from another region than the one before.
* Pinecone's own token means something to the index that made it only. The gateway therefore asks the
  token's region first; when that one is down, another Pinecone index refuses the token (400), and the
  caller lists anew.
"""

import base64
import binascii
import hashlib
import hmac
from typing import Final

import msgspec

from gateway.errors import BadRequest

MAC_BYTES: Final = 16


class Scope(msgspec.Struct, frozen=True, array_like=True):
    """What a token is good for. `namespace` is the stored one, or the tenant's prefix for a list of them."""

    call: str
    tenant: str
    index: str
    namespace: str


class Page(msgspec.Struct, frozen=True, array_like=True):
    """Where a list goes on: the index's own token, and the region whose replica made it."""

    inner: str
    region: str


def page_key(pepper: bytes) -> bytes:
    """The sealing key; knowing it says nothing about the pepper."""
    return hashlib.blake2b(pepper, person=b"meridian.page").digest()


class PageTokens:
    """Seals and opens page tokens."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def seal(self, scope: Scope, page: Page) -> str:
        """The token a tenant gets."""
        payload = msgspec.msgpack.encode(page)
        return base64.urlsafe_b64encode(self._mac(scope, payload) + payload).decode().rstrip("=")

    def open(self, scope: Scope, token: str) -> Page:
        """Raises: BadRequest: not a token of ours, or one for something else."""
        try:
            # `altchars` with validate, because the url-safe reader skips what it does not know.
            raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
            mac, payload = raw[:MAC_BYTES], raw[MAC_BYTES:]
            if not hmac.compare_digest(mac, self._mac(scope, payload)):
                raise _refused()
            return msgspec.msgpack.decode(payload, type=Page)
        except (binascii.Error, ValueError):
            raise _refused() from None

    def _mac(self, scope: Scope, payload: bytes) -> bytes:
        bound = msgspec.msgpack.encode((scope, payload))
        return hashlib.blake2b(bound, key=self._key, digest_size=MAC_BYTES).digest()


def _refused() -> BadRequest:
    return BadRequest(
        "Invalid pagination token: it belongs to no list of this call and namespace", param="paginationToken"
    )
