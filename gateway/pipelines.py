"""The table of contents: each kind of request as a list of stages, outermost first.

The order is the design. Stages that arrive later have their place marked by the sentence that says why.
"""

from collections.abc import Callable, Mapping, Sequence

from gateway.admission import Admission
from gateway.budgets import Budgets
from gateway.config import IndexConfig, RagConfig, RegionsConfig
from gateway.embedders.base import Embedded, Embedder
from gateway.messages import ChatRequest, EmbedRequest
from gateway.policies.breaker import Breakers, BreakerTerms
from gateway.policies.health import Health
from gateway.policies.timers import Timers
from gateway.providers.base import ChatProvider
from gateway.routes import Routes
from gateway.stages.append_write import AppendWrite
from gateway.stages.apply_write import ApplyWrite
from gateway.stages.attempt import Attempt
from gateway.stages.base import ChatHandler, Handler, Stage, UpstreamHandler, compose
from gateway.stages.budget import KeepToBudget, TurnAway
from gateway.stages.check_model import CheckModel
from gateway.stages.cite import Cite
from gateway.stages.degrade import DegradeToSnippets
from gateway.stages.embed import Embed
from gateway.stages.fresh_read import FreshRead
from gateway.stages.metering import Record
from gateway.stages.nearest_read import Candidate, NearestRead
from gateway.stages.prompt_cache import PromptCache
from gateway.stages.rate_limit import RateLimit, RateLimitEmbed
from gateway.stages.retrieval import Retrieval, Search
from gateway.stream import EventStream
from regions.fences import Fences
from regions.live import Live
from regions.names import IndexName

ChatStage = Stage[ChatRequest, EventStream]
Reads = NearestRead | FreshRead
Writes = ApplyWrite | AppendWrite


def chat(
    *,
    search: Search,
    indexes: Mapping[str, IndexConfig],
    rag: RagConfig,
    routes: Routes,
    admission: Admission,
    cache: PromptCache,
    degrade: DegradeToSnippets,
    budgets: Budgets | None,
    fallback: ChatHandler,
) -> ChatHandler:
    """A conversation in, an answer that has begun out."""
    stages: list[ChatStage] = [
        CheckModel(routes),  # an unknown model is the caller's 404, before anything is spent on it
        # Before retrieval, so that a refusal costs no embedding and no query.
        RateLimit(admission, answer_tokens=rag.answer_tokens, top_k=rag.top_k),
        cache,  # for the same reason: what it answers needs no budget either
        *_if(budgets, lambda b: TurnAway(b, routes, answer_tokens=rag.answer_tokens)),
        Retrieval(search, indexes, rag),
        Cite(),  # outside Degrade, so that excerpts are cited like a model's answer
        degrade,  # around the whole chain, so that it stands in for every way in which generation can fail
        # Right before the models: a hit or an excerpt costs nothing, and passages are known by then.
        *_if(budgets, lambda b: KeepToBudget(b, routes, answer_tokens=rag.answer_tokens)),
    ]
    # The chain fits the passages into the window of each upstream that it asks: `upstream` below.
    return compose(stages, fallback)


def _if(budgets: Budgets | None, make: Callable[[Budgets], ChatStage]) -> list[ChatStage]:
    """A stage that is there only where budgets are kept."""
    return [] if budgets is None else [make(budgets)]


def upstream(
    providers: Mapping[str, ChatProvider],
    *,
    timers: Mapping[str, Timers],
    terms: Mapping[str, BreakerTerms],
    breakers: Breakers,
    health: Health,
    record: Record | None = None,
) -> UpstreamHandler:
    """One call of one upstream in, its answer out: what the fallback chain asks again and again."""
    return Attempt(providers, timers=timers, terms=terms, breakers=breakers, health=health, record=record)


def embed(embedders: Mapping[str, Embedder], admission: Admission) -> Handler[EmbedRequest, Embedded]:
    """Texts in, vectors out."""
    return compose([RateLimitEmbed(admission)], Embed(embedders))


def reads_and_writes(
    replicas: Mapping[IndexName, Sequence[Candidate]],
    regions: RegionsConfig | None,
    live: Live | None,
    breakers: Breakers,
) -> tuple[Reads, Writes]:
    """Where every read and every change of the product ends, of either dialect.

    With regions: the nearest replica that is fresh enough, and the log of the index's home. Without: the
    first configured replica, for both.
    """
    if regions is None or live is None:
        return NearestRead(replicas, breakers), ApplyWrite(replicas, breakers)
    read = FreshRead(replicas, live, regions.reads, breakers)
    fences = Fences(live.logs, lambda: live.topology)
    return read, AppendWrite(live, fences, read, regions.writes, breakers)
