"""A broker that does as a test tells it, for what a real one never does; over any transport."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio
import anyio.abc
import pytest

from mb_core.errors import ConnectionLost, MBError
from mb_core.link import Link, Listener, StreamOptions, current_backend
from mb_core.plugins import installed_plugins
from mb_core.transport import WireTransport
from mb_core.url import parse_url
from mb_core.wire import Limits

__all__ = [
    "GREETING",
    "SUCCESS",
    "VIRTUAL_TIME",
    "Answer",
    "ScriptedBroker",
    "ScriptedConnection",
    "error",
    "scripted_broker",
]

VIRTUAL_TIME = pytest.mark.virtual_clock(patience=2)
"""For tests whose broker is on their own event loop; the patience is for loopback's sockets."""

GREETING = b"publish:system.initialize:1.0.0\n{}"
SUCCESS = b'{"status":"success"}'

Answer = bytes | Callable[[bytes], bytes] | None
"""The payload that answers a message, what makes it of that message, or None for no answer."""

_ANSWERS: dict[str, Answer] = {
    "system.heartbeat": SUCCESS,
    "system.service.register": SUCCESS,
    "system.topic.subscribe": SUCCESS,
    "system.topic.unsubscribe": SUCCESS,
    "system.log.subscribe": SUCCESS,
    "system.log.unsubscribe": SUCCESS,
}


def error(code: str, text: str = "so it is") -> bytes:
    """The payload of an error."""
    return b'error:{"code":"%b","message":"%b"}' % (code.encode(), text.encode())


class ScriptedConnection:
    """One client's connection: what came over it, and ways to answer and to end it."""

    def __init__(self, broker: ScriptedBroker, link: Link) -> None:
        self.link = link
        self.messages: list[bytes] = []
        self.lost = anyio.Event()
        self._broker = broker
        self._news = anyio.Event()

    def send(self, *messages: bytes) -> None:
        for message in messages:
            self.link.send(message)

    def answer(self, message: bytes, payload: bytes = SUCCESS) -> None:
        """Send a response under the id of `message`."""
        topic, version, request_id = message.split(b"\n")[0].split(b":")[1:4]
        self.send(b"response:%b:%b:%b\n%b" % (topic, version, request_id, payload))

    async def wait_for(self, start: bytes, count: int = 1) -> bytes:
        """Message number `count` of those that begin with `start`, once it is there."""
        while len(found := self.starting(start)) < count:
            await self._news.wait()
        return found[count - 1]

    def starting(self, start: bytes) -> list[bytes]:
        """The messages so far that begin with `start`."""
        return [message for message in self.messages if message.startswith(start)]

    async def drop(self) -> None:
        """End the connection without a word."""
        self.link.abort()
        await self.link.wait_closed()

    # The LinkHandler

    def messages_received(self, messages: list[bytes]) -> None:
        for message in messages:
            self.messages.append(message)
            action, topic, _, *rest = message.split(b"\n")[0].split(b":")
            answer = self._broker.answers.get(topic.decode())
            if answer is not None and action != b"response" and any(rest[:1]):
                # What comes when this side has ended the connection is answered no more.
                with contextlib.suppress(ConnectionLost):
                    self.answer(message, answer if isinstance(answer, bytes) else answer(message))
        self._news.set()
        self._news = anyio.Event()

    def link_lost(self, error: MBError | None) -> None:
        self.lost.set()


@dataclass
class ScriptedBroker:
    """Greets, says yes to what it is asked of its own topics, and is silent about all others.

    `greeting` and `answers`, by topic, can be changed at any time.  `at_accept` is called with
    each connection when it has come about.
    """

    url: str
    answers: dict[str, Answer] = field(default_factory=_ANSWERS.copy)
    greeting: bytes | None = GREETING
    at_accept: Callable[[ScriptedConnection], None] = lambda connection: None
    connections: list[ScriptedConnection] = field(default_factory=list)
    _listener: Listener | None = None
    _news: anyio.Event = field(default_factory=anyio.Event)
    _tasks: anyio.abc.TaskGroup | None = None

    async def listen(self) -> None:
        """Accept connections; again after `stop`, at the same URL."""
        assert self._tasks is not None
        url, backend = parse_url(self.url), current_backend()
        transport = installed_plugins().transport(url.scheme)
        if isinstance(transport, WireTransport):
            wire = transport.server
            self._listener = await backend.listen(
                (url.host, url.port or 0),
                lambda: wire(Limits(), None),
                self._accept,
                options=StreamOptions(close_timeout=0.1),
                spawn=self._tasks.start_soon,
            )
            self.url = f"{url.scheme}://{url.host}:{self._listener.address[1]}"
        else:
            self._listener = await transport.listen(
                url, self._accept, backend=backend, limits=Limits()
            )
            self.url = f"{url.scheme}://{self._listener.address[0]}"

    async def stop(self) -> None:
        """Accept nothing more, and end the connections that are there."""
        if self._listener is not None:
            await self._listener.close()
            self._listener = None
        for connection in self.connections:
            await connection.drop()

    async def connection(self, number: int) -> ScriptedConnection:
        """Connection number `number`, from 1, once it is there."""
        while len(self.connections) < number:
            await self._news.wait()
        return self.connections[number - 1]

    def _accept(self, link: Link) -> ScriptedConnection:
        connection = ScriptedConnection(self, link)
        self.connections.append(connection)
        if self.greeting is not None:
            connection.send(self.greeting)
        self.at_accept(connection)
        self._news.set()
        self._news = anyio.Event()
        return connection


@asynccontextmanager
async def scripted_broker(url: str) -> AsyncIterator[ScriptedBroker]:
    """A ScriptedBroker that listens while the block lasts."""
    async with anyio.create_task_group() as tasks:
        broker = ScriptedBroker(url, _tasks=tasks)
        await broker.listen()
        try:
            yield broker
        finally:
            with anyio.CancelScope(shield=True):
                await broker.stop()
            tasks.cancel_scope.cancel()
