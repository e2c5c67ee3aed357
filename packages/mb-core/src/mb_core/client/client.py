"""MessageBrokerClient: requests, services, publications and subscriptions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar, overload

from ..codec import JSON, Codec, check_kind
from ..header import DEFAULT_VERSION, Action
from ..link import checkpoint
from ..message import Message, handled_id
from ..options import (
    ActionName,
    ClientOptions,
    LogLevel,
    OverflowName,
    Token,
    actions_of,
    check_options,
    check_priority,
    log_filter_of,
)
from ..plugins import Plugins
from ..session import DEFAULT_BUFFER, LOG_TOPIC, BufferOverflowName, Outbox
from ..topic import check_pattern
from ..user_code import call, check_response_handler
from ..wire import DEFAULT_MAX_PAYLOAD
from .on_methods import OnMethods
from .queue import DEFAULT_QUEUE_BYTES
from .subscription import Consumer, Subscription

if TYPE_CHECKING:
    import ssl

__all__ = ["MessageBrokerClient"]

T = TypeVar("T")


class MessageBrokerClient(OnMethods):
    """A client of an MB broker, for asyncio and trio.

    Use it as a context manager, or call `connect` and `close`. All times are in milliseconds.

    Example::

        async with MessageBrokerClient("tcp://localhost:8081") as client:
            answer = await client.request("weather.current", {"city": "Oslo"})
            print(answer.payload)

    If the connection is lost, the client reconnects, registers and subscribes again, and sends what
    was published in the meantime. docs/reliability.md lists all guarantees.

    A client belongs to the event loop and process in which it was connected. Calls from elsewhere
    raise `LocalProtocolError`.

    Args:
        url: URL of the broker, or a list of URLs of interchangeable brokers. If the connection to
            one fails, the client tries the next.
        connect_timeout: Time limit for each attempt to connect to a URL.
        close_timeout: How long to wait for the broker when closing.
        drain_timeout: How long closing waits for handlers and for buffered messages; 0 for no wait.
        max_payload: Largest payload to send, in bytes. The broker's limit must be at least as high.
        ssl_context: For `tls://` and `wss://`. The default verifies certificates and host names.
        plugins: Plugins to use instead of the installed ones.
        reconnect: Whether to reconnect after a loss. If false, the client gives up instead.
        retry_connect: Whether to keep trying if the first connection fails. Meanwhile, other tasks
            can use the client as they can during an outage.
        backoff_min: Upper bound of the random wait before the first attempt to reconnect. It
            doubles with each attempt; later waits are between half of it and all of it.
        backoff_max: Longest wait between attempts.
        reconnect_timeout: How long to try to reconnect; None to keep trying forever.
        heartbeat_interval: How long the broker may be silent before the client sends a heartbeat.
            After the same time again, the client drops the connection. None turns this off.
        publish_buffer: How many bytes of publications can wait for a connection.
        buffer_overflow: What happens to a publication that does not fit: with `"error"`, `publish`
            raises `ConnectionLost`; with `"drop_oldest"`, it replaces the oldest ones.
        inherit_deadlines: Whether a request made in a request handler is limited to the time that
            is left for the request being handled.
        codec: Name of an installed codec, or a `Codec`, that reads and writes payloads.
        token: Tells the broker which user this is (docs/access.md): a string, or a plain or async
            function that returns one. The function is called for each connection.

    Raises:
        LocalProtocolError: An option is invalid.
        PluginError: There is no codec with this name.
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
        token: Token | None = None,
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
            token=token,
        )
        super().__init__(urls, options, Outbox(publish_buffer, buffer_overflow), codec)

    async def register_service(self, name: str, description: str) -> None:
        """Register this client as a service.

        The broker's page and `mb services` show its name. Each reconnect registers it again, and
        calling this again replaces both texts.

        Args:
            name: 1 to 36 characters.
            description: 1 to 1024 characters.

        Raises:
            LocalProtocolError: A text is empty or too long, or the client is not connected.
            ResponseError: The broker refused, or did not confirm within `connect_timeout`.
            ConnectionLost: The client was closed or gave up reconnecting.
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
        """Send a request and wait for its answer.

        Example::

            answer = await client.request("weather.current", {"city": "Oslo"}, timeout=5_000)
            print(answer.payload["degrees"])

        Args:
            payload: Anything that can be written as JSON (docs/payloads.md).
            response_handler: A plain or async function that is called with the answer's payload
                before this call returns.
            timeout: Time limit in milliseconds, from 1 to 3,600,000. With `inherit_deadlines`, it
                is reduced in a handler to the time that is left for the request being handled.
            version: Version of the topic, a semantic version.
            parent_id: Id of the message that caused this one; by default, that of the message
                being handled.
            retry: Whether the request may be sent again, within the same time limit, if the
                connection is lost or the service has not come back yet after a reconnect. Use it
                only for requests that may be handled twice.
            result: Type to convert the answer's payload to, as `Message.decode` does.

        Returns:
            The answer as a `Message`, or its payload as the type `result`.

        Raises:
            NoRouteFoundError: No service answers this topic.
            RequestTimeoutError: No answer came within the time limit.
            ResponseError: The service, or the broker, answered with an error.
            ConnectionLost: There is no connection, or it was lost; `ConnectionLost.sent` says
                whether the request may have been sent.
            MessageTooLarge: The payload or the header is too large to be sent.
            LocalProtocolError: An argument is invalid, or the client is not connected.
            RemoteProtocolError: The answer can't be read, or does not fit `result`.

        If cancelled, the request may have been sent; its answer is ignored.
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

        Returns when the message is queued for sending or, without a connection, in the buffer; with
        `confirm`, when the broker has forwarded it. If nobody is subscribed, `on_error` is called.

        Example::

            await client.publish("order.paid", {"id": 7}, confirm=True)

        Args:
            payload: Anything that can be written as JSON (docs/payloads.md).
            confirm: Whether to wait for the broker's confirmation. The message is never sent twice.
            timeout: Time limit for the confirmation, in milliseconds.
            version: Version of the topic, a semantic version.
            parent_id: Id of the message that caused this one; by default, that of the message
                being handled.

        Raises:
            NoRouteFoundError: With `confirm`: nobody is subscribed to the topic.
            RequestTimeoutError: With `confirm`: no confirmation came within the time limit.
            ConnectionLost: The buffer is full, the client was closed, or, with `confirm`, the
                connection was lost; `ConnectionLost.sent` says whether the message may have been
                sent.
            MessageTooLarge: The payload or the header is too large to be sent.
            LocalProtocolError: An argument is invalid, or the client is not connected.

        If cancelled, the message may have been sent.
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
        """Receive publications, or answer requests.

        Await the `Subscription`, or enter it with `async with` to unsubscribe at the end of the
        block. It is restored after each reconnect.

        Example::

            async with client.subscribe("order.#") as events:
                async for event in events:
                    print(event.topic, event.payload)

        Without a handler, iterate the subscription, or leave its messages to `on_message` handlers.
        If the handler is for requests, its return value is the answer. If it raises a
        `ResponseError`, that error is the answer; any other error is sent as INTERNAL_ERROR and
        logged.

        If the broker refuses to restore the subscription, its error goes to `on_error`. A permanent
        refusal, such as FORBIDDEN, ends the subscription; after any other, the client asks again.

        Args:
            topic: A topic or a pattern, in which `+` matches one segment and `#` at the end any
                number.
            priority: Requests go to the subscriber with the highest priority, and at random among
                equals.
            action: `"publish"`, `"request"` or `"both"`.
            handler: A plain or async function that is called with each `Message`.
            concurrency: How many handler calls may run at a time. With 1, messages are handled in
                order.
            queue_size: How many messages can wait for their consumer; None for no limit.
            queue_bytes: How many bytes of payloads can wait; None for no limit.
            overflow: What happens when the queue is full: `"drop_newest"`, `"drop_oldest"`, or
                `"error"`, which ends the subscription with `SlowConsumer`. Dropped requests are
                answered with SERVICE_UNAVAILABLE, and `on_error` is called at most once a second.

        Raises:
            LocalProtocolError: The topic or an option is invalid. When awaited: the client is not
                connected.
            ResponseError: When awaited: the broker refused, or did not confirm in
                `connect_timeout`.
            ConnectionLost: When awaited: the client was closed or gave up reconnecting.

        If cancelled while awaited, nothing is subscribed.
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
        """Receive the entries of the broker's log.

        Await the `Subscription` or enter it, as with `subscribe`, which explains the other options.
        It is restored after each reconnect. The payload of each `Message` is an object with
        `level`, `module`, `message`, `timestamp`, and further fields, such as `serviceId`.

        A client can follow the log with only one combination of levels and regex at a time.
        `subscribe("system.log")` uses the default levels.

        Args:
            levels: The levels to receive.
            regex: Receive only entries whose text this regular expression matches somewhere.

        Raises:
            LocalProtocolError: The levels or the regex are invalid. When awaited: the client is not
                connected, or already follows the log with other levels or another regex.
            ResponseError: When awaited: the broker refused. It is an `InvalidRequestError` if the
                broker can't use the regex.
            ConnectionLost: When awaited: the client was closed or gave up reconnecting.

        If cancelled while awaited, the log is not followed.
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
            log_filter=log_filter_of(levels, regex),
        )
        return Subscription(self._connected_soon, consumer)

    async def unsubscribe(self, topic: str, *, action: ActionName = "both") -> None:
        """End this client's subscriptions to exactly `topic`.

        Messages that are already queued still go to their consumers.

        Args:
            topic: The topic or pattern that was subscribed to.
            action: `"publish"` or `"request"` to end only those subscriptions.

        Raises:
            LocalProtocolError: There is no such subscription, or the client is not connected.
            ResponseError: The broker refused.

        If cancelled, the subscriptions have ended, but the broker may not have confirmed it.
        """
        try:
            check_pattern(topic)
            actions = actions_of(action)
            supervisor = self._connected()
            entries = supervisor.entries_of(actions, topic)
        except Exception:
            await checkpoint()
            raise
        for entry in entries:
            entry.consumer.remove(entry)
        await supervisor.unsubscribe(entries)
