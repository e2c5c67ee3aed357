"""MessageBrokerClient: ask, answer, publish and listen through a broker."""

from __future__ import annotations

import math
import ssl
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from ..errors import ConnectError, LocalProtocolError
from ..header import DEFAULT_VERSION, Action, MessageHeader
from ..message import Message
from ..plugins import Plugins
from ..session import Session
from ..topic import check_pattern
from ..wire import DEFAULT_MAX_PAYLOAD
from .address import broker_url
from .callbacks import Callbacks, call
from .connection import Connection
from .dial import ConnectionOptions
from .interrupt import interruptible
from .queue import MessageQueue
from .subscription import Subscription

__all__ = ["MessageBrokerClient"]

_ACTIONS: dict[str, tuple[Action, ...]] = {
    "publish": (Action.PUBLISH,),
    "request": (Action.REQUEST,),
    "both": (Action.PUBLISH, Action.REQUEST),
}


class MessageBrokerClient:
    """A client of an MB broker, on asyncio or trio.

        async with MessageBrokerClient("tcp://localhost:8081") as client:
            answer = await client.request("weather.current", {"city": "Oslo"})

    Or `await client.connect(...)` and `await client.close()` where a block does not fit.  A
    client connects once; it is used from the event loop on which it was connected.

    `connect_timeout` and `close_timeout` are in milliseconds; `max_payload` in bytes is the
    largest payload that is sent, and the broker's limit must be as high; `ssl_context` replaces
    the default for tls:// and wss://, which verifies certificate and host name; `plugins` those
    that are installed.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        connect_timeout: int = 10_000,
        close_timeout: int = 5_000,
        max_payload: int = DEFAULT_MAX_PAYLOAD,
        ssl_context: ssl.SSLContext | None = None,
        plugins: Plugins | None = None,
    ) -> None:
        self._url = url
        self._options = ConnectionOptions.of(
            connect_timeout=connect_timeout,
            close_timeout=close_timeout,
            max_payload=max_payload,
            ssl_context=ssl_context,
            plugins=plugins,
        )
        self._callbacks = Callbacks()
        self._connection: Connection | None = None

    # Connecting and closing

    async def connect(
        self, host: str | None = None, port: int | None = None, use_tls: bool = False
    ) -> None:
        """Connect to a broker and wait for its greeting.

        `connect("localhost", 8080)` speaks WebSocket, encrypted with `use_tls`; any other
        transport is chosen by a URL: `connect("tcp://localhost:8081")`.  Without arguments it
        goes to the URL given to the client.

        Raises ConnectError when no connection comes about within `connect_timeout`, PluginError
        when the scheme's package is missing.  When cancelled, nothing is left behind.
        """
        if self._connection is not None:
            raise LocalProtocolError("this client was connected already: make a new one")
        target = host if host is not None else self._url
        if target is None:
            raise ConnectError(
                "where to? connect('localhost', 8080) or "
                "MessageBrokerClient('tcp://localhost:8081')"
            )
        url = broker_url(target, port, use_tls, "wss" if use_tls else "ws")
        session = Session(limits=self._options.limits)
        connection = self._connection = Connection(session, self._callbacks, self._options)
        try:
            await connection.open(url)
        except BaseException:
            self._connection = None
            raise

    async def close(self) -> None:
        """Close the connection: what was sent goes out, requests that wait fail.

        Safe to call twice, and before connecting.  Takes a few times `close_timeout` at most.
        Called from a handler or a callback of this client it returns at once, and the handler is
        cancelled at its next await.
        """
        if self._connection is not None:
            await self._connection.close()

    async def __aenter__(self) -> MessageBrokerClient:
        if self._connection is None:
            await self.connect()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def run(self) -> None:
        """Wait until the client is closed.

        Raises ConnectionLost when the connection is lost, and KeyboardInterrupt at Ctrl-C, so
        that `except KeyboardInterrupt: await client.close()` ends a program (on asyncio, where
        Python's own way would be to cancel this call, as long as nobody handles SIGINT).
        """
        await interruptible(self._connected().wait_over)

    # Asking, answering, publishing, listening

    async def register_service(self, name: str, description: str) -> None:
        """Tell the broker who this is; `name` has at most 36 characters, `description` 1024.

        Again replaces it.  Raises LocalProtocolError for other texts.
        """
        connection = self._connected()
        await connection.call(
            connection.session.register(
                name,
                description,
                now=time.monotonic(),
                timeout=int(self._options.connect_timeout * 1000),
            )
        )

    async def request(
        self,
        topic: str,
        payload: Any,
        response_handler: Callable[[Any], Any] | None = None,
        timeout: int = 30_000,
        *,
        version: str = DEFAULT_VERSION,
        parent_id: str | None = None,
    ) -> Message:
        """Ask, and wait for the answer; `timeout` in milliseconds, from 1 to 3,600,000.

        `response_handler`, plain or async, is called with the answer's payload before this
        returns.

        Raises ResponseError, by subclass: NoRouteFoundError where nobody answers the topic,
        RequestTimeoutError after the time limit, the service's own error.  Raises ConnectionLost
        when the connection ends; MessageTooLarge and LocalProtocolError before anything is sent.
        When cancelled, the request may have been sent; its answer is ignored.
        """
        connection = self._connected()
        message = await connection.complete(
            connection.session.request(
                topic,
                payload,
                now=time.monotonic(),
                timeout=timeout,
                version=version,
                parent_id=parent_id,
            )
        )
        if response_handler is not None:
            await call(response_handler, message.payload)
        return message

    async def publish(
        self,
        topic: str,
        payload: Any,
        *,
        confirm: bool = False,
        timeout: int = 30_000,
        version: str = DEFAULT_VERSION,
        parent_id: str | None = None,
    ) -> None:
        """Tell everybody who subscribed to `topic`.

        Returns when the message is on its way; if nobody listens, `on_error` hears of it.  With
        `confirm` it returns at the broker's word that the message was passed on, within
        `timeout` milliseconds, and raises NoRouteFoundError if nobody listens.

        Raises ConnectionLost, whose `sent` tells whether the message may have gone out;
        MessageTooLarge and LocalProtocolError before anything is sent.  When cancelled, the
        message may have been sent.
        """
        connection = self._connected()
        session = connection.session
        if confirm:
            request = session.publish_confirmed(
                topic,
                payload,
                now=time.monotonic(),
                timeout=timeout,
                version=version,
                parent_id=parent_id,
            )
            await connection.call(request)
            return
        message = session.publish(topic, payload, version=version, parent_id=parent_id)
        link = connection.link
        link.send(message)
        if link.congested:
            await link.drain()

    def subscribe(
        self,
        topic: str,
        priority: float = 1,
        *,
        action: str = "publish",
        handler: Callable[[Message], Any] | None = None,
        concurrency: int = 1,
        queue_size: int | None = 65_536,
        overflow: str = "drop_newest",
    ) -> Subscription:
        """Receive what is published to `topic`, or answer what is requested.

        `topic` may be a pattern: `+` is one segment, a closing `#` any number.  `action` is
        "publish", "request" or "both".  Await the Subscription, or enter it as a context.

        `handler`, plain or async, is called with each Message, `concurrency` of them at a time
        (the order is kept at 1).  For a request, what it returns is the answer; a ResponseError
        that it raises is sent as it is, any other error as INTERNAL_ERROR, and logged.  Without
        a handler, iterate the Subscription, or have `on_message` handlers.

        Requests go to the subscriber with the highest `priority`, at random among equals.
        `queue_size` messages wait for a slow consumer, None for no bound; then `overflow`
        decides: "drop_newest", "drop_oldest", or "error", which ends the subscription with
        SlowConsumer.  Requests that don't fit are answered with SERVICE_UNAVAILABLE.

        Raises LocalProtocolError for a topic or an option that can't be.  Awaiting it raises
        what `request` raises; when that is cancelled, nothing is subscribed.
        """
        check_pattern(topic)
        actions = _ACTIONS.get(action)
        if actions is None:
            raise LocalProtocolError(
                f"invalid action {action!r}: one of 'publish', 'request', 'both'"
            )
        if not isinstance(concurrency, int) or concurrency < 1:
            raise LocalProtocolError(f"invalid concurrency {concurrency!r}: a number from 1")
        if (
            isinstance(priority, bool)
            or not isinstance(priority, int | float)
            or not math.isfinite(priority)
        ):
            raise LocalProtocolError(f"invalid priority {priority!r}: a number")
        return Subscription(
            self._connected,
            self._callbacks,
            topic,
            actions,
            priority=priority,
            handler=handler,
            concurrency=concurrency,
            queue=MessageQueue(queue_size, overflow),
        )

    async def unsubscribe(self, topic: str, *, action: str = "both") -> None:
        """End this client's subscriptions to exactly `topic`; what is queued is still consumed.

        `action` narrows it to "publish" or "request".  Raises LocalProtocolError where there is
        no such subscription.  When cancelled, this side has let go of them.
        """
        check_pattern(topic)
        actions = _ACTIONS.get(action)
        if actions is None:
            raise LocalProtocolError(
                f"invalid action {action!r}: one of 'publish', 'request', 'both'"
            )
        connection = self._connected()
        table = connection.session.subscriptions
        entries = [entry for kind in actions for entry in table.of(kind, topic)]
        if not entries:
            raise LocalProtocolError(f"there is no subscription to {topic!r}")
        for entry in entries:
            entry.consumer.release(entry)
        await connection.unsubscribe(entries)

    # Callbacks: plain or async, called one at a time in the order of events

    def on_message(self, handler: Callable[[MessageHeader, Any], Any]) -> None:
        """Call `handler(header, payload)` for publications that have no other consumer.

        Those are the messages of subscriptions with neither handler nor iteration, including
        what waits in their queues already.  Those of one subscription come one after the other;
        subscriptions do not wait for each other.
        """
        self._callbacks.message.append(handler)
        if self._connection is not None:
            for entry in self._connection.session.subscriptions:
                entry.consumer.consume_with_on_message()

    def on_connect(self, handler: Callable[[], Any]) -> None:
        """Call `handler()` when the connection has come about."""
        self._callbacks.connect.append(handler)

    def on_disconnect(self, handler: Callable[[], Any]) -> None:
        """Call `handler()` when the connection has ended, in order or not."""
        self._callbacks.disconnect.append(handler)

    def on_error(self, handler: Callable[[Exception], Any]) -> None:
        """Call `handler(error)` for errors that no call of yours can raise.

        Failing handlers, slow consumers, messages that can't be read, publications that nobody
        listens to.  They are logged as well.
        """
        self._callbacks.error.append(handler)

    # Within

    def _connected(self) -> Connection:
        if self._connection is None:
            raise LocalProtocolError("not connected: await client.connect(...) first")
        return self._connection
