"""MessageBrokerClient: ask, answer, publish and listen through a broker, in plain threads."""

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
)
from mb_core.plugins import Plugins
from mb_core.session import DEFAULT_BUFFER, BufferOverflowName
from mb_core.user_code import check_response_handler
from mb_core.wire import DEFAULT_MAX_PAYLOAD

from .blocking_request import BlockingRequest
from .loop_thread import LoopThread
from .subscription import Subscription
from .thread_host import ThreadHost
from .thread_lifecycle import ThreadLifecycle
from .thread_runner import reject_awaitable

if TYPE_CHECKING:
    import ssl

__all__ = ["MessageBrokerClient"]

# Marks an error with which `run` was interrupted.
_STOPPED = "_mb_stopped"

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")


def _documented_as(method: Callable[..., Any]) -> Callable[[F], F]:
    """Copy the docstring of the async client's method, of which this is the blocking variant."""

    def document(function: F) -> F:
        function.__doc__ = method.__doc__
        return function

    return document


class MessageBrokerClient(CallbackMethods):
    """A client of an MB broker for plain threads: the async client's names, blocking.

        with MessageBrokerClient("tcp://localhost:8081") as client:
            answer = client.request("weather.current", {"city": "Oslo"})

    Or `client.connect(...)` and `client.close()` where a block does not fit.  It may be used from
    many threads.  Options, errors and promises are those of mb_core.MessageBrokerClient.

    The connection lives on an event loop in a background thread, one for all clients of the
    process: heartbeats are answered and connections restored while the program computes.
    Handlers are called in threads, `concurrency` of them at a time for each subscription, and
    callbacks each in one; they are plain functions.  Ctrl-C ends whatever call the main thread
    waits in, at once: what the async client says of cancelled calls holds for these.

    A client does not outlive a fork: make a new one in the new process.
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
        )
        host.client = ref(self._client)
        self._lifecycle = ThreadLifecycle(self._client, host)
        # Held from the beginning of a block.
        self._enter_lock = threading.Lock()

    # Connecting and closing

    @_documented_as(mb_core.MessageBrokerClient.connect)
    def connect(
        self, host: str | None = None, port: int | None = None, use_tls: bool = False
    ) -> None:
        self._lifecycle.connect(host, port, use_tls)

    @_documented_as(mb_core.MessageBrokerClient.wait_connected)
    def wait_connected(self, timeout: int | None = None) -> None:
        if timeout is not None:
            check_timeout(timeout)
        self._lifecycle.wait_connected(timeout)

    @property
    def connected(self) -> bool:
        """Whether there is a connection now, with all that was registered and subscribed."""
        return self._lifecycle.connected

    @_documented_as(mb_core.MessageBrokerClient.stats)
    def stats(self) -> mb_core.ClientStats:
        self._lifecycle.check()
        loop = self._lifecycle.loop
        return self._client.stats() if loop is None else loop.call_function(self._client.stats)

    @_documented_as(mb_core.MessageBrokerClient.close)
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
        # An interrupted call doesn't wait for others to be done; to interrupt `run`, of whichever
        # client, is to stop in order.
        stopped = getattr(error, _STOPPED, False)
        self._lifecycle.close(drain=kind is None or issubclass(kind, Exception) or stopped)

    @_documented_as(mb_core.MessageBrokerClient.run)
    def run(self) -> None:
        supervisor, loop = self._lifecycle.running()
        try:
            with terminable():
                loop.call(supervisor.wait_over)
        except KeyboardInterrupt as error:
            setattr(error, _STOPPED, True)
            raise

    # Asking, answering, publishing, listening

    @_documented_as(mb_core.MessageBrokerClient.register_service)
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
    @_documented_as(mb_core.MessageBrokerClient.request)
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

    @_documented_as(mb_core.MessageBrokerClient.publish)
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
        """Receive what is published to `topic`, or answer what is requested, from now on.

        As with the async client, except that it subscribes at once and returns a Subscription
        that is in force: iterate it, or enter it as a context.

        `handler` is a plain function; `concurrency` calls of it run at a time, each in a thread.

        Raises LocalProtocolError for an invalid topic or option, and what `request`
        raises; when interrupted, nothing is subscribed.
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
        """Receive the entries that the broker writes to its log, from now on.

        As with the async client, except that it follows at once, as `subscribe` does, and that
        `handler` is a plain function, called in a thread.

        Raises LocalProtocolError for levels or a regex of another kind, and if this client
        follows the log with another choice; InvalidRequestError for a regex that the broker can't
        use, and what `request` raises; when interrupted, nothing is followed.
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

    @_documented_as(mb_core.MessageBrokerClient.unsubscribe)
    def unsubscribe(self, topic: str, *, action: ActionName = "both") -> None:
        _, loop = self._lifecycle.running()
        loop.call(self._client.unsubscribe, topic, action=action)

    # Callbacks: plain functions.  Each gets its calls one at a time in the order of events, in a
    # thread; a slow one keeps no other waiting.

    @_documented_as(mb_core.MessageBrokerClient.on_message)
    def on_message(self, handler: Callable[[MessageHeader, Any], Any]) -> Registration:
        self._lifecycle.check()
        loop = self._lifecycle.loop
        if loop is None:
            registration = self._client.on_message(handler)
        else:
            registration = loop.call_function(self._client.on_message, handler)
        return self._removable(handler, registration)

    @_documented_as(mb_core.MessageBrokerClient.on_connect)
    def on_connect(self, handler: Callable[[], Any]) -> Registration:
        self._lifecycle.check()
        return self._removable(handler, self._client.on_connect(handler))

    @_documented_as(mb_core.MessageBrokerClient.on_disconnect)
    def on_disconnect(self, handler: Callable[[], Any]) -> Registration:
        self._lifecycle.check()
        return self._removable(handler, self._client.on_disconnect(handler))

    @_documented_as(mb_core.MessageBrokerClient.on_error)
    def on_error(self, handler: Callable[[Exception], Any]) -> Registration:
        self._lifecycle.check()
        return self._removable(handler, self._client.on_error(handler))

    # Internals

    def _subscribed(self, subscription: mb_core.Subscription, loop: LoopThread) -> Subscription:
        """Subscribe, and return what the user gets."""
        try:
            loop.call(_start, subscription)
        except BaseException:
            loop.post(subscription.unsubscribe_nowait)  # it may have been in force when interrupted
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
