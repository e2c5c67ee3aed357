"""An order service: it places orders, finds them again, and publishes an event for each.

| topic        | kind    | payload    | answer                                    |
|--------------|---------|------------|-------------------------------------------|
| order.place  | request | PlaceOrder | Order                                     |
| order.get    | request | GetOrder   | Order, or the error ORDER_NOT_FOUND       |
| order.placed | event   | Order      |                                           |

Run it with `python orders.py` while a broker runs; MB_URL says where that is.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from itertools import count
from typing import Annotated

from msgspec import Meta

from mb_client import Message, MessageBrokerClient, ResponseError


@dataclass
class Item:
    sku: str
    quantity: Annotated[int, Meta(ge=1)]
    price: Decimal


@dataclass
class PlaceOrder:
    customer: str
    items: Annotated[list[Item], Meta(min_length=1)]


@dataclass
class GetOrder:
    id: int


@dataclass
class Order:
    id: int
    customer: str
    items: list[Item]
    total: Decimal


class OrderNotFound(ResponseError):
    code = "ORDER_NOT_FOUND"


class Orders:
    """The service's handlers, and the orders placed so far."""

    def __init__(self, client: MessageBrokerClient) -> None:
        self._client = client
        self._orders: dict[int, Order] = {}
        self._ids = count(1)

    async def place(self, message: Message) -> Order:
        # A payload that does not fit is answered with INVALID_REQUEST and where the mistake is.
        wanted = message.decode(PlaceOrder)
        total = sum((item.price * item.quantity for item in wanted.items), Decimal(0))
        order = Order(next(self._ids), wanted.customer, wanted.items, total)
        self._orders[order.id] = order
        await self._client.publish("order.placed", order)
        return order

    def get(self, message: Message) -> Order:
        wanted = message.decode(GetOrder)
        if wanted.id not in self._orders:
            raise OrderNotFound(f"there is no order {wanted.id}")
        return self._orders[wanted.id]


async def start(client: MessageBrokerClient) -> None:
    """Answer order.place and order.get on this connection."""
    orders = Orders(client)
    await client.register_service("Orders", "Places orders and finds them again")
    await client.subscribe("order.place", action="request", handler=orders.place)
    await client.subscribe("order.get", action="request", handler=orders.get)


async def main() -> None:
    url = os.environ.get("MB_URL", "tcp://localhost:8081")
    # Draining and closing take less than the 10 s after which `docker stop` kills.
    client = MessageBrokerClient(url, retry_connect=True, drain_timeout=6_000, close_timeout=2_000)
    async with client:
        await start(client)
        print("ready")
        await client.run()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(main())
