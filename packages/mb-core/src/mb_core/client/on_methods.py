"""The methods `on_*` of a client, which register callbacks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any
from weakref import ref

from ..header import MessageHeader
from .callbacks import Registration
from .lifecycle import Lifecycle

__all__ = ["OnMethods"]


class OnMethods(Lifecycle):
    """The part of MessageBrokerClient that registers callbacks.

    Callbacks may be plain or async.  Each is called once at a time, in the order of events, and a
    slow one does not delay the others.
    """

    def on_message(self, handler: Callable[[MessageHeader, Any], Any]) -> Registration:
        """Call `handler(header, payload)` for publications that nothing else consumes.

        These are the messages of subscriptions that have no handler and are not iterated, including
        those that are already in their queues. The messages of one subscription are handled in
        order; subscriptions don't wait for each other.

        Like all `on_*` methods, it can be used as a decorator, `@client.on_message`.

        Args:
            handler: A plain or async function that takes a `MessageHeader` and the decoded payload.

        Returns:
            A `Registration`; call it to remove the handler.
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
        """Call `handler()` after each connect and reconnect.

        It may run at the same time as other callbacks; `connected` is the current state.

        Subscriptions are restored automatically, so there is no need to subscribe here. If the
        handler subscribes or registers callbacks anyway, each call of it replaces the subscriptions
        to the same topic, and the callbacks for the same event, that its earlier calls created.

        Args:
            handler: A plain or async function without arguments.

        Returns:
            A `Registration`; call it to remove the handler.
        """
        return self._on(self._callbacks.connect, handler, "on_connect handler")

    def on_disconnect(self, handler: Callable[[], Any]) -> Registration:
        """Call `handler()` whenever a connection ends, for whatever reason.

        Args:
            handler: A plain or async function without arguments.

        Returns:
            A `Registration`; call it to remove the handler.
        """
        return self._on(self._callbacks.disconnect, handler, "on_disconnect handler")

    def on_error(self, handler: Callable[[Exception], Any]) -> Registration:
        """Call `handler(error)` for errors that none of your calls can raise.

        These are failed handlers, slow consumers, unreadable messages, publications without
        subscribers (at most once a second for each topic), and failed attempts to reconnect. They
        are also logged.

        Args:
            handler: A plain or async function that takes an exception.

        Returns:
            A `Registration`; call it to remove the handler.
        """
        return self._on(self._callbacks.error, handler, "on_error handler")

    def _on(self, handlers: list[Registration], handler: Any, name: str) -> Registration:
        self._host.check_handler(handler, name)
        return self._callbacks.register(handlers, self._host.wrap_callback(handler))


def _stop_consuming_with(client: ref[OnMethods], index: int) -> None:
    """Handle the removal of an on_message handler, without keeping the client alive."""
    alive = client()
    if alive is not None and alive._supervisor is not None:
        for entry in alive._supervisor.session.subscriptions:
            entry.consumer.stop_consuming_with(index)
