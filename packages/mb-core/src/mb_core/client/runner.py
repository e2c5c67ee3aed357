"""Calling a handler with messages one by one, and sending its answers."""

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
    MBError,
    MessageTooLarge,
    ProtocolError,
    RemoteProtocolError,
    ResponseError,
)
from ..header import Action
from ..link import SLICE, Backend, Spawn
from ..message import Message, handling, is_about
from ..signals import pass_exit_on
from ..user_code import failure, name_of
from .callbacks import Callbacks, Kept, Registration, running
from .queue import MessageQueue

__all__ = ["Runner", "RunnerFactory", "with_header"]

_log = logging.getLogger("mb_core.client")

RunnerFactory = Callable[[MessageQueue, Callable[[Message], Any], str, int, Callbacks], "Runner"]
"""Creates a Runner, with the same arguments."""


class Runner:
    """Calls a handler with the messages of a queue, up to `concurrency` at a time.

    It ends after the last message of a queue that has ended. `topic` is the subscription's pattern,
    for reports. Once it is started, the client holds the handler; when the client is gone, no more
    messages are handled.
    """

    __slots__ = (
        "_callbacks",
        "_concurrency",
        "_handler",
        "_kept",
        "_name",
        "_topic",
        "backend",
        "queue",
    )

    backend: Backend
    _kept: weakref.ref[Kept]

    def __init__(
        self,
        queue: MessageQueue,
        handler: Callable[[Message], Any],
        topic: str,
        concurrency: int,
        callbacks: Callbacks,
    ) -> None:
        self.queue = queue
        self._handler: Callable[[Message], Any] | None = handler  # until it is started
        self._name = name_of(handler)
        self._topic = topic
        self._concurrency = concurrency
        self._callbacks = callbacks

    def start(self, backend: Backend, spawn: Spawn) -> None:
        """Start calling the handler, in tasks with the context variables of the caller."""
        self.backend = backend
        assert self._handler is not None
        self._kept = self._callbacks.keep(self._handler)
        self._handler = None
        for _ in range(self._concurrency):
            spawn(self._run)

    def current_handler(self) -> Callable[[Message], Any] | None:
        """Return the handler; None when the client is gone."""
        kept = self._kept()
        return kept.handler if kept is not None else None

    async def _run(self) -> None:
        running.set(
            None
        )  # subscriptions made by a handler do not belong to the message that it handles
        try:
            while True:
                try:
                    await self.consume()
                except (KeyboardInterrupt, SystemExit, BaseExceptionGroup) as error:
                    # On trio, Ctrl-C interrupts whatever runs; later messages still need a
                    # consumer.
                    pass_exit_on(error)
                else:
                    return
        finally:
            self._callbacks.release(self._kept())

    async def consume(self) -> None:
        """Call the handler until the queue has ended and is empty."""
        queue = self.queue
        waiting = queue.waiting
        take = queue.take
        begin = handling.set
        clock = time.monotonic
        checkpoint = self.backend.checkpoint
        until = clock() + SLICE
        while True:
            if waiting:
                handler = self.current_handler()
                if handler is None:
                    queue.discard()
                    continue
                while waiting:
                    message = take()
                    # Never reset: whatever runs after the handler in this task belongs to the next
                    # message.
                    begin(message)
                    if message.responder is not None:
                        await self._answer(handler, message)
                    else:
                        try:
                            result = handler(message)
                            if result is not None and hasattr(type(result), "__await__"):
                                await result
                        except BaseException as error:
                            self.answer_to_failure(failure(error), message)
                    if clock() > until:
                        await checkpoint()
                        until = clock() + SLICE
                # A task that waits must not keep the client alive.
                del handler
                result = None
            if queue.ended:
                return
            await queue.wait(self.backend)
            until = clock() + SLICE

    async def _answer(self, handler: Callable[[Message], Any], message: Message) -> None:
        """Call the handler with a request and send what it returns or raises."""
        try:
            result = handler(message)
            if hasattr(type(result), "__await__"):
                result = await result
        except BaseException as raised:
            result = self.answer_to_failure(failure(raised), message)
        if message.responder is not None:  # it has not called `respond` itself
            await self.send_answer(message, result)

    async def send_answer(self, message: Message, result: Any) -> None:
        """Send a handler's answer. If nobody can receive it any more, that is not the handler's
        fault.
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

    def answer_to_failure(self, error: Exception, message: Message) -> ResponseError | _Lost:
        """Report what the handler raised; return the answer to a request."""
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
                report_unreadable(self._callbacks, error, message, self._name)
                return _bad_payload(error)
            _log.debug("not answered: %s", error)  # by its call of `respond`
        elif (
            isinstance(error, ResponseError)
            and message.responder is not None
            and not _is_about_user(error)
        ):
            return error
        elif isinstance(error, ConnectionLost) and message.responder is not None:
            return _Lost(error)
        else:
            self._failed(error)
        return _internal_error()

    def _failed(self, error: Exception) -> None:
        self._callbacks.report(error, f"the handler {self._name} of {self._topic!r} failed")


def _is_about_user(error: ResponseError) -> bool:
    """Return whether a broker says with this error what the service's own user may not do.

    The name of that user is not for those who send requests to the service.
    """
    details = error.details
    return isinstance(details, dict) and details.keys() in _ABOUT_USER


_ABOUT_USER = ({"action", "topic", "user"}, {"max_rate", "user"})
"""The keys of the details of such errors (docs/protocol.md)."""


def with_header(registration: Registration, callbacks: Callbacks) -> Callable[[Message], Any]:
    """Wrap a handler that takes a header and a payload as one that takes a Message.

    An unreadable message is reported instead.
    """
    handler = registration.handler

    def consume(message: Message) -> Any:
        if registration.removed:
            return None
        try:
            header, payload = message.header, message.payload
        except RemoteProtocolError as error:
            report_unreadable(callbacks, error, message, name)
            return None
        return handler(header, payload)

    name = consume.__qualname__ = name_of(handler)
    return consume


def report_unreadable(
    callbacks: Callbacks, error: RemoteProtocolError, message: Message, handler: str
) -> None:
    """Report that a handler can't read a message, which is the sender's fault."""
    topic = message.topic
    noun = "request" if message.action is Action.REQUEST else "message"

    def report(count: int) -> None:
        messages = f"a {noun}" if count == 1 else f"{count} {noun}s so far"
        what = f"the handler {handler} can't read {messages} of {topic!r}"
        callbacks.report(error, what, level=logging.WARNING)

    callbacks.count(("unreadable", handler, topic.lower()), report)


class _Lost(msgspec.Struct):
    """Return the answer if the handler failed because a connection was lost.

    If it is the connection of the request, nobody is left to answer, and the handler did nothing
    wrong.
    """

    error: ConnectionLost


def _internal_error() -> InternalError:
    return InternalError("the service failed; its log says why")


def _bad_payload(error: RemoteProtocolError) -> InvalidRequestError:
    """Return the error for the sender of an unreadable payload."""
    if error.path is None:
        return InvalidRequestError(f"the payload can't be read: {error.reason}")
    return InvalidRequestError(f"{error.reason} at {error.path}", details={"path": error.path})
