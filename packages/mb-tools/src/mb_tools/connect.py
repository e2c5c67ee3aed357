"""How the commands connect to a broker."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from mb_core import MessageBrokerClient, SlowConsumer

from .endpoint import Endpoint
from .exits import note
from .output import Output

__all__ = ["ask_list", "connected", "hint", "staying"]

# Entries of a list that are asked for at once.
_PAGE = 1_000

_MAX_DESCRIPTION = 1024


def connected(endpoint: Endpoint) -> MessageBrokerClient:
    """A connection for a moment: use it as a context."""
    return MessageBrokerClient(endpoint.url, ssl_context=endpoint.ssl_context(), reconnect=False)


@asynccontextmanager
async def staying(
    endpoint: Endpoint, name: str, description: str, *, reconnect: bool = False
) -> AsyncIterator[MessageBrokerClient]:
    """A connection of a command that stays: others see its name, and its troubles are reported.

    With `reconnect` it waits for the broker, and is restored when it is lost.
    """
    client = MessageBrokerClient(
        endpoint.url,
        ssl_context=endpoint.ssl_context(),
        reconnect=reconnect,
        retry_connect=reconnect,
    )
    client.on_error(_tell)
    if reconnect:
        client.on_connect(lambda: note(f"connected to {endpoint.shown}"))
        client.on_disconnect(lambda: note(f"the connection to {endpoint.shown} has ended"))
    async with client:
        await client.register_service(name, description[:_MAX_DESCRIPTION])
        yield client


async def ask_list(client: MessageBrokerClient, topic: str, key: str) -> list[Any]:
    """Return the list that the broker's answers have under `key`, asked for page by page.

    Brokers that know no pages give all of it at once.
    """
    entries: list[Any] = []
    page: dict[str, Any] = {"limit": _PAGE}
    while True:
        answer = (await client.request(topic, page)).payload
        if not isinstance(answer, dict):
            return entries
        entries += answer.get(key) or ()
        if not answer.get("next"):
            return entries
        page = {"limit": _PAGE, "after": answer["next"]}


def hint(output: Output, text: str) -> None:
    """Tell people at a terminal why nothing happens yet."""
    if output.people and sys.stderr.isatty():
        note(f"{text}; Ctrl-C ends it")


def _tell(error: Exception) -> None:
    if isinstance(error, SlowConsumer):
        note(
            f"{error.dropped} messages of {error.topic} are lost so far: "
            "they come faster than the output is read"
        )
    else:
        note(str(error))
