import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import BadRequest
from gateway.wire.page_tokens import Page, PageTokens, Scope, page_key

TOKENS = PageTokens(page_key(b"pepper"))
SCOPE = Scope("list", "tenant0000000001", "docs", "tenant0000000001.a")
PAGE = Page("the last id", "us-east")


@given(inner=st.text(max_size=60), region=st.text(max_size=20))
def test_a_sealed_page_opens_in_its_own_scope(inner: str, region: str) -> None:
    page = Page(inner, region)
    assert TOKENS.open(SCOPE, TOKENS.seal(SCOPE, page)) == page


@pytest.mark.parametrize(
    "other",
    [
        Scope("fetch_by_metadata", SCOPE.tenant, SCOPE.index, SCOPE.namespace),
        Scope("list", "tenant0000000002", SCOPE.index, SCOPE.namespace),
        Scope("list", SCOPE.tenant, "other", SCOPE.namespace),
        Scope("list", SCOPE.tenant, SCOPE.index, "tenant0000000001.b"),
    ],
)
def test_a_token_is_good_for_one_call_tenant_index_and_namespace(other: Scope) -> None:
    with pytest.raises(BadRequest, match="pagination token"):
        TOKENS.open(other, TOKENS.seal(SCOPE, PAGE))


def test_fields_of_a_scope_do_not_run_into_each_other() -> None:
    left, right = Scope("list", "ab", "c", "d"), Scope("list", "a", "bc", "d")
    with pytest.raises(BadRequest):
        TOKENS.open(right, TOKENS.seal(left, PAGE))


@given(bit=st.integers(min_value=0), token=st.just(TOKENS.seal(SCOPE, PAGE)))
def test_a_changed_character_is_refused(bit: int, token: str) -> None:
    place = bit % (len(token) - 1)  # the last character may carry unused bits
    changed = token[:place] + ("A" if token[place] != "A" else "B") + token[place + 1 :]
    with pytest.raises(BadRequest):
        TOKENS.open(SCOPE, changed)


@given(st.text(max_size=80))
def test_any_other_text_is_refused(text: str) -> None:
    with pytest.raises(BadRequest):
        TOKENS.open(SCOPE, text)


def test_another_gateways_pepper_opens_nothing() -> None:
    with pytest.raises(BadRequest):
        PageTokens(page_key(b"other")).open(SCOPE, TOKENS.seal(SCOPE, PAGE))
