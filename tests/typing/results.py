"""What type checkers make of `request(..., result=Type)`; nobody runs this."""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_type

import mb_client
import mb_sync


@dataclass
class Order:
    id: int


async def on_an_event_loop(client: mb_client.MessageBrokerClient) -> None:
    assert_type(await client.request("order.get", 7), mb_client.Message)
    assert_type(await client.request("order.get", 7, result=None), mb_client.Message)
    assert_type(await client.request("order.get", 7, result=Order), Order)
    assert_type(
        await client.request("order.list", None, timeout=10, result=list[Order]), list[Order]
    )


def in_a_thread(client: mb_sync.MessageBrokerClient) -> None:
    assert_type(client.request("order.get", 7), mb_client.Message)
    assert_type(client.request("order.get", 7, result=Order), Order)
    assert_type(client.request("order.get", 7, result=dict[str, int])["a"], int)
