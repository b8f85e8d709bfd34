"""Indexes over HTTP: made, listed, described, configured and deleted, as Pinecone's control plane does it.

An index's `host` is this node's own address with the path prefix `/i/{index}`, so that one port serves all.
API 2026-07 declares vector fields in a schema; older versions send dimension, metric and vector type. Both
are read, and both are answered.
"""

from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec
from aiohttp import web

from regions import pinecone_api as api
from regions.names import parse_index
from regions.node import render
from regions.node.node import Definition, Node, NodeIndex
from regions.node.render import BadCall

_METRICS: Final = ("cosine", "dotproduct", "euclidean")
_DEFAULT_DEPLOYMENT: Final = {"deployment_type": "managed", "cloud": "aws", "region": "us-east-1"}


class ControlPlane:
    """The handlers of `/indexes`; `base_url` is known once the port is open."""

    def __init__(self, node: Node, read_body: Callable[[web.Request, Any], Awaitable[Any]]) -> None:
        self._node, self._read_body = node, read_body
        self.base_url = ""

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/indexes", self._list),
            web.post("/indexes", self._create),
            web.get("/indexes/{name}", self._describe),
            web.patch("/indexes/{name}", self._configure),
            web.delete("/indexes/{name}", self._delete),
        ]

    async def _list(self, http: web.Request) -> web.Response:
        return render.answer(api.IndexesAnswer([self._answer(index) for index in self._node.indexes()]))

    async def _create(self, http: web.Request) -> web.Response:
        request: api.CreateIndexRequest = await self._read_body(http, api.CreateIndexRequest)
        name = parse_index(request.name)
        index = await self._node.create_index(name, definition_of(request))
        return render.answer(self._answer(index), 201)

    async def _describe(self, http: web.Request) -> web.Response:
        index = self._node.index(http.match_info["name"])
        response = render.answer(self._answer(index))
        response.headers[api.INCARNATION_HEADER] = self._node.incarnation_of(index)
        return response

    async def _configure(self, http: web.Request) -> web.Response:
        request: api.ConfigureIndexRequest = await self._read_body(http, api.ConfigureIndexRequest)
        index = self._node.index(http.match_info["name"])
        index = await self._node.configure_index(index.name, configured(index.definition, request))
        return render.answer(self._answer(index))

    async def _delete(self, http: web.Request) -> web.Response:
        await self._node.delete_index(http.match_info["name"])
        return web.Response(status=202)

    def _answer(self, index: NodeIndex) -> api.IndexAnswer:
        definition = index.definition
        fields = dict(definition.fields or {})
        if not fields and definition.dimension is not None:
            fields[api.DENSE_FIELD] = api.VectorField(
                type="dense_vector", dimension=definition.dimension, metric=definition.metric
            )
        if not fields and definition.dimension is None:
            fields[api.SPARSE_FIELD] = api.VectorField(type="sparse_vector")
        deployment = definition.deployment or _DEFAULT_DEPLOYMENT
        serverless = {key: deployment[key] for key in ("cloud", "region") if key in deployment}
        return api.IndexAnswer(
            name=index.name,
            host=f"{self.base_url}/i/{index.name}",
            schema=api.IndexSchema(fields),
            deployment=deployment,
            metric=definition.metric,
            dimension=definition.dimension,
            vector_type=definition.vector_type,
            spec={"serverless": serverless},
            deletion_protection=definition.deletion_protection,
            tags=definition.tags,
        )


def definition_of(request: api.CreateIndexRequest) -> Definition:
    """The index that a create request asks for, in either version. Raises: BadCall."""
    dimension, metric, is_hybrid = request.dimension, request.metric, False
    vector_type = request.vector_type or "dense"
    if request.schema is not None:
        dense = _only_field(request.schema, "dense_vector")
        sparse = _only_field(request.schema, "sparse_vector")
        is_hybrid = dense is not None and sparse is not None
        if dense is None and sparse is None:
            raise BadCall("schema must declare a dense_vector or a sparse_vector field")
        dimension, metric = (dense.dimension, dense.metric) if dense else (None, None)
        vector_type = "dense" if dense else "sparse"
    if vector_type == "sparse":
        if dimension is not None:
            raise BadCall("dimension must not be given for a sparse index")
        if metric not in (None, "dotproduct"):
            raise BadCall("a sparse index has the metric dotproduct")
        metric = "dotproduct"
    elif vector_type != "dense":
        raise BadCall(f"vector_type must be dense or sparse, got {vector_type!r}")
    elif dimension is None or not 1 <= dimension <= api.MAX_DIMENSION:
        raise BadCall(f"dimension must be between 1 and {api.MAX_DIMENSION}, got {dimension}")
    metric = metric or "cosine"
    if metric not in _METRICS:
        raise BadCall(f"metric must be one of {', '.join(_METRICS)}, got {metric!r}")
    if is_hybrid and metric != "dotproduct":
        raise BadCall("dense and sparse vectors together need the metric dotproduct")
    return Definition(
        metric=metric,
        dimension=dimension,
        vector_type="sparse" if vector_type == "sparse" else "dense",
        fields=request.schema.fields if request.schema else None,
        deletion_protection=_protection(request.deletion_protection or "disabled"),
        tags=request.tags or None,
        deployment=_deployment(request),
    )


def configured(definition: Definition, request: api.ConfigureIndexRequest) -> Definition:
    """The definition after a configure request; a tag set to "" is removed. Raises: BadCall."""
    if request.schema or request.spec or request.deployment:
        raise BadCall("only deletion_protection and tags of an index can be changed here")
    if request.deletion_protection is not None:
        protection = _protection(request.deletion_protection)
        definition = msgspec.structs.replace(definition, deletion_protection=protection)
    if request.tags is not None:
        tags = {key: value for key, value in ((definition.tags or {}) | request.tags).items() if value}
        definition = msgspec.structs.replace(definition, tags=tags or None)
    return definition


def _only_field(schema: api.IndexSchema, kind: str) -> api.VectorField | None:
    found = [field for field in schema.fields.values() if field.type == kind]
    if len(found) > 1:
        raise BadCall(f"schema must not declare more than one {kind} field")
    return found[0] if found else None


def _protection(text: str) -> api.Protection:
    if text == "enabled":
        return "enabled"
    if text == "disabled":
        return "disabled"
    raise BadCall(f"deletion_protection must be enabled or disabled, got {text!r}")


def _deployment(request: api.CreateIndexRequest) -> dict[str, Any] | None:
    if request.deployment:
        return request.deployment
    serverless = (request.spec or {}).get("serverless")
    return {"deployment_type": "managed"} | serverless if isinstance(serverless, dict) else None
