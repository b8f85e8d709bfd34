"""What a text record says: the text that is embedded, and the fingerprint that tells a change.

Pure; used by the gateway when text comes in, so that a repeated upsert of the same content costs
neither an embedding nor a write.
"""

import hashlib
from typing import Any, Final

import msgspec

TITLE_FIELD: Final = "title"


def passage_text(text: str, metadata: dict[str, Any]) -> str:
    """The text to embed, dense and sparse: the record's title, if it has one, stands above its text.

    A passage often leaves out what its title says: on the bundled corpus, dense R@1 is .900 with the
    title and .811 without.
    """
    title = metadata.get(TITLE_FIELD)
    return f"{title}\n{text}" if isinstance(title, str) and title.strip() else text


def content_hash(text: str, metadata: dict[str, Any]) -> str:
    """32 hexadecimal digits that change with the text or any metadata; key order does not count.

    It says nothing of the embedding: compare `_m.embedding` as well before skipping a record.
    """
    canonical = msgspec.json.encode([text, metadata], order="deterministic")
    return hashlib.blake2b(canonical, digest_size=16).hexdigest()
