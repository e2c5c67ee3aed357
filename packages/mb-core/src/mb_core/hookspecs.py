"""The hooks that a plugin may implement, marked with `mb_core.hookimpl` (docs/plugins.md).

A plugin is a module or an object.  Hooks are plain functions and return quickly: those that
register are called when something of theirs is first asked for, the others within the event loop.
They take all of their arguments by name, or those that they need.
"""

from __future__ import annotations

from collections.abc import Iterable

import pluggy

from .codec import Codec
from .errors import MBError
from .message import Message
from .transport import Frontend, Transport
from .url import URL

__all__ = ["PROJECT", "MBSpec", "hookimpl"]

PROJECT = "mb"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)
"""Marks a plugin's function as the implementation of the hook of the same name."""


class MBSpec:
    """All hooks.  `client` is an object that tells one client of this process from another."""

    @hookspec
    def mb_register_transports(self) -> Iterable[Transport]:  # type: ignore[empty-body]
        """Give the transports of this plugin, one for each URL scheme."""

    @hookspec
    def mb_register_frontends(self) -> Iterable[Frontend]:  # type: ignore[empty-body]
        """Give the front ends of this plugin."""

    @hookspec
    def mb_register_codecs(self) -> Iterable[Codec]:  # type: ignore[empty-body]
        """Give the codecs of this plugin, which turn payloads into text and back."""

    @hookspec
    def mb_connected(self, client: object, url: URL, peer: str, again: bool) -> None:
        """A connection has come about, with all that is to be restored on it."""

    @hookspec
    def mb_disconnected(self, client: object, error: MBError | None) -> None:
        """That connection has ended, because of `error` or in order."""

    @hookspec
    def mb_reconnecting(self, client: object, delay: float, error: MBError | None) -> None:
        """The client will try again in `delay` seconds; `error` is why the last try failed."""

    @hookspec
    def mb_message_sending(self, client: object, message: Message) -> None:
        """A message is about to be sent; the client's own are among them.

        One that was lost with its connection is sent, and reported, again.
        """

    @hookspec
    def mb_message_received(self, client: object, message: Message) -> None:
        """A message has come, and nobody has seen it yet."""

    @hookspec
    def mb_request_finished(
        self, client: object, topic: str, duration: float, outcome: Message | MBError | None
    ) -> None:
        """A request is over after `duration` seconds; None where its caller has given up.

        One for each call that waits for an answer: `request`, `publish` with `confirm`,
        `subscribe`, `register_service`.
        """
