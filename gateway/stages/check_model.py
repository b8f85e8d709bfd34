"""CheckModel: a model nobody serves, or the key may not use, is refused before anything is spent on it."""

from gateway.context import RequestContext
from gateway.messages import ChatRequest
from gateway.routes import SNIPPETS, Routes
from gateway.stages.base import ChatHandler
from gateway.stream import EventStream


class CheckModel:
    """Raises NotFound for an alias that no route has, Forbidden for one that is not granted."""

    def __init__(self, routes: Routes) -> None:
        self._routes = routes

    async def __call__(
        self, ctx: RequestContext, request: ChatRequest, call_next: ChatHandler
    ) -> EventStream:
        self._routes.find(request.model)
        if request.model != SNIPPETS:
            ctx.tenant.check_model(request.model)
        return await call_next(ctx, request)
