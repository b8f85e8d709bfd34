"""Embed: texts -> vectors by a named embedder. The end of the embed pipeline."""

from collections.abc import Mapping

from gateway.context import RequestContext
from gateway.embedders.base import Embedded, Embedder
from gateway.errors import BadRequest, NotFound
from gateway.messages import EmbedRequest


class Embed:
    """Ask the embedder that goes by the model's name."""

    def __init__(self, embedders: Mapping[str, Embedder]) -> None:
        self._embedders = embedders

    async def __call__(self, ctx: RequestContext, request: EmbedRequest) -> Embedded:
        embedder = self._embedders.get(request.model)
        if embedder is None:
            known = ", ".join(sorted(self._embedders)) or "none"
            raise NotFound(
                f"there is no embedding model {request.model[:100]!r}; there are: {known}",
                code="model_not_found",
                param="model",
            )
        if request.dimensions not in (None, embedder.dimension):
            raise BadRequest(
                f"dimensions: {request.model} has {embedder.dimension} and cannot be cut", param="dimensions"
            )
        started_s = ctx.clock()
        embedded = await embedder.embed(request.texts, kind="passage", timeout_s=ctx.remaining_s())
        ctx.trail.took("embed", ctx.clock() - started_s)
        return embedded
