"""Notify observing plugins about a client. Without observers, none of this is called."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from copy import copy
from typing import Any

from ..codec import Codec
from ..errors import MBError, PluginError, RemoteProtocolError
from ..header import HeaderReader
from ..link import LinkHandler
from ..message import Message
from ..plugins import FAULTS, Observer
from ..session import PendingRequest
from ..throttle import Throttle
from ..topic import AUTHENTICATE
from ..url import URL
from .callbacks import Callbacks

__all__ = ["Observers"]


class Observers:
    """Calls the hooks of the plugins that observe `client`, independently of each other.

    If one raises, that is reported at most once a second for each hook, and affects neither the
    others nor the client. The client is referred to weakly, so that it can be garbage-collected;
    `keep` it then.
    """

    def __init__(
        self, observers: Iterable[Observer], client: object, callbacks: Callbacks, codec: Codec
    ) -> None:
        self._hooks: dict[str, list[tuple[str, Callable[..., Any]]]] = {}
        for observer in observers:
            for hook, function in observer.hooks.items():
                self._hooks.setdefault(hook, []).append((observer.name, function))
        self._client = weakref.ref(client)
        self._kept: object = None
        self._callbacks = callbacks
        self._reader = HeaderReader(codec=codec)
        self._throttle = Throttle()

    def keep(self, client: object) -> None:
        """Notify the observers of the end of a client that user code has dropped."""
        self._kept = client

    def connected(self, url: URL, peer: str, *, again: bool) -> None:
        self._call("mb_connected", url=url, peer=peer, again=again)

    def disconnected(self, error: MBError | None) -> None:
        self._call("mb_disconnected", error=error)

    def reconnecting(self, delay: float, error: MBError | None) -> None:
        self._call("mb_reconnecting", delay=delay, error=error)

    def finished(
        self, request: PendingRequest, outcome: Message | MBError | None, now: float
    ) -> None:
        duration = now - request.began
        self._call("mb_request_finished", topic=request.topic, duration=duration, outcome=outcome)

    def watch_sending(self, send: Callable[[bytes], None]) -> Callable[[bytes], None]:
        """Return `send`, or, if an observer wants messages, a function that notifies it first."""
        if "mb_message_sending" not in self._hooks:
            return send

        def tell_and_send(data: bytes) -> None:
            self._tell("mb_message_sending", data)
            send(data)

        return tell_and_send

    def watch_receiving(self, handler: LinkHandler) -> LinkHandler:
        """Return `handler`, or, if an observer wants messages, one that notifies it first."""
        if "mb_message_received" not in self._hooks:
            return handler
        return _Watched(handler, lambda data: self._tell("mb_message_received", data))

    def _tell(self, hook: str, data: bytes) -> None:
        try:
            prefix, request_id, parent_id, timeout, end = self._reader.read(data)
        except RemoteProtocolError:
            return  # not a valid message: the client reports it
        payload = data[end + 1 :] if prefix.key != AUTHENTICATE else b"{}"  # its token is a secret
        message = Message(prefix, request_id, parent_id, timeout, payload)
        self._call(hook, message=message)

    def _call(self, hook: str, **arguments: Any) -> None:
        client = self._kept or self._client()
        for name, function in self._hooks.get(hook, ()):
            # Messages are copied, so that changes to a decoded payload stay local to the observer.
            own = {k: copy(v) if isinstance(v, Message) else v for k, v in arguments.items()}
            try:
                function(client=client, **own)
            except FAULTS as error:
                if self._throttle.allow(f"{name} in {hook}"):
                    why = str(error) or type(error).__name__
                    fault = PluginError(f"the plugin {name} failed in {hook}: {why}")
                    fault.__cause__ = error
                    self._callbacks.report(fault, "an observer failed")


class _Watched:
    """A LinkHandler that is called after another function."""

    def __init__(self, handler: LinkHandler, tell: Callable[[bytes], None]) -> None:
        self._handler = handler
        self._tell = tell

    def messages_received(self, messages: list[bytes]) -> None:
        for message in messages:
            self._tell(message)
        self._handler.messages_received(messages)

    def link_lost(self, error: MBError | None) -> None:
        self._handler.link_lost(error)
