"""Orders to a replicator, as values."""

from hypothesis import given
from hypothesis import strategies as st

from regions.orders import ORDERS_PREFIX, Act, Order, decode_order, encode_order
from regions.registers.base import check_key


@given(st.sampled_from(Act), st.integers(0, 63), st.text(max_size=512))
def test_an_order_survives_its_bytes_and_has_a_register_whatever_the_namespace(
    act: Act, shard: int, stored: str
) -> None:
    order = Order(act, "us-east", shard, "docs", stored)
    assert decode_order(encode_order(order)) == order
    check_key(order.key)
    assert order.key.startswith(f"{ORDERS_PREFIX}us-east.{shard}.")


def test_the_newest_order_for_a_namespace_is_the_one_that_counts() -> None:
    unpark, resync = (Order(act, "us-east", 1, "docs", "a") for act in (Act.UNPARK, Act.RESYNC))
    assert unpark.key == resync.key
    assert unpark.key != Order(Act.UNPARK, "us-east", 1, "docs", "b").key
