"""MessageBrokerClient: ask, answer, publish and listen through a broker, in plain threads."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from copy import copy
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, overload
from weakref import WeakMethod, ref

import mb_core
from mb_core.client.arguments import (
    ActionName,
    CallbackMethods,
    OverflowName,
    check_response_handler,
)
from mb_core.client.callbacks import Registration, unwrapped
from mb_core.client.client import CLOSED, CONNECTED_ALREADY, CONNECTING, ENTERED, LogLevel
from mb_core.client.connection import check_status
from mb_core.client.context import handled_id
from mb_core.client.queue import DEFAULT_QUEUE_BYTES
from mb_core.client.stopping import terminable
from mb_core.client.supervisor import Supervisor
from mb_core.codec import JSON, Codec, check_kind
from mb_core.errors import ConnectionLost, LocalProtocolError
from mb_core.header import DEFAULT_VERSION, MessageHeader, check_timeout
from mb_core.message import Message
from mb_core.plugins import Plugins
from mb_core.session import DEFAULT_BUFFER, BufferOverflowName
from mb_core.wire import DEFAULT_MAX_PAYLOAD

from .blocking_request import Call
from .loop_client import Within
from .loop_thread import LoopThread, loop_for
from .publish_queue import Handover
from .subscription import Subscription
from .thread_runner import plain
from .thread_waiter import ThreadWaiter

if TYPE_CHECKING:
    import ssl

__all__ = ["MessageBrokerClient"]

# Marks an error with which `run` was interrupted.
_STOPPED = "_mb_stopped"

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")


def _like(method: Callable[..., Any]) -> Callable[[F], F]:
    """Give a method the documentation of the async client's, of which it is the blocking twin."""

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
        self._within = Within(
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
        # Held from the beginning of a connect that does not fail.
        self._to_connect = threading.Lock()
        # Held from the beginning of a block.
        self._to_enter = threading.Lock()
        # What undoes a connect that was interrupted, and where it runs.
        self._undoing: tuple[LoopThread, Future[None]] | None = None
        self._within.at_begin = WeakMethod(self._begin)
        self._user = self._within.user
        # Threads that wait for a connect to be called.
        self._early: deque[ThreadWaiter] = deque()
        # None until it connects; the Supervisor a moment longer.
        self._loop: LoopThread | None = None
        self._supervisor: Supervisor | None = None
        self._handover: Handover

    # Connecting and closing

    @_like(mb_core.MessageBrokerClient.connect)
    def connect(
        self, host: str | None = None, port: int | None = None, use_tls: bool = False
    ) -> None:
        self._check()
        if self._undoing is not None:
            before, undone = self._undoing
            before.wait_for(undone)  # it takes a moment
        if not self._to_connect.acquire(blocking=False):
            closed = self._supervisor is not None and self._supervisor.closing
            again = CONNECTED_ALREADY if self._user.connected else CONNECTING
            raise LocalProtocolError(CLOSED if closed else again)
        self._within.given_up = False
        try:
            loop = self._loop = self._user.loop = loop_for(self._user)
        except BaseException:
            self._to_connect.release()
            raise
        self._wake_early()
        try:
            loop.call(self._connect, loop, host, port, use_tls)
        except BaseException as error:
            undoing = loop.submit(self._undo_connect, loop)
            self._undoing = (loop, undoing) if undoing is not None else None
            if isinstance(error, Exception) and undoing is not None:
                loop.wait_for(undoing)
                loop.join()
            raise

    @_like(mb_core.MessageBrokerClient.wait_connected)
    def wait_connected(self, timeout: int | None = None) -> None:
        if timeout is not None:
            check_timeout(timeout)
        self._check()
        while (loop := self._loop) is None:
            if self._within.given_up:
                raise ConnectionLost("not connected: the client was closed", sent=False)
            began = time.monotonic()
            self._wait_for_connect(timeout)
            if timeout is not None:
                timeout = max(1, timeout - int((time.monotonic() - began) * 1000))
        loop.call(self._within.wait_connected, timeout)

    @property
    def connected(self) -> bool:
        """Whether there is a connection now, with all that was registered and subscribed."""
        return self._loop is not None and not self._loop.forked and self._within.connected

    @_like(mb_core.MessageBrokerClient.stats)
    def stats(self) -> mb_core.ClientStats:
        self._check()
        if self._loop is None:
            return self._within.stats()
        return self._loop.call(self._within.stats_in)

    @_like(mb_core.MessageBrokerClient.close)
    def close(self) -> None:
        self._close(drain=True)

    def __enter__(self) -> Self:
        self._check()
        supervisor = self._supervisor
        if supervisor is not None and supervisor.closing:
            raise LocalProtocolError(CLOSED)
        if not self._to_enter.acquire(blocking=False):
            raise LocalProtocolError(ENTERED)
        try:
            if self._undoing_connect or not self._to_connect.locked():
                self.connect()
            elif not self._user.connected:
                self.wait_connected()  # another thread connects
        except BaseException:
            self._to_enter.release()
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
        self._close(drain=kind is None or issubclass(kind, Exception) or stopped)

    @_like(mb_core.MessageBrokerClient.run)
    def run(self) -> None:
        supervisor, loop = self._connected()
        try:
            with terminable():
                loop.call(supervisor.wait_over)
        except KeyboardInterrupt as error:
            setattr(error, _STOPPED, True)
            raise

    # Asking, answering, publishing, listening

    @_like(mb_core.MessageBrokerClient.register_service)
    def register_service(self, name: str, description: str) -> None:
        supervisor, loop = self._connected()
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
    @_like(mb_core.MessageBrokerClient.request)
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
        supervisor, loop = self._connected()
        if result is not None:
            check_kind(result, self._within.codec)
        call = Call(
            supervisor,
            lambda: supervisor.ask(topic, payload, timeout, version, parent_id, retry),
            timeout,
        )
        _, message = call.complete(loop)
        if response_handler is not None:
            plain(response_handler(copy(message).payload))  # it may change what it gets
        return message if result is None else message.decode(result)

    @_like(mb_core.MessageBrokerClient.publish)
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
        if not confirm and self._loop is not None and self._loop.is_this():
            supervisor, loop = self._supervisor, self._loop  # waits for nothing
            if supervisor is None:
                raise ConnectionLost("not published: the client is connecting", sent=False)
        else:
            supervisor, loop = self._connected()
        if parent_id is None:
            parent_id = handled_id()
        if confirm:
            call = Call(
                supervisor,
                lambda: supervisor.ask_to_publish(topic, payload, timeout, version, parent_id),
                timeout,
            )
            error = check_status(*call.complete(loop))
            if error is not None:
                raise error
            return
        self._handover.publish(supervisor.session.encode(topic, payload, version, parent_id))

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

        All is as with the async client, but that it subscribes at once and gives a Subscription
        that is in force: iterate it, or enter it as a context.

        `handler` is a plain function; `concurrency` calls of it run at a time, each in a thread.

        Raises LocalProtocolError for an invalid topic or option, and what `request`
        raises; when interrupted, nothing is subscribed.
        """
        _, loop = self._connected()
        subscription = self._within.subscribe(
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
        _, loop = self._connected()
        subscription = self._within.follow_log(
            levels,
            regex,
            handler=handler,
            queue_size=queue_size,
            queue_bytes=queue_bytes,
            overflow=overflow,
        )
        return self._subscribed(subscription, loop)

    @_like(mb_core.MessageBrokerClient.unsubscribe)
    def unsubscribe(self, topic: str, *, action: ActionName = "both") -> None:
        _, loop = self._connected()
        loop.call(self._within.unsubscribe, topic, action=action)

    # Callbacks: plain functions.  Each gets its calls one at a time in the order of events, in a
    # thread; a slow one keeps no other waiting.

    @_like(mb_core.MessageBrokerClient.on_message)
    def on_message(self, handler: Callable[[MessageHeader, Any], Any]) -> Registration:
        self._check()
        if self._loop is None:
            registration = self._within.on_message(handler)
        else:
            registration = self._loop.call(self._within.on_message_in, handler)
        return self._removable(handler, registration)

    @_like(mb_core.MessageBrokerClient.on_connect)
    def on_connect(self, handler: Callable[[], Any]) -> Registration:
        self._check()
        return self._removable(handler, self._within.on_connect(handler))

    @_like(mb_core.MessageBrokerClient.on_disconnect)
    def on_disconnect(self, handler: Callable[[], Any]) -> Registration:
        self._check()
        return self._removable(handler, self._within.on_disconnect(handler))

    @_like(mb_core.MessageBrokerClient.on_error)
    def on_error(self, handler: Callable[[Exception], Any]) -> Registration:
        self._check()
        return self._removable(handler, self._within.on_error(handler))

    # Within

    def _subscribed(self, subscription: mb_core.Subscription, loop: LoopThread) -> Subscription:
        """Have a subscription in force."""
        try:
            loop.call(_start, subscription)
        except BaseException:
            loop.post(subscription.abandon)  # interrupted when it was in force, perhaps
            raise
        return Subscription(subscription, loop)

    def _removable(self, handler: Callable[..., Any], registered: Registration) -> Registration:
        """A Registration for any thread, of a handler that the loop knows in another form.

        It does not keep the client alive.
        """
        client = ref(self._within)

        def remove(_: Registration) -> None:
            within = client()
            if within is None or within.user.loop is None:
                registered.remove()
            else:
                within.user.loop.check()
                within.user.loop.call(within.remove_in, registered)

        return Registration(unwrapped(handler), remove)

    def _check(self) -> None:
        """Raises LocalProtocolError where the caller can't wait for the loop."""
        if self._loop is not None:
            self._loop.check()

    def _connected(self) -> tuple[Supervisor, LoopThread]:
        self._check()
        loop, supervisor = self._loop, self._supervisor
        if self._undoing_connect:
            loop = None
        elif loop is not None and supervisor is None:
            loop.call(self._within.begin)
            supervisor = self._supervisor
        if loop is None or supervisor is None:
            raise LocalProtocolError("not connected: client.connect(...) first")
        return supervisor, loop

    @property
    def _undoing_connect(self) -> bool:
        """Whether an interrupted connect still has something that has to be undone."""
        return self._undoing is not None and not self._undoing[1].done()

    def _wait_for_connect(self, timeout: int | None) -> None:
        """Wait until `connect` or `close` is called; raises TimeoutError."""
        waiter = ThreadWaiter()
        self._early.append(waiter)
        # What was called before this was there has woken nobody.
        if self._loop is not None or self._within.given_up:
            self._wake_early()
        try:
            if not waiter.wait(timeout / 1000 if timeout is not None else None):
                raise TimeoutError(f"no connection within {timeout} ms: connect() was not called")
        finally:
            with contextlib.suppress(ValueError):
                self._early.remove(waiter)

    def _wake_early(self) -> None:
        with contextlib.suppress(IndexError):
            while True:
                self._early.popleft().set_result(None)

    def _close(self, *, drain: bool) -> None:
        loop = self._loop
        if loop is None:
            self._within.given_up = True
            self._wake_early()
            return
        if loop.forked:
            return  # what the process before the fork has is not ours to close
        loop.check()
        if (
            self._supervisor is not None
            and self._supervisor.concerned
            and loop.pool.includes(threading.current_thread())
        ):
            self._user.leave(
                drain=True
            )  # which waits for this handler: so that doesn't wait for it
            return
        future = self._user.leave(drain=drain)
        if future is not None:
            try:
                loop.wait_for(future)
            except BaseException:
                # Interrupted: it goes on by itself, and waits for no handler any more.
                self._user.leave(drain=False)
                raise
        loop.join()

    # In the loop

    async def _connect(
        self, loop: LoopThread, host: str | None, port: int | None, use_tls: bool
    ) -> None:
        await self._within.connect_in(loop, host, port, use_tls)
        self._user.connected = True

    def _begin(self, supervisor: Supervisor) -> None:
        """The first connection is about to be made: from now on, calls may wait for it."""
        assert self._loop is not None
        self._handover = Handover(supervisor, self._within.callbacks, self._loop)
        self._supervisor = supervisor

    async def _undo_connect(self, loop: LoopThread) -> None:
        try:
            await self._within.undo_connect()
        finally:
            self._loop = self._supervisor = None
            self._user.forget()
            loop.release(self._user)
            self._to_connect.release()


async def _start(subscription: mb_core.Subscription) -> None:
    await subscription
