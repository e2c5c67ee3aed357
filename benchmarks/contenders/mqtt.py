"""aiomqtt with mosquitto, QoS 0.

Requests are publications whose topics end in a number, answered to a topic with the same: cheaper
than the properties that MQTT 5 has for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import socket
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiomqtt
import anyio
import anyio.abc

from .. import cases, processes
from ..workload import DOCUMENT, decode, encode
from .inbox import Inbox

__all__ = ["measure"]

CONFIGURATION = """\
listener {port} 127.0.0.1
allow_anonymous true
persistence false
max_queued_messages 0
set_tcp_nodelay true
log_dest stderr
log_type information
connection_messages false
"""

# paho leaves Nagle's algorithm on, which makes a second small packet wait for the other side.
NO_DELAY = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)]

BURST = 100
"""Publications awaited together: twice as fast as one by one, or as a thousand."""


def measure(messages: int) -> cases.Figures:
    port = processes.free_port()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "mosquitto.conf")
        file.write_text(CONFIGURATION.format(port=port))
        command = (processes.program("mosquitto"), "-c", str(file))
        with processes.server(*command, ready="running"):
            return cases.run(lambda: _connected(port), messages)


@contextlib.asynccontextmanager
async def _connected(port: int) -> AsyncIterator[MQTT]:
    # The library warns of every call beyond ten that waits; sixty-four are meant to.
    logger = logging.getLogger(__name__)
    logger.setLevel(logging.ERROR)
    options: Any = {"socket_options": NO_DELAY, "logger": logger}
    async with (
        aiomqtt.Client("127.0.0.1", port, **options) as sender,
        aiomqtt.Client("127.0.0.1", port, **options) as receiver,
        anyio.create_task_group() as tasks,
    ):
        peer = MQTT(sender, receiver)
        tasks.start_soon(peer.receive)
        tasks.start_soon(peer.receive_answers)
        yield peer
        tasks.cancel_scope.cancel()


class MQTT:
    def __init__(self, sender: Any, receiver: Any) -> None:
        self._sender = sender
        self._receiver = receiver
        self._inbox = Inbox()
        self._handler: Callable[[Any], object] = print

    async def listen(self, handler: Callable[[Any], object]) -> None:
        self._handler = handler
        await self._receiver.subscribe("bench/events")

    async def serve(self) -> None:
        await self._sender.subscribe("bench/answers/+")
        await self._receiver.subscribe("bench/echo/+")

    async def publish(self, count: int) -> None:
        publish = self._sender.publish
        for start in range(0, count, BURST):
            await asyncio.gather(
                *(
                    publish("bench/events", encode(DOCUMENT), timeout=math.inf)
                    for _ in range(min(BURST, count - start))
                )
            )

    async def ask(self) -> Any:
        number, answer = self._inbox.expect()
        await self._sender.publish(
            f"bench/echo/{number.decode()}", encode(DOCUMENT), timeout=math.inf
        )
        return await answer

    async def receive(self) -> None:
        """A client has one stream of messages, whatever they were subscribed by."""
        async for message in self._receiver.messages:
            topic = message.topic.value
            if topic == "bench/events":
                self._handler(decode(message.payload))
            else:
                answer = encode(decode(message.payload))
                await self._receiver.publish(
                    topic.replace("echo", "answers"), answer, timeout=math.inf
                )

    async def receive_answers(self) -> None:
        async for message in self._sender.messages:
            number = message.topic.value.rpartition("/")[2]
            self._inbox.receive(number.encode(), message.payload)
