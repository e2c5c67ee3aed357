"""WebSocketClient and TCPSocketClient: whole messages as text, and nothing else.

They show the protocol itself: they send no ids and answer no heartbeats.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, ClassVar, Self

import anyio

from .client.callbacks import Callbacks, Handlers, Registration
from .client.connection import broken
from .client.lifecycle import CONNECTED_ALREADY, CallbackMethods
from .client.tasks import TaskScope, abort, warn_unclosed
from .dialing import dial
from .errors import (
    ConnectError,
    LocalProtocolError,
    MBError,
    MessageTooLarge,
    PluginError,
    RemoteProtocolError,
)
from .header import MAX_HEADER
from .link import Link, Turn, checkpoint
from .options import ClientOptions, check_options
from .plugins import Plugins
from .signals import uninterrupted
from .transport import WireTransport
from .url import broker_url
from .user_code import check_handler
from .wire import DEFAULT_MAX_PAYLOAD, Wire

if TYPE_CHECKING:
    import ssl

__all__ = ["RawClient", "TCPSocketClient", "WebSocketClient"]

# Milliseconds.
_CLOSE_TIMEOUT = 5_000
# The most messages that wait for the first handler.
_WAITING = 1_000


class RawClient(CallbackMethods):
    """Sends and receives whole messages over one transport; a subclass names its schemes."""

    scheme: ClassVar[str]
    secure_scheme: ClassVar[str]

    def __init__(
        self,
        *,
        connect_timeout: int = 10_000,
        max_payload: int = DEFAULT_MAX_PAYLOAD,
        ssl_context: ssl.SSLContext | None = None,
        plugins: Plugins | None = None,
    ) -> None:
        self._options = ClientOptions.checked(
            connect_timeout=connect_timeout,
            close_timeout=_CLOSE_TIMEOUT,
            max_payload=max_payload,
            ssl_context=ssl_context,
            plugins=plugins,
        )
        self._handlers = Handlers()
        self._callbacks = Callbacks(self._handlers)
        self._receiver = _Receiver(self._callbacks)
        self._tasks: TaskScope | None = None
        self._turn = Turn()

    async def connect(self, host: str, port: int | None = None, use_tls: bool = False) -> None:
        """Connect to the broker.

        Args:
            host: A host name, an address, or a URL.
            port: The port, if `host` is not a URL.
            use_tls: Whether to encrypt the connection, if `host` is not a URL.

        Raises:
            ConnectError: No connection was established within `connect_timeout`.
            PluginError: The transport is not installed.
            LocalProtocolError: The client was connected before.

        If cancelled, the client is not connected.
        """
        await checkpoint()
        if self._tasks is not None:
            raise LocalProtocolError(CONNECTED_ALREADY)
        check_options(host=host, use_tls=use_tls)
        url = broker_url(host, port, use_tls, self.secure_scheme if use_tls else self.scheme)
        seconds = self._options.connect_timeout
        tasks = self._tasks = TaskScope(self._callbacks, self._options.close_timeout)
        self._name = f"client of {url}"
        accept = partial(self._receiver.accept, tasks)

        async def opening() -> None:
            try:
                with anyio.fail_after(seconds):
                    await dial(
                        url,
                        accept,
                        self._options,
                        backend=tasks.backend,
                        spawn=tasks.spawn,
                    )
            except TimeoutError:
                raise ConnectError(
                    f"{url} did not accept the connection within {seconds:g} s"
                ) from None

        try:
            await tasks.begin(opening)
        except BaseException:
            self._tasks = None
            raise

    async def send(self, message: str) -> None:
        """Send the text of a message as it is.

        Raises:
            MessageTooLarge: The message is larger than `max_payload` and the longest header
                together.
            ConnectionLost: The connection is lost.
            LocalProtocolError: The client is not connected, or the message is not a valid string.

        If cancelled, the message has already been sent.
        """
        try:
            tasks = self._tasks
            link = tasks.link if tasks is not None else None
            if tasks is None or link is None:
                raise LocalProtocolError("not connected: await client.connect(...) first")
            if not tasks.ended:
                tasks.home.check()
            encoded = self._encode(message)
        except MBError:
            await checkpoint()
            raise
        try:
            link.send(encoded)
            if link.congested:
                await uninterrupted(link.drain)()
                return
        except Exception as error:
            await checkpoint()
            if isinstance(error, MBError):
                raise
            abort(link)
            raise broken(link, error) from error
        if monotonic() >= self._turn.over:
            await self._turn.take()

    async def close(self) -> None:
        """Close the connection. Safe to call twice."""
        try:
            if self._tasks is not None:
                await self._tasks.end()
        finally:
            await checkpoint()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self._tasks is not None and not self._tasks.home.forked:
            await self.close()

    def __del__(self) -> None:
        tasks = getattr(self, "_tasks", None)
        if tasks is not None and tasks.unclosed:
            tasks.drop()
            warn_unclosed(self, self._name, "'async with client' or 'await client.close()'")

    # Callbacks: plain or async, called one at a time in the order of events

    def on_message(self, handler: Callable[[str], Any]) -> Registration:
        """Call `handler(text)` with each received message.

        Messages that arrive before the first handler is registered wait for it. If there are more
        than 1000, the oldest are dropped.

        Args:
            handler: A plain or async function that takes a string.

        Returns:
            A `Registration`; call it to remove the handler.
        """
        check_handler(handler, "on_message handler")
        registration = self._callbacks.register(self._callbacks.message, handler)
        self._receiver.handler_added()
        return registration

    def on_connect(self, handler: Callable[[], Any]) -> Registration:
        """Call `handler()` when the connection is established. Returns a `Registration`."""
        check_handler(handler, "on_connect handler")
        return self._callbacks.register(self._callbacks.connect, handler)

    def on_disconnect(self, handler: Callable[[], Any]) -> Registration:
        """Call `handler()` when the connection has ended. Returns a `Registration`."""
        check_handler(handler, "on_disconnect handler")
        return self._callbacks.register(self._callbacks.disconnect, handler)

    def on_error(self, handler: Callable[[Exception], Any]) -> Registration:
        """Call `handler(error)` if the connection breaks or a handler fails.

        Returns a `Registration`; call it to remove the handler.
        """
        check_handler(handler, "on_error handler")
        return self._callbacks.register(self._callbacks.error, handler)

    # Within

    def _encode(self, message: str) -> bytes:
        if not isinstance(message, str):
            raise LocalProtocolError(f"a message must be a string, not {type(message).__name__}")
        try:
            encoded = message.encode()
        except UnicodeEncodeError as error:
            raise LocalProtocolError(f"the message can't be written as UTF-8: {error}") from error
        limit = self._options.limits.max_payload + MAX_HEADER
        if len(encoded) > limit:
            raise MessageTooLarge(
                f"the message has {len(encoded)} bytes, the limit is {limit}",
                size=len(encoded),
                limit=limit,
            )
        return encoded

    def _wire(self) -> Wire:
        """Return a Wire of this client's transport without a connection."""
        transport = self._options.plugins.transport(self.scheme)
        if not isinstance(transport, WireTransport):
            raise PluginError(f"{self.scheme}:// is not a byte stream")
        url = broker_url("localhost", 0, False, self.scheme)
        return transport.client(url, self._options.limits)


