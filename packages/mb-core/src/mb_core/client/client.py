"""MessageBrokerClient: ask, answer, publish and listen through a broker."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from copy import copy
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args, overload
from weakref import ref

from ..codec import JSON, Codec, check_kind
from ..errors import LocalProtocolError
from ..header import DEFAULT_VERSION, Action, MessageHeader
from ..link import checkpoint
from ..message import Message, handled_id
from ..options import (
    ActionName,
    ClientOptions,
    OverflowName,
    actions_of,
    check_options,
    check_priority,
)
from ..plugins import Plugins
from ..session import DEFAULT_BUFFER, LOG_TOPIC, BufferOverflowName, Outbox
from ..topic import check_pattern
from ..user_code import call, check_response_handler
from ..wire import DEFAULT_MAX_PAYLOAD
from .callbacks import Registration
from .lifecycle import Lifecycle
from .queue import DEFAULT_QUEUE_BYTES
from .subscription import Consumer, Subscription

if TYPE_CHECKING:
    import ssl

__all__ = ["LogLevel", "MessageBrokerClient"]

T = TypeVar("T")

LogLevel = Literal["debug", "info", "warn", "error"]
"""The level of an entry of the broker's log."""


class MessageBrokerClient(Lifecycle):
    """A client of an MB broker, on asyncio or trio.

        async with MessageBrokerClient("tcp://localhost:8081") as client:
            answer = await client.request("weather.current", {"city": "Oslo"})

    Or `await client.connect(...)` and `await client.close()` where a block does not fit.  A
    client belongs to the event loop and the process in which it was connected: elsewhere each
    call raises LocalProtocolError, and leaving its block in a forked process does nothing.
    `url` may be several: the first that answers is used, and the next when it does no longer.
    All times are in milliseconds.

    A connection that is lost is restored: registered, subscribed, and what was published
    meanwhile is sent (docs/reliability.md says what is promised).  `reconnect=False` ends the
    client instead; `retry_connect=True` does the same for the first connection, for which calls
    then wait as they do after a loss, so that tasks may share a client before it is connected.
    The first try comes within `backoff_min`; before each further one it waits twice as long as
    before the last, up to `backoff_max`, half of it at random.  It goes on forever, or for
    `reconnect_timeout`.  A connection on which nothing has moved for `heartbeat_interval` is
    asked for a sign of life, and given up after as long again; None never asks.  Every byte that
    arrives is one, and so is progress of a write that had to wait.

    `publish_buffer` bounds in bytes what is published while there is no connection; what does
    not fit raises, or with `buffer_overflow="drop_oldest"` takes the place of the oldest.

    `drain_timeout` bounds how long closing waits for handlers and for the buffer, 0 not at all;
    `close_timeout` how long it waits for the other side.  `max_payload` in bytes is the largest
    payload that is sent, and the broker's limit must be as high; `ssl_context` replaces the
    default for tls:// and wss://, which verifies certificate and host name; `plugins` those that
    are installed; `codec`, a name or an object, writes and reads payloads.  With
    `inherit_deadlines`, a request made in the handler of another has no more time than is left
    to that.

    Raises LocalProtocolError for invalid options, PluginError for an unknown codec.
    """

    def __init__(
        self,
        url: str | Sequence[str] | None = None,
        *,
        connect_timeout: int = 10_000,
        close_timeout: int = 5_000,
        drain_timeout: int = 5_000,
        max_payload: int = DEFAULT_MAX_PAYLOAD,
        ssl_context: ssl.SSLContext | None = None,
        plugins: Plugins | None = None,
        reconnect: bool = True,
        retry_connect: bool = False,
        backoff_min: int = 100,
        backoff_max: int = 2_000,
        reconnect_timeout: int | None = None,
        heartbeat_interval: int | None = 15_000,
        publish_buffer: int = DEFAULT_BUFFER,
        buffer_overflow: BufferOverflowName = "error",
        inherit_deadlines: bool = True,
        codec: str | Codec = JSON,
    ) -> None:
        check_options(url=url, codec=codec)
        urls = (url,) if isinstance(url, str) else tuple(url or ())
        options = ClientOptions.checked(
            connect_timeout=connect_timeout,
            close_timeout=close_timeout,
            drain_timeout=drain_timeout,
            max_payload=max_payload,
            ssl_context=ssl_context,
            plugins=plugins,
            reconnect=reconnect,
            retry_connect=retry_connect,
            backoff_min=backoff_min,
            backoff_max=backoff_max,
            reconnect_timeout=reconnect_timeout,
            heartbeat_interval=heartbeat_interval,
            inherit_deadlines=inherit_deadlines,
        )
        super().__init__(urls, options, Outbox(publish_buffer, buffer_overflow), codec)

    # Asking, answering, publishing, listening

    async def register_service(self, name: str, description: str) -> None:
        """Register this client as a service, with a `name` and a `description`.

        `name` may have 36 characters, `description` 1024.  Calling it again replaces both.  The
        client registers again after each reconnect.  Raises LocalProtocolError for longer or
        invalid texts, and what `request` raises with `retry`.
        """
        await checkpoint()
        await (await self._connected_soon()).register(name, description)

    @overload
    async def request(
        self,
        topic: str,
        payload: Any,
        response_handler: Callable[[Any], Any] | None = None,
        timeout: int = 30_000,
        *,
        version: str = DEFAULT_VERSION,
        parent_id: str | None = None,
        retry: bool = False,
        result: None = None,
    ) -> Message: ...
    @overload
    async def request(
        self,
        topic: str,
        payload: Any,
        response_handler: Callable[[Any], Any] | None = None,
        timeout: int = 30_000,
        *,
        version: str = DEFAULT_VERSION,
        parent_id: str | None = None,
        retry: bool = False,
        result: type[T],
    ) -> T: ...
    async def request(
        self,
        topic: str,
        payload: Any,
        response_handler: Callable[[Any], Any] | None = None,
        timeout: int = 30_000,
        *,
        version: str = DEFAULT_VERSION,
        parent_id: str | None = None,
        retry: bool = False,
        result: type[T] | None = None,
    ) -> Message | T:
        """Ask, and wait for the answer; `timeout` in milliseconds, from 1 to 3,600,000.

        Returns the answer as a Message, or with `result`, a type, its payload as that type, as
        `Message.decode` reads it.  `response_handler`, plain or async, is called with the answer's
        payload before this returns.  `retry` allows to send the request again, within the same
        time, when the connection is lost, or when a service is not back yet after the client has
        reconnected: for what may be done twice.  Within the handler of another message,
        `parent_id` is that message's, and the time no longer than is left to its sender.

        Raises ResponseError, by subclass: NoRouteFoundError where nobody answers the topic,
        RequestTimeoutError after the time limit, the service's own error.  Raises ConnectionLost
        when the connection is lost: `sent` says whether the request may have gone out.  Raises
        MessageTooLarge and LocalProtocolError before anything is sent, and RemoteProtocolError,
        whose `path` says where, for an answer that does not fit `result`.  When cancelled, the
        request may have been sent; its answer is ignored.
        """
        if self._supervisor is None:
            await self._wait_connecting()
        try:
            if response_handler is not None:
                check_response_handler(response_handler)
            supervisor = self._connected()
            if result is not None:
                check_kind(result, self._codec)
            request = supervisor.calls.ask(topic, payload, timeout, version, parent_id, retry)
        except Exception:
            await checkpoint()
            raise
        message = await supervisor.calls.complete(request)
        if response_handler is not None:
            await call(response_handler, copy(message).payload)  # it may change what it gets
        return message if result is None else message.decode(result)

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
        """Publish a message to all subscribers of `topic`.

        Returns when the message is on its way, or waits in the buffer for a connection; if
        nobody is subscribed, `on_error` is told.  With `confirm` it returns when the broker has
        confirmed that it passed the message on, within `timeout` milliseconds, and raises
        NoRouteFoundError if nobody is subscribed; it is never sent twice.

        Raises ConnectionLost where the buffer is full, and with `confirm` when the connection is
        lost before the confirmation; `sent` tells whether the message may have gone out.  Raises
        MessageTooLarge and LocalProtocolError before anything is sent.  When cancelled, the
        message may have been sent.
        """
        if self._supervisor is None:
            await self._wait_connecting()
        try:
            supervisor = self._connected()
            if parent_id is None:
                parent_id = handled_id()
            if confirm:
                request = supervisor.ask_to_publish(topic, payload, timeout, version, parent_id)
            else:
                message = supervisor.session.publish(
                    topic, payload, version=version, parent_id=parent_id
                )
        except Exception:
            await checkpoint()
            raise
        if confirm:
            await supervisor.calls.confirm(request)
        elif message is None:
            supervisor.report_dropped_publishes()
            await checkpoint()
        else:
            connection = supervisor.calls.connection
            connection.send(message)
            if connection.link.congested:
                await connection.drain()
            elif monotonic() >= supervisor.turn.over:
                await supervisor.turn.take()

    def subscribe(
        self,
        topic: str,
        priority: float = 1,
        *,
        action: ActionName = "publish",
        handler: Callable[[Message], Any] | None = None,
        concurrency: int = 1,
        queue_size: int | None = 65_536,
        queue_bytes: int | None = DEFAULT_QUEUE_BYTES,
        overflow: OverflowName = "drop_newest",
    ) -> Subscription:
        """Receive what is published to `topic`, or answer what is requested.

        `topic` may be a pattern: `+` is one segment, a closing `#` any number.  `action` is
        "publish", "request" or "both".  Await the Subscription, or enter it as a context.

        `handler`, plain or async, is called with each Message, `concurrency` of them at a time
        (the order is kept at 1).  For a request, what it returns is the answer; a ResponseError
        that it raises is sent as it is, any other error as INTERNAL_ERROR, and logged.  Without
        a handler, iterate the Subscription, or have `on_message` handlers.

        Requests go to the subscriber with the highest `priority`, at random among equals.
        `queue_size` messages wait for a slow consumer, and `queue_bytes` of their payloads; None
        means no bound.  Then `overflow` decides: "drop_newest", "drop_oldest", or "error", which
        ends the subscription with SlowConsumer.  Requests that don't fit are answered with
        SERVICE_UNAVAILABLE; `on_error` is told once a second.

        The subscription outlives the connection, and is made anew on each.  Where the broker
        refuses that, `on_error` gets its error; a permanent refusal, such as FORBIDDEN, ends the
        subscription with it, and after any other the client asks again.

        Raises LocalProtocolError for an invalid topic or option.  Awaiting it raises
        what `request` raises; when that is cancelled, nothing is subscribed.
        """
        check_pattern(topic)
        actions = actions_of(action)
        check_priority(priority)
        self._host.check_handler(handler)
        consumer = Consumer(
            self._callbacks,
            topic,
            actions,
            priority=priority,
            handler=handler,
            concurrency=concurrency,
            queue=self._host.queue_type(queue_size, overflow, queue_bytes),
            make_runner=self._host.make_runner,
        )
        return Subscription(self._connected_soon, consumer)

    def follow_log(
        self,
        levels: Sequence[LogLevel] = ("error",),
        regex: str | None = None,
        *,
        handler: Callable[[Message], Any] | None = None,
        queue_size: int | None = 65_536,
        queue_bytes: int | None = DEFAULT_QUEUE_BYTES,
        overflow: OverflowName = "drop_newest",
    ) -> Subscription:
        """Receive the entries that the broker writes to its log.

        `levels` are those wanted, of "debug", "info", "warn" and "error"; `regex` is searched for
        in each entry's text by the broker.  Await the Subscription, or enter it as a context, as
        with `subscribe`, whose other options these are.  Each Message is a response to
        `system.log` whose payload is an object: `level`, `module`, `message`, `timestamp`, and
        what the entry is about, such as `serviceId`.

        Following outlives the connection, as a subscription does.  `subscribe("system.log")` is
        the same with the default levels.  A client follows with one choice of levels and regex at
        a time.

        Raises LocalProtocolError for levels or a regex of another kind, and when awaited if this
        client follows the log with another choice.  Awaiting it raises InvalidRequestError for a
        regex that the broker can't use, and what `request` raises; when that is cancelled,
        nothing is followed.
        """
        self._host.check_handler(handler)
        consumer = Consumer(
            self._callbacks,
            LOG_TOPIC,
            (Action.PUBLISH,),
            priority=0,
            handler=handler,
            concurrency=1,
            queue=self._host.queue_type(queue_size, overflow, queue_bytes),
            make_runner=self._host.make_runner,
            log_filter=_log_filter(levels, regex),
        )
        return Subscription(self._connected_soon, consumer)

    async def unsubscribe(self, topic: str, *, action: ActionName = "both") -> None:
        """End this client's subscriptions to exactly `topic`; what is queued is still consumed.

        `action` narrows it to "publish" or "request".  Raises LocalProtocolError where there is
        no such subscription.  When cancelled, this side has let go of them.
        """
        try:
            check_pattern(topic)
            actions = actions_of(action)
            supervisor = self._connected()
            table = supervisor.session.subscriptions
            entries = [entry for kind in actions for entry in table.of(kind, topic)]
            if not entries:
                raise LocalProtocolError(f"there is no subscription to {topic!r}")
        except Exception:
            await checkpoint()
            raise
        for entry in entries:
            entry.consumer.remove(entry)
        await supervisor.unsubscribe(entries)

    # Callbacks: plain or async.  Each gets its calls one at a time in the order of events; a slow
    # one keeps no other waiting.  All return a Registration.

    def on_message(self, handler: Callable[[MessageHeader, Any], Any]) -> Registration:
        """Call `handler(header, payload)` for publications that have no other consumer.

        Those are the messages of subscriptions with neither handler nor iteration, including
        what waits in their queues already.  Those of one subscription come one after the other;
        subscriptions do not wait for each other.

        Returns a Registration, which removes the handler when it is called; so do the other
        `on_*` methods, and each may be used as a decorator, `@client.on_message`.
        """
        self._host.check_handler(handler, "on_message handler")
        callbacks = self._callbacks
        removed = partial(_stop_consuming_with, ref(self))
        registration = callbacks.register(callbacks.message, handler, removed)
        if self._supervisor is not None:
            for entry in self._supervisor.session.subscriptions:
                entry.consumer.consume_with_on_message()
        return registration

    def on_connect(self, handler: Callable[[], Any]) -> Registration:
        """Call `handler()` when a connection has come about, the first or another.

        It may run beside handlers of other events: `connected` is the state as it is.
        Subscriptions need not be made again here.  What `handler` subscribes to or registers
        replaces what an earlier call of it subscribed to the same topic, or registered for the
        same event.
        """
        return self._on(self._callbacks.connect, handler, "on_connect handler")

    def on_disconnect(self, handler: Callable[[], Any]) -> Registration:
        """Call `handler()` when a connection has ended, in order or not."""
        return self._on(self._callbacks.disconnect, handler, "on_disconnect handler")

    def on_error(self, handler: Callable[[Exception], Any]) -> Registration:
        """Call `handler(error)` for errors that no call of yours can raise.

        Failing handlers, slow consumers, messages that can't be read, publications that nobody
        listens to (once a second for each topic), failed tries to connect again.  They are logged
        as well.
        """
        return self._on(self._callbacks.error, handler, "on_error handler")

    def _on(self, handlers: list[Registration], handler: Any, name: str) -> Registration:
        self._host.check_handler(handler, name)
        return self._callbacks.register(handlers, self._host.wrap_callback(handler))


def _stop_consuming_with(client: ref[MessageBrokerClient], index: int) -> None:
    """An on_message handler was removed; its Registration does not keep the client alive."""
    alive = client()
    if alive is not None and alive._supervisor is not None:
        for entry in alive._supervisor.session.subscriptions:
            entry.consumer.stop_consuming_with(index)


def _log_filter(levels: Sequence[str], regex: str | None) -> dict[str, Any]:
    known = get_args(LogLevel)
    wanted = [] if isinstance(levels, str) or not isinstance(levels, Iterable) else list(levels)
    if not wanted or any(level not in known for level in wanted):
        raise LocalProtocolError(
            f"invalid levels {levels!r}: expected a list of {', '.join(map(repr, known))}"
        )
    if regex is not None and not isinstance(regex, str):
        raise LocalProtocolError(f"invalid regex {regex!r}: expected a string")
    wishes: dict[str, Any] = {"levels": [level for level in known if level in wanted]}
    return wishes if regex is None else {**wishes, "regex": regex}
