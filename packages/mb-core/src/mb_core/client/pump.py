"""Calling a handler with one message after the other, and sending what it answers."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from ..errors import (
    InternalError,
    LocalProtocolError,
    MBError,
    MessageTooLarge,
    ProtocolError,
    ResponseError,
)
from ..link import Backend, Spawn
from ..message import Message
from .callbacks import SLICE, Callbacks, failure, name_of
from .context import handling
from .inbox import Inbox
from .interrupt import pass_interrupt_on

__all__ = ["Pump", "PumpFactory", "check_concurrency"]

PumpFactory = Callable[[Inbox, Callable[[Message], Any], str, int, Callbacks], "Pump"]
"""Makes a Pump: takes what Pump takes."""


def check_concurrency(concurrency: int) -> None:
    """Raises LocalProtocolError unless it is a number from 1."""
    if not isinstance(concurrency, int) or isinstance(concurrency, bool) or concurrency < 1:
        raise LocalProtocolError(f"invalid concurrency {concurrency!r}: a number from 1")


class Pump:
    """Calls a handler with the messages of an Inbox, `concurrency` of them at a time.

    It ends behind the last message of an Inbox that has ended.  `topic` is the pattern that was
    subscribed to, for reports.
    """

    __slots__ = ("_backend", "_callbacks", "_concurrency", "_handler", "_topic", "inbox")

    _backend: Backend

    def __init__(
        self,
        inbox: Inbox,
        handler: Callable[[Message], Any],
        topic: str,
        concurrency: int,
        callbacks: Callbacks,
    ) -> None:
        self.inbox = inbox
        self._handler = handler
        self._topic = topic
        self._concurrency = concurrency
        self._callbacks = callbacks

    def start(self, backend: Backend, spawn: Spawn) -> None:
        """Start to call the handler, in tasks that see the context variables of the caller."""
        self._backend = backend
        for _ in range(self._concurrency):
            spawn(self._run)

    async def _run(self) -> None:
        while True:
            try:
                await self._consume()
            except (KeyboardInterrupt, BaseExceptionGroup) as error:
                # On trio Ctrl-C ends whatever runs; the messages that come still have a consumer.
                pass_interrupt_on(error)
            else:
                return

    async def _consume(self) -> None:
        handler = self._handler
        inbox = self.inbox
        waiting = inbox.queue.waiting
        take = inbox.queue.take
        begin = handling.set
        clock = time.monotonic
        checkpoint = self._backend.checkpoint
        until = clock() + SLICE
        while True:
            while waiting:
                message = take()
                # Never reset: what runs behind the handler, in this task, is the next message's.
                begin(message)
                if message.responder is not None:
                    await self._answer(message)
                else:
                    try:
                        result = handler(message)
                        if result is not None and hasattr(type(result), "__await__"):
                            await result
                    except BaseException as error:
                        self._failed(failure(error))
                if clock() > until:
                    await checkpoint()
                    until = clock() + SLICE
            if inbox.ended:
                return
            await inbox.wait(self._backend)
            until = clock() + SLICE

    async def _answer(self, message: Message) -> None:
        """Call the handler with a request and send what it returns or raises."""
        try:
            result = self._handler(message)
            if hasattr(type(result), "__await__"):
                result = await result
        except ResponseError as error:
            result = error
        except BaseException as error:
            result = self._excuse(failure(error))
        if message.responder is not None:  # it has not responded itself
            await self._send(message, result)

    async def _send(self, message: Message, result: Any) -> None:
        """Send a handler's answer."""
        try:
            try:
                await message.respond(result)
            except (ProtocolError, MessageTooLarge) as error:
                self._failed(error)
                await message.respond(InternalError("the service's answer can't be sent"))
        except MBError as error:
            self._failed(error)

    def _excuse(self, error: Exception) -> ResponseError:
        """What the requester hears when the handler has failed with `error`."""
        self._failed(error)
        return InternalError("the service failed; its log says why")

    def _failed(self, error: Exception) -> None:
        name = name_of(self._handler)
        self._callbacks.report(error, f"the handler {name} of {self._topic!r} failed")
