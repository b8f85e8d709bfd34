"""Which quotas a request counts against, and what it is taken to cost before anybody knows. Pure."""

from collections.abc import Sequence
from typing import Final

from gateway.allowances import Limits, Quota, Resource
from gateway.messages import ChatRequest, RagMode
from gateway.policies.token_bucket import Charge
from gateway.tenants import Tenant, TenantKey

BYTES_A_TOKEN: Final = 4
"""OpenAI's rule of thumb for English; other scripts have more bytes a character."""
PASSAGE_TOKENS: Final = 200
"""Of one retrieved passage, about."""


def of_request(tenant: Tenant, key: TenantKey | None) -> list[Charge]:
    """What any call costs."""
    return _charges(Resource.REQUESTS, 1, _limits(tenant, key))


def of_model(tenant: Tenant, key: TenantKey | None, model: str, tokens: float) -> list[Charge]:
    """What asking a model costs, by its alias."""
    own = tenant.model_limits.get(model)
    of_model_ = [] if own is None else [(f"model:{model}", f"the model {model}", own)]
    charges = _charges(Resource.TOKENS, tokens, [*_limits(tenant, key), *_named(tenant, of_model_)])
    return [*charges, *_charges(Resource.REQUESTS, 1, _named(tenant, of_model_))]


def tokens_of_chat(request: ChatRequest, *, answer_tokens: int, top_k: int) -> float:
    """About how many tokens a conversation will take: its own, its passages', and its answers'."""
    asked = sum(len(turn.text.encode(errors="surrogatepass")) for turn in request.turns) / BYTES_A_TOKEN
    passages = 0 if request.mode is RagMode.OFF else (request.rag.top_k or top_k) * PASSAGE_TOKENS
    return asked + passages + request.choices * (request.max_answer_tokens or answer_tokens)


def tokens_of_texts(texts: Sequence[str]) -> float:
    """About how many tokens texts have."""
    return sum(len(text.encode(errors="surrogatepass")) for text in texts) / BYTES_A_TOKEN


_Named = Sequence[tuple[str, str, Limits]]
"""Whose bucket (a part of its key), whose for people, and its limits."""


def _limits(tenant: Tenant, key: TenantKey | None) -> _Named:
    of_key = [] if key is None else [(f"key:{key.digest[:16]}", "this key", key.limits)]
    return _named(tenant, [("tenant", "the tenant", tenant.limits), *of_key])


def _named(tenant: Tenant, named: _Named) -> _Named:
    # All buckets of a tenant have its id in braces, so that a cluster keeps them on one node.
    return [(f"{{{tenant.id}}}:{place}", whose, limits) for place, whose, limits in named]


def _charges(resource: Resource, cost: float, named: _Named) -> list[Charge]:
    return [
        Charge(Quota(f"{place}:{resource.value}", resource, whose, per_min), cost)
        for place, whose, limits in named
        if (per_min := _per_min(limits, resource)) is not None
    ]


def _per_min(limits: Limits, resource: Resource) -> int | None:
    return limits.requests_per_min if resource is Resource.REQUESTS else limits.tokens_per_min
