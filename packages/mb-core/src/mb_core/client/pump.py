"""Calling a handler with one message after the other, and sending what it answers."""

from __future__ import annotations

import logging
import time
import weakref
from collections.abc import Callable
from typing import Any

import msgspec

from ..errors import (
    ConnectionLost,
    InternalError,
    InvalidRequestError,
    LocalProtocolError,
    MBError,
    MessageTooLarge,
    ProtocolError,
    RemoteProtocolError,
    ResponseError,
)
from ..link import Backend, Spawn
from ..message import Message, is_about
from .callbacks import SLICE, Callbacks, Kept, failure, name_of
from .context import handling, running
from .inbox import Inbox
from .interrupt import pass_exit_on

__all__ = ["Pump", "PumpFactory", "check_concurrency"]

_log = logging.getLogger("mb_core.client")

PumpFactory = Callable[[Inbox, Callable[[Message], Any], str, int, Callbacks], "Pump"]
"""Makes a Pump: takes what Pump takes."""


def check_concurrency(concurrency: int) -> None:
    """Raise LocalProtocolError unless `concurrency` is a whole number of at least 1."""
    if not isinstance(concurrency, int) or isinstance(concurrency, bool) or concurrency < 1:
        raise LocalProtocolError(f"concurrency must be at least 1, got {concurrency!r}")


class Pump:
    """Calls a handler with the messages of an Inbox, `concurrency` of them at a time.

    It ends behind the last message of an Inbox that has ended.  `topic` is the pattern that was
    subscribed to, for reports.  Once started, the client holds the handler: when that is gone, no
    more messages are handled.
    """

    __slots__ = (
        "_backend",
        "_callbacks",
        "_concurrency",
        "_handler",
        "_kept",
        "_name",
        "_topic",
        "inbox",
    )

    _backend: Backend
    _kept: weakref.ref[Kept]

    def __init__(
        self,
        inbox: Inbox,
        handler: Callable[[Message], Any],
        topic: str,
        concurrency: int,
        callbacks: Callbacks,
    ) -> None:
        self.inbox = inbox
        self._handler: Callable[[Message], Any] | None = handler  # until it is started
        self._name = name_of(handler)
        self._topic = topic
        self._concurrency = concurrency
        self._callbacks = callbacks

    def start(self, backend: Backend, spawn: Spawn) -> None:
        """Start to call the handler, in tasks that see the context variables of the caller."""
        self._backend = backend
        assert self._handler is not None
        self._kept = self._callbacks.keep(self._handler)
        self._handler = None
        for _ in range(self._concurrency):
            spawn(self._run)

    async def _run(self) -> None:
        running.set(None)  # a handler's own subscriptions do not belong to the one that called it
        try:
            while True:
                try:
                    await self._consume()
                except (KeyboardInterrupt, SystemExit, BaseExceptionGroup) as error:
                    # On trio Ctrl-C ends whatever runs; what comes still has a consumer.
                    pass_exit_on(error)
                else:
                    return
        finally:
            self._callbacks.let_go(self._kept())

    async def _consume(self) -> None:
        inbox = self.inbox
        waiting = inbox.queue.waiting
        take = inbox.queue.take
        begin = handling.set
        clock = time.monotonic
        checkpoint = self._backend.checkpoint
        until = clock() + SLICE
        while True:
            if waiting:
                kept = self._kept()
                if kept is None:
                    inbox.discard()
                    continue
                handler = kept.handler
                while waiting:
                    message = take()
                    # Never reset: what runs behind the handler, in this task, is the next
                    # message's.
                    begin(message)
                    if message.responder is not None:
                        await self._answer(handler, message)
                    else:
                        try:
                            result = handler(message)
                            if result is not None and hasattr(type(result), "__await__"):
                                await result
                        except BaseException as error:
                            self._excuse(failure(error), message)
                    if clock() > until:
                        await checkpoint()
                        until = clock() + SLICE
                # A task that waits must not keep the client alive.
                del kept, handler
                result = None
            if inbox.ended:
                return
            await inbox.wait(self._backend)
            until = clock() + SLICE

    async def _answer(self, handler: Callable[[Message], Any], message: Message) -> None:
        """Call the handler with a request and send what it returns or raises."""
        try:
            result = handler(message)
            if hasattr(type(result), "__await__"):
                result = await result
        except BaseException as raised:
            result = self._excuse(failure(raised), message)
        if message.responder is not None:  # it has not responded itself
            await self._send(message, result)

    async def _send(self, message: Message, result: Any) -> None:
        """Send a handler's answer.

        If nobody can receive it any more, the handler has not failed.
        """
        lost = result.error if isinstance(result, _Lost) else None
        try:
            try:
                await message.respond(_internal_error() if lost is not None else result)
            except (ProtocolError, MessageTooLarge) as error:
                self._failed(error)
                await message.respond(InternalError("the service's answer can't be sent"))
        except ConnectionLost as error:
            _log.debug("not answered: %s", error)
        except MBError as error:
            self._failed(error)
        else:
            if lost is not None:
                self._failed(lost)

    def _excuse(self, error: Exception, message: Message) -> ResponseError | _Lost:
        """Report what the handler raised; returns its answer to a request."""
        alone = error
        while isinstance(alone, ExceptionGroup) and len(alone.exceptions) == 1:
            alone = alone.exceptions[0]
        answers = message.responder is not None and isinstance(
            alone, ResponseError | ConnectionLost
        )
        if answers or is_about(alone, message):
            error = alone  # raised in a task group of the handler
        if is_about(error, message):
            if isinstance(error, RemoteProtocolError):
                self._callbacks.unreadable(error, message, self._name)
                return _bad_payload(error)
            _log.debug("not answered: %s", error)  # by its own `respond`
        elif isinstance(error, ResponseError) and message.responder is not None:
            return error
        elif isinstance(error, ConnectionLost) and message.responder is not None:
            return _Lost(error)
        else:
            self._failed(error)
        return _internal_error()

    def _failed(self, error: Exception) -> None:
        self._callbacks.report(error, f"the handler {self._name} of {self._topic!r} failed")


class _Lost(msgspec.Struct):
    """In place of an answer: the handler failed because a connection was lost.

    If that is the one over which the request came, there is nobody left to answer either, and
    nothing is wrong with the handler.
    """

    error: ConnectionLost


def _internal_error() -> InternalError:
    return InternalError("the service failed; its log says why")


def _bad_payload(error: RemoteProtocolError) -> InvalidRequestError:
    """What the sender of an unreadable payload is told."""
    if error.path is None:
        return InvalidRequestError(f"the payload can't be read: {error.reason}")
    return InvalidRequestError(f"{error.reason} at {error.path}", details={"path": error.path})
