"""Calling a handler in threads."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable
from typing import Any

from mb_core.hosted_client import Callbacks, MessageQueue, Runner
from mb_core.message import Message, Responder, handling

from .handler_pool import as_exception
from .loop_thread import LoopThread
from .thread_waiter import wait_for_message

__all__ = ["BlockingResponder", "ThreadRunner", "reject_awaitable"]

_IDLE_TIMEOUT = 0.5
"""Seconds that a thread waits for the next message before it serves others."""

_MAX_ANSWERS = 100
"""With this many answers queued for the loop, the thread waits before it adds another."""


class ThreadRunner(Runner):
    """A Runner whose handler runs in threads, `concurrency` of them at most.

    A thread takes messages one by one; the loop only sends the answers.
    """

    __slots__ = ("_abandoned", "_answers", "_loop")

    def __init__(
        self,
        loop: LoopThread,
        queue: MessageQueue,
        handler: Callable[[Message], Any],
        topic: str,
        concurrency: int,
        callbacks: Callbacks,
    ) -> None:
        super().__init__(queue, handler, topic, concurrency, callbacks)
        self._loop = loop
        self._abandoned = False
        self._answers: set[asyncio.Task[None]] = set()

    async def consume(self) -> None:
        queue = self.queue
        try:
            while True:
                if queue.waiting:
                    if self.current_handler() is None:
                        queue.discard()
                        continue
                    await self._loop.pool.run(self._handle_all)
                elif queue.ended:
                    return
                else:
                    await queue.wait(self.backend)
        except BaseException:
            self._abandoned = True  # a thread can't be cancelled, but it takes no further message
            raise

    def _start_sending(self, message: Message, result: Any) -> None:
        task = asyncio.ensure_future(self.send_answer(message, result))
        self._answers.add(task)
        task.add_done_callback(self._answers.discard)

    # In a thread

    def _handle_all(self) -> None:
        """Handle messages until none arrives for a while."""
        queue = self.queue
        while not self._abandoned:
            handler = self.current_handler()
            if handler is None:
                return  # the client was dropped
            try:
                message = queue.take()
            except IndexError:
                del handler  # a thread that waits must not keep the client alive
                if queue.ended or not wait_for_message(queue, self._loop.post, _IDLE_TIMEOUT):
                    return
            else:
                self._handle(handler, message)

    def _handle(self, handler: Callable[[Message], Any], message: Message) -> None:
        handling.set(message)
        responder = message.responder
        if responder is not None:
            message.responder = BlockingResponder(responder, self._loop)
        try:
            result = reject_awaitable(handler(message))
        except BaseException as error:
            result = self.answer_to_failure(as_exception(error), message)
        if message.responder is None:
            return  # there is nothing to answer, or the handler has already answered
        message.responder = responder
        if len(self._answers) < _MAX_ANSWERS:
            self._loop.post(functools.partial(self._start_sending, message, result))
        else:
            self._loop.call(self.send_answer, message, result)


class BlockingResponder:
    """The Responder of a request that was taken in a thread."""

    __slots__ = ("_loop", "_responder")

    def __init__(self, responder: Responder, loop: LoopThread) -> None:
        self._responder = responder
        self._loop = loop

    @property
    def deadline(self) -> float | None:
        return self._responder.deadline

    def respond(self, message: Message, payload: Any) -> None:
        self._loop.check()
        self._loop.call(self._respond, message, payload)

    def answer_now(self, message: Message, payload: Any) -> None:
        self._responder.answer_now(message, payload)

    async def _respond(self, message: Message, payload: Any) -> None:
        await self._responder.respond(message, payload)


def reject_awaitable(result: Any) -> Any:
    """Return what a handler returned; raises TypeError if it is awaitable."""
    if result is not None and isinstance(result, Awaitable):
        if hasattr(result, "close"):
            result.close()  # otherwise Python would warn that it was never awaited
        raise TypeError(
            "a handler returned something to be awaited: mb_sync calls plain functions, "
            "mb_core's client async ones as well"
        )
    return result
