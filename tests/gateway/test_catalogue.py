"""Money in whole nano-USD."""

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from gateway.catalogue import ModelCard, cost_nano_usd, cost_usd, nano_usd
from gateway.messages import Usage

counts = st.integers(0, 1_000_000_000)
prices = st.integers(0, 1_000_000_000).map(lambda micro: micro / 1_000_000)
cards = st.builds(
    ModelCard,
    input_usd=prices,
    output_usd=prices,
    cached_input_usd=st.none() | prices,
    window_tokens=st.just(1_000),
)
usages = st.builds(Usage, input_tokens=counts, output_tokens=counts, cached_tokens=counts)


def test_cached_input_is_a_part_of_the_input_at_its_own_price() -> None:
    card = ModelCard(input_usd=2.0, cached_input_usd=0.5, output_usd=8.0, window_tokens=1_000)
    assert cost_nano_usd(card, Usage(100, 10, 40)) == 60 * 2_000 + 40 * 500 + 10 * 8_000
    assert cost_nano_usd(card, Usage(100, 0, 400)) == 100 * 500, "never more cached than there was"


def test_without_a_price_of_its_own_cached_input_costs_what_input_costs() -> None:
    card = ModelCard(input_usd=2.0, output_usd=8.0, window_tokens=1_000)
    assert cost_nano_usd(card, Usage(100, 10, 40)) == cost_nano_usd(card, Usage(100, 10))


def test_half_a_nano_usd_is_rounded_up() -> None:
    card = ModelCard(input_usd=0.0375, output_usd=0, window_tokens=1_000)
    assert [cost_nano_usd(card, Usage(n)) for n in (1, 2, 3, 4)] == [38, 75, 113, 150]


@given(cards, usages)
def test_a_cost_is_within_half_a_nano_usd_of_the_exact_one(card: ModelCard, usage: Usage) -> None:
    def exact(price: float) -> Fraction:
        return Fraction(round(price * 1_000_000), 1_000)

    cached = min(usage.cached_tokens, usage.input_tokens)
    cached_usd = card.input_usd if card.cached_input_usd is None else card.cached_input_usd
    nano = (usage.input_tokens - cached) * exact(card.input_usd) + cached * exact(cached_usd)
    nano += usage.output_tokens * exact(card.output_usd)
    assert abs(cost_nano_usd(card, usage) - nano) <= Fraction(1, 2)


@given(cards, usages.filter(lambda u: u.input_tokens + u.output_tokens < 9_000_000))
def test_the_float_of_a_receipt_is_the_integer_of_the_ledger(card: ModelCard, usage: Usage) -> None:
    if cost_nano_usd(card, usage) < 9_000_000 * 10**9:
        assert nano_usd(cost_usd(card, usage)) == cost_nano_usd(card, usage)