class _Receiver:
    """The LinkHandler: the connection refers to this, and not to the client."""

    def __init__(self, callbacks: Callbacks) -> None:
        self._callbacks = callbacks
        self._waiting: deque[str] = deque(maxlen=_WAITING)

    def accept(self, tasks: TaskScope, link: Link) -> _Receiver:
        if tasks.adopt(link):
            self._callbacks.post(self._callbacks.connect)
        return self

    def handler_added(self) -> None:
        """Pass waiting messages to the first handler."""
        while self._waiting:
            self._callbacks.post(self._callbacks.message, self._waiting.popleft())

    def messages_received(self, messages: list[bytes]) -> None:
        for data in messages:
            try:
                text = data.decode()
            except UnicodeDecodeError as error:
                fault = RemoteProtocolError(f"a received message is not valid UTF-8: {error}")
                self._ignore(fault)
                continue
            if self._callbacks.message:
                self._callbacks.post(self._callbacks.message, text)
            else:
                self._waiting.append(text)

    def link_lost(self, error: MBError | None) -> None:
        if error is not None:
            self._callbacks.report(error, "the connection ended")
        self._callbacks.post(self._callbacks.disconnect)

    def _ignore(self, fault: RemoteProtocolError) -> None:
        def report(count: int) -> None:
            text = "ignored" if count == 1 else f"ignored (message {count} of this kind)"
            self._callbacks.report(fault, text)

        self._callbacks.count("ignored", report)


class WebSocketClient(RawClient):
    r"""Sends and receives whole messages as text over WebSocket. Needs the package mb-ws.

    It has no session: you write the protocol (docs/protocol.md) yourself. Times are in
    milliseconds; the options are those of `MessageBrokerClient` with the same names.

    Example::

        async with WebSocketClient() as client:
            client.on_message(print)
            await client.connect("localhost", 8080)
            await client.send('publish:order.paid:1.0.0\n{"id":7}')
    """

    scheme = "ws"
    secure_scheme = "wss"


class TCPSocketClient(RawClient):
    r"""Sends and receives whole messages as text over TCP. Needs the package mb-tcp.

    It has no session: you write the protocol (docs/protocol.md) yourself. Times are in
    milliseconds; the options are those of `MessageBrokerClient` with the same names.

    Example::

        async with TCPSocketClient() as client:
            client.on_message(print)
            await client.connect("localhost", 8081)
            await client.send('publish:order.paid:1.0.0\n{"id":7}')
    """

    scheme = "tcp"
    secure_scheme = "tls"

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._fed: Wire | None = None

    def _frame_message(self, message: str) -> bytes:
        """The bytes of a message on the wire: a 4-byte length, big-endian, and the text."""
        wire = self._wire()
        wire.send(self._encode(message))
        return wire.data_to_send()

    async def _process_incoming_data(self, data: bytes) -> None:
        """Take bytes as if they had been received; the handlers get the messages in them."""
        if self._fed is None:
            self._fed = self._wire()
        messages = self._fed.receive_data(data)
        if messages:
            self._receiver.messages_received(messages)
            await self._callbacks.run_due()
        await checkpoint()
        if self._fed.error is not None:
            raise self._fed.error
