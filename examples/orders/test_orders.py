"""Each test gets a broker of its own from the fixture mb_broker, and runs the service on it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import pytest
from orders import GetOrder, Item, Order, PlaceOrder, start

from mb_client import InvalidRequestError, MessageBrokerClient, ResponseError

pytestmark = pytest.mark.anyio  # MB depends on anyio, which has a plugin for async tests

PEN = Item("pen", 3, Decimal("1.20"))


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def client(mb_broker: Any) -> AsyncIterator[MessageBrokerClient]:
    """A client of a broker on which the service runs."""
    async with (
        MessageBrokerClient(mb_broker.url) as service,
        MessageBrokerClient(mb_broker.url) as client,
    ):
        await start(service)
        yield client


async def test_a_placed_order_is_found_again(client: MessageBrokerClient) -> None:
    placed = await client.request("order.place", PlaceOrder("Ada", [PEN]), result=Order)
    assert placed == Order(1, "Ada", [PEN], Decimal("3.60"))
    assert await client.request("order.get", GetOrder(1), result=Order) == placed


async def test_placing_an_order_publishes_it(client: MessageBrokerClient) -> None:
    async with client.subscribe("order.placed") as events:
        order = await client.request("order.place", PlaceOrder("Ada", [PEN]), result=Order)
        assert (await anext(events)).decode(Order) == order


async def test_an_unknown_order_is_an_error(client: MessageBrokerClient) -> None:
    with pytest.raises(ResponseError) as caught:
        await client.request("order.get", GetOrder(7))
    assert (caught.value.code, caught.value.message) == ("ORDER_NOT_FOUND", "there is no order 7")


async def test_an_invalid_order_is_refused(client: MessageBrokerClient) -> None:
    item = {"sku": "pen", "quantity": 0, "price": "1.20"}
    with pytest.raises(InvalidRequestError) as caught:
        await client.request("order.place", {"customer": "Ada", "items": [item]})
    assert caught.value.details["path"] == "$.items[0].quantity"
