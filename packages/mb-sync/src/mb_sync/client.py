"""MessageBrokerClient for plain threads: requests, services, publications and subscriptions."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from copy import copy
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, overload
from weakref import ref

import mb_core
from mb_core import LogLevel
from mb_core.codec import JSON, Codec, check_kind
from mb_core.errors import ConnectionLost, LocalProtocolError
from mb_core.header import DEFAULT_VERSION, MessageHeader, check_timeout
from mb_core.hosted_client import (
    CLOSED,
    DEFAULT_QUEUE_BYTES,
    ENTERED,
    CallbackMethods,
    HostedClient,
    Registration,
    check_status,
    terminable,
    unwrapped,
)
from mb_core.message import Message, handled_id
from mb_core.options import (
    ActionName,
    OverflowName,
    Token,
)
from mb_core.plugins import Plugins
from mb_core.session import DEFAULT_BUFFER, BufferOverflowName
from mb_core.user_code import check_response_handler
from mb_core.wire import DEFAULT_MAX_PAYLOAD

from .blocking_request import BlockingRequest
from .docstrings import documented_as
from .loop_thread import LoopThread
from .subscription import Subscription
from .thread_host import ThreadHost
from .thread_lifecycle import ThreadLifecycle
from .thread_runner import reject_awaitable

if TYPE_CHECKING:
    import ssl

__all__ = ["MessageBrokerClient"]

# Marks an error that interrupted `run`.
_STOPPED = "_mb_stopped"

T = TypeVar("T")


class MessageBrokerClient(CallbackMethods):
    """A client of an MB broker for plain threads.

    It has the methods, options and errors of the async client, `mb_core.MessageBrokerClient`. Its
    methods block, and can be called from any thread.

    Example::

        with MessageBrokerClient("tcp://localhost:8081") as client:
            answer = client.request("weather.current", {"city": "Oslo"})
            print(answer.payload)

    The connection lives on an event loop in a background thread, which all clients of the process
    share. So heartbeats are answered and connections are restored while your program computes.

    Handlers and callbacks are plain functions, called in threads: up to `concurrency` at a time for
    each subscription, and one at a time for each callback. Ctrl-C interrupts any call that the main
    thread is waiting in. A client does not survive a fork. docs/sync.md has the details.

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
        host = ThreadHost()
        self._client = HostedClient(
            host,
            url,
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
            publish_buffer=publish_buffer,
            buffer_overflow=buffer_overflow,
            inherit_deadlines=inherit_deadlines,
            codec=codec,
            token=token,
        )
        host.client = ref(self._client)
        self._lifecycle = ThreadLifecycle(self._client, host)
        # Held from the beginning of a block.
        self._enter_lock = threading.Lock()

    # Connecting and closing

    @documented_as(mb_core.MessageBrokerClient.connect)
    def connect(
        self, host: str | None = None, port: int | None = None, use_tls: bool = False
    ) -> None:
        self._lifecycle.connect(host, port, use_tls)

    @documented_as(mb_core.MessageBrokerClient.wait_connected)
    def wait_connected(self, timeout: int | None = None) -> None:
        if timeout is not None:
            check_timeout(timeout)
        self._lifecycle.wait_connected(timeout)

    @property
    def user(self) -> str | None:
        """The user as which the client has authenticated; None without a token.

        It is set when the client is connected, and may change with its token when it reconnects.
        """
        return self._client.user

    @property
    def connected(self) -> bool:
        """Whether the client is connected, registered and subscribed."""
        return self._lifecycle.connected

    @documented_as(mb_core.MessageBrokerClient.stats)
    def stats(self) -> mb_core.ClientStats:
        self._lifecycle.check()
        loop = self._lifecycle.loop
        return self._client.stats() if loop is None else loop.call_function(self._client.stats)

    @documented_as(mb_core.MessageBrokerClient.close)
    def close(self) -> None:
        self._lifecycle.close(drain=True)

    def __enter__(self) -> Self:
        self._lifecycle.check()
        if self._lifecycle.closing:
            raise LocalProtocolError(CLOSED)
        if not self._enter_lock.acquire(blocking=False):
            raise LocalProtocolError(ENTERED)
        try:
            self._lifecycle.ensure_connected()
        except BaseException:
            self._enter_lock.release()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # An interrupted call doesn't wait for other work to finish, but interrupting `run` of any
        # client is a clean shutdown.
        stopped = getattr(error, _STOPPED, False)
        self._lifecycle.close(drain=kind is None or issubclass(kind, Exception) or stopped)

    @documented_as(mb_core.MessageBrokerClient.run)
    def run(self) -> None:
        supervisor, loop = self._lifecycle.running()
        try:
            with terminable():
                loop.call(supervisor.wait_over)
        except KeyboardInterrupt as error:
            setattr(error, _STOPPED, True)
            raise

    # Asking, answering, publishing, listening

    @documented_as(mb_core.MessageBrokerClient.register_service)
    def register_service(self, name: str, description: str) -> None:
        supervisor, loop = self._lifecycle.running()
        loop.call(supervisor.register, name, description)

    @overload
    def request(
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
    def request(
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
    @documented_as(mb_core.MessageBrokerClient.request)
    def request(
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
        check_response_handler(response_handler)
        supervisor, loop = self._lifecycle.running()
        if result is not None:
            check_kind(result, self._client.codec)
        call = BlockingRequest(
            supervisor,
            lambda: supervisor.calls.ask(topic, payload, timeout, version, parent_id, retry),
            timeout,
        )
        _, message = call.complete(loop)
        if response_handler is not None:
            reject_awaitable(response_handler(copy(message).payload))  # it may change what it gets
        return message if result is None else message.decode(result)

    @documented_as(mb_core.MessageBrokerClient.publish)
    def publish(
        self,
        topic: str,
        payload: Any,
        *,
        confirm: bool = False,
        timeout: int = 30_000,
        version: str = DEFAULT_VERSION,
        parent_id: str | None = None,
    ) -> None:
        lifecycle = self._lifecycle
        loop = lifecycle.loop
        if not confirm and loop is not None and loop.is_current():
            supervisor = lifecycle.supervisor  # waits for nothing
            if supervisor is None:
                raise ConnectionLost("not published: the client is connecting", sent=False)
        else:
            supervisor, loop = lifecycle.running()
        if parent_id is None:
            parent_id = handled_id()
        if confirm:
            call = BlockingRequest(
                supervisor,
                lambda: supervisor.ask_to_publish(topic, payload, timeout, version, parent_id),
                timeout,
            )
            error = check_status(*call.complete(loop))
            if error is not None:
                raise error
            return
        message = supervisor.session.encode(topic, payload, version, parent_id)
        lifecycle.publish_queue.publish(message)

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
        """Receive publications, or answer requests, from now on.

        Subscribes at once. `mb_core.MessageBrokerClient.subscribe` explains the arguments. A
        handler is a plain function, called in a thread.

        Example::

            with client.subscribe("order.#") as events:
                for event in events:
                    print(event.topic, event.payload)

        Returns:
            A `Subscription` to iterate, or to enter with `with` to unsubscribe at the end of the
            block.

        Raises:
            LocalProtocolError: The topic or an option is invalid, or the client is not connected.
            ResponseError: The broker refused, or did not confirm within `connect_timeout`.
            ConnectionLost: The client was closed or gave up reconnecting.

        If interrupted, nothing is subscribed.
        """
        _, loop = self._lifecycle.running()
        subscription = self._client.subscribe(
            topic,
            priority,
            action=action,
            handler=handler,
            concurrency=concurrency,
            queue_size=queue_size,
            queue_bytes=queue_bytes,
            overflow=overflow,
        )
        return self._subscribed(subscription, loop)

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
        """Receive new entries of the broker's log.

        Follows at once. `mb_core.MessageBrokerClient.follow_log` explains the arguments. A handler
        is a plain function, called in a thread.

        Returns:
            A `Subscription`, as `subscribe` does.

        Raises:
            LocalProtocolError: The levels or the regex are invalid, the client is not connected, or
                it already follows the log with other levels or another regex.
            ResponseError: The broker refused. It is an `InvalidRequestError` if the broker can't
                use the regex.
            ConnectionLost: The client was closed or gave up reconnecting.

        If interrupted, the log is not followed.
        """
        _, loop = self._lifecycle.running()
        subscription = self._client.follow_log(
            levels,
            regex,
            handler=handler,
            queue_size=queue_size,
            queue_bytes=queue_bytes,
            overflow=overflow,
        )
        return self._subscribed(subscription, loop)

    @documented_as(mb_core.MessageBrokerClient.unsubscribe)
    def unsubscribe(self, topic: str, *, action: ActionName = "both") -> None:
        _, loop = self._lifecycle.running()
        loop.call(self._client.unsubscribe, topic, action=action)

    # Callbacks: plain functions.  Each gets its calls one at a time in the order of events, in a
    # thread; a slow one keeps no other waiting.

    @documented_as(mb_core.MessageBrokerClient.on_message)
    def on_message(self, handler: Callable[[MessageHeader, Any], Any]) -> Registration:
        self._lifecycle.check()
        loop = self._lifecycle.loop
        if loop is None:
            registration = self._client.on_message(handler)
        else:
            registration = loop.call_function(self._client.on_message, handler)
        return self._removable(handler, registration)

    @documented_as(mb_core.MessageBrokerClient.on_connect)
    def on_connect(self, handler: Callable[[], Any]) -> Registration:
        self._lifecycle.check()
        return self._removable(handler, self._client.on_connect(handler))

    @documented_as(mb_core.MessageBrokerClient.on_disconnect)
    def on_disconnect(self, handler: Callable[[], Any]) -> Registration:
        self._lifecycle.check()
        return self._removable(handler, self._client.on_disconnect(handler))

    @documented_as(mb_core.MessageBrokerClient.on_error)
    def on_error(self, handler: Callable[[Exception], Any]) -> Registration:
        self._lifecycle.check()
        return self._removable(handler, self._client.on_error(handler))

    # Internals

    def _subscribed(self, subscription: mb_core.Subscription, loop: LoopThread) -> Subscription:
        """Subscribe, and return what the user gets."""
        try:
            loop.call(_start, subscription)
        except BaseException:
            loop.post(subscription.unsubscribe_nowait)  # it may have been active when interrupted
            raise
        return Subscription(subscription, loop)

    def _removable(self, handler: Callable[..., Any], registered: Registration) -> Registration:
        """A Registration for any thread, of a handler that the loop knows in another form.

        It does not keep the client alive.
        """
        lifecycle = ref(self._lifecycle)

        def remove(_: Registration) -> None:
            alive = lifecycle()
            loop = alive.loop if alive is not None else None
            if loop is None:
                registered.remove()
            else:
                loop.check()
                loop.call_function(registered.remove)

        return Registration(unwrapped(handler), remove)


async def _start(subscription: mb_core.Subscription) -> None:
    await subscription
