"""The hooks that a plugin may implement, marked with `mb_core.hookimpl` (docs/plugins.md).

A plugin is a module or an object. Hooks are plain functions that return quickly. Those that
register something are called when it is first needed, the others on the event loop. They take some
or all of their arguments, by name.
"""

from __future__ import annotations

from collections.abc import Iterable

import pluggy

from .authenticators import Authenticator
from .codec import Codec
from .errors import MBError
from .message import Message
from .transport import Frontend, Transport
from .url import URL

__all__ = ["PROJECT", "MBSpec", "hookimpl"]

PROJECT = "mb"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)
"""Decorator for a plugin's function that implements the hook of the same name."""


class MBSpec:
    """All hooks. `client` identifies one of the clients in this process."""

    @hookspec
    def mb_register_transports(self) -> Iterable[Transport]:  # type: ignore[empty-body]
        """Return the transports of this plugin, one for each URL scheme."""

    @hookspec
    def mb_register_frontends(self) -> Iterable[Frontend]:  # type: ignore[empty-body]
        """Return the front ends of this plugin."""

    @hookspec
    def mb_register_codecs(self) -> Iterable[Codec]:  # type: ignore[empty-body]
        """Return the codecs of this plugin."""

    @hookspec
    def mb_register_authenticators(self) -> Iterable[Authenticator]:  # type: ignore[empty-body]
        """Return the authenticators of this plugin, for brokers."""

    @hookspec
    def mb_connected(self, client: object, url: URL, peer: str, again: bool) -> None:
        """A client has connected, or reconnected if `again`, and restored its subscriptions."""

    @hookspec
    def mb_disconnected(self, client: object, error: MBError | None) -> None:
        """The connection has ended, because of `error`; None for an orderly end."""

    @hookspec
    def mb_reconnecting(self, client: object, delay: float, error: MBError | None) -> None:
        """The client will try again in `delay` seconds; `error` is why the last attempt failed."""

    @hookspec
    def mb_message_sending(self, client: object, message: Message) -> None:
        """A message is about to be sent. It may be one of the client's own, such as a heartbeat.

        If a message is sent again after the connection was lost, it is reported again.
        """

    @hookspec
    def mb_message_received(self, client: object, message: Message) -> None:
        """A message was received, and has not been handled yet."""

    @hookspec
    def mb_request_finished(
        self, client: object, topic: str, duration: float, outcome: Message | MBError | None
    ) -> None:
        """A request ended after `duration` seconds; `outcome` is None if its caller was cancelled.

        Called for every call that waits for an answer: `request`, `publish` with `confirm`,
        `subscribe`, `register_service`.
        """
