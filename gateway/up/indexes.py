"""Create an index where a replica is: on Pinecone or on a node, with the official SDK."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from gateway.up.problems import CommandFailed
from regions.pinecone_api import DENSE_FIELD, SPARSE_FIELD

if TYPE_CHECKING:
    from pinecone import Pinecone

PINECONE_CONTROL: Final = "https://api.pinecone.io"


@dataclass(frozen=True, slots=True)
class Shape:
    """What an index holds; it cannot change once the index exists."""

    dimension: int
    metric: str
    sparse: bool


@dataclass(frozen=True, slots=True)
class Deployment:
    """Where Pinecone puts an index; a node ignores it."""

    cloud: str
    region: str


@dataclass(frozen=True, slots=True)
class Made:
    """An index that is there; `created` tells whether it was not before."""

    host: str
    created: bool


def control_url(replica_url: str) -> str:
    """The control plane of a replica: Pinecone's own, or the node itself."""
    parts = urlsplit(replica_url)
    if (parts.hostname or "").endswith(".pinecone.io"):
        return PINECONE_CONTROL
    return f"{parts.scheme}://{parts.netloc}"


def create(control: str, api_key: str, name: str, shape: Shape, deployment: Deployment) -> Made:
    """Make the index, unless it is there already in the same shape. Blocks until it is ready.

    Raises: CommandFailed: it is there in another shape, or the control plane refused.
    """
    from pinecone import Pinecone
    from pinecone.errors.exceptions import PineconeError

    try:
        with Pinecone(api_key=api_key, host=control) as client:
            return _create(client, name, shape, deployment)
    except PineconeError as error:
        raise CommandFailed(f"{control} did not create the index {name!r}: {error}") from error


def _create(client: "Pinecone", name: str, shape: Shape, deployment: Deployment) -> Made:
    created = not client.indexes.exists(name)
    if created:
        fields: dict[str, Any] = {
            DENSE_FIELD: {"type": "dense_vector", "dimension": shape.dimension, "metric": shape.metric}
        }
        if shape.sparse:  # must be declared: sparse values of an undeclared field are refused at upsert
            fields[SPARSE_FIELD] = {"type": "sparse_vector"}
        client.indexes.create(
            name=name,
            schema={"fields": fields},
            deployment={"deployment_type": "managed", "cloud": deployment.cloud, "region": deployment.region},
        )
    there = client.indexes.describe(name)
    found = Shape(there.dimension or 0, str(there.metric), _has_sparse(there, shape))
    if found != shape:
        raise CommandFailed(
            f"the index {name!r} exists as {_said(found)}, and should be {_said(shape)}",
            "an index cannot change its shape: choose another name, or delete it first",
        )
    if not there.host:
        raise CommandFailed(f"the index {name!r} has no host yet", "try again in a minute")
    return Made(there.host, created)


def _has_sparse(there: Any, shape: Shape) -> bool:
    """Whether sparse vectors are accepted; believed where the description says nothing of fields."""
    fields = getattr(getattr(there, "schema", None), "fields", None)
    return any("sparse" in str(name) for name in fields) if fields else shape.sparse


def _said(shape: Shape) -> str:
    return f"{shape.dimension}-d {shape.metric}, {'dense + sparse' if shape.sparse else 'dense'}"


def bare(host: str) -> str:
    """A host without scheme and trailing slash, to compare two spellings of one place."""
    return host.partition("://")[2].rstrip("/") if "://" in host else host.rstrip("/")
