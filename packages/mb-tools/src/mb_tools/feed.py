"""A feed of responses that answer nothing, which is how a broker sends its log.

`system.log.subscribe` is answered once under its id; each entry of the log is one more response,
`response:system.log:1.0.0`, without an id.  MessageBrokerClient has no use for those.  A Session
has a word for them, Unmatched, so here is the shortest driver of one: no reconnecting, no
subscriptions, one request.
"""

from __future__ import annotations

import time
from collections import deque
from contextlib import suppress
from typing import Any

import anyio

from mb_core import ConnectError, ConnectionLost, MBError, Message, Session, TCPSocketClient
from mb_core.session import (
    Answered,
    Event,
    Failed,
    Initialized,
    PendingRequest,
    Reply,
    Unmatched,
)

from .endpoint import Endpoint

__all__ = ["ResponseFeed"]

# Seconds that greeting and subscribing may take.
_PATIENCE = 10.0
_QUEUE = 65_536


class ResponseFeed:
    """The responses of `topic` without an id; an async context and an async iterator.

    Entering it connects, registers as `name` and sends `request` with `payload`; it raises
    ConnectError, PluginError, and the ResponseError that the broker answers with.  Iterating
    raises ConnectionLost.  `dropped` counts what did not fit into its queue.
    """

    def __init__(
        self, endpoint: Endpoint, topic: str, request: str, payload: Any, *, name: str
    ) -> None:
        self._url = endpoint.url
        self._topic = topic
        self._request = (request, payload)
        self._name = name
        self._session = Session()
        # A low-level client takes a URL of any transport that is installed.
        self._client = TCPSocketClient(ssl_context=endpoint.ssl_context())
        self._messages: deque[Message] = deque()
        self._changed = anyio.Event()
        self._pending: PendingRequest | None = None
        self._accepted = False
        self._error: MBError | None = None
        self._over = False
        self.dropped = 0

    @property
    def queued(self) -> int:
        """How many messages wait."""
        return len(self._messages)

    async def __aenter__(self) -> ResponseFeed:
        self._client.on_message(self._receive)
        self._client.on_error(self._fail)
        self._client.on_disconnect(self._end)
        self._session.link_up()
        await self._client.connect(self._url)
        try:
            with anyio.fail_after(_PATIENCE):
                while not self._accepted:
                    await self._change()
        except TimeoutError:
            await self._client.close()
            raise ConnectError(
                f"{self._url} did not accept {self._request[0]} within {_PATIENCE:g} s: "
                "is an MB broker listening there?"
            ) from None
        except BaseException:
            await self._client.close()
            raise
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._client.close()

    def __aiter__(self) -> ResponseFeed:
        return self

    async def __anext__(self) -> Message:
        while not self._messages:
            await self._change()
        return self._messages.popleft()

    async def _change(self) -> None:
        """Wait for news; raises the error that is one."""
        if self._error is None and not self._over:
            await self._changed.wait()
        self._changed = anyio.Event()
        if self._messages:
            return
        if self._error is not None:
            raise self._error
        if self._over:
            raise ConnectionLost("the connection was closed by the broker", sent=True)

    # Called by the client, in order

    async def _receive(self, text: str) -> None:
        for event in self._session.receive([text.encode()]):
            await self._act(event)

    async def _act(self, event: Event) -> None:
        if isinstance(event, Reply):
            await self._send(event.message)
        elif isinstance(event, Initialized):
            await self._ask()
        elif isinstance(event, Answered):
            if event.request is self._pending:
                self._accepted = True
                self._changed.set()
        elif isinstance(event, Failed):
            self._fail(event.error)
        elif isinstance(event, Unmatched):
            message = event.message
            if message is not None and message.topic.lower() == self._topic:
                self._put(message)

    async def _ask(self) -> None:
        now, limit = time.monotonic(), int(_PATIENCE * 1000)
        self._session.restored(now)
        topic, payload = self._request
        about = f"Listens to {self._topic}"
        await self._send(self._session.register(self._name, about, now=now, timeout=limit).message)
        self._pending = self._session.request(topic, payload, now=now, timeout=limit)
        await self._send(self._pending.message)

    def _put(self, message: Message) -> None:
        if len(self._messages) >= _QUEUE:
            self.dropped += 1
            return
        self._messages.append(message)
        self._changed.set()

    def _fail(self, error: Exception) -> None:
        if isinstance(error, MBError):
            self._error = error
            self._changed.set()

    def _end(self) -> None:
        self._over = True
        self._changed.set()

    async def _send(self, message: bytes) -> None:
        with suppress(ConnectionLost):  # `_end` is about to say so
            await self._client.send(message.decode())
