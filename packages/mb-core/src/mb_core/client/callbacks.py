"""The on_* callbacks: user code, run in order in a task of its own, never in the reader."""

from __future__ import annotations

import logging
import sys
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from ..errors import RemoteProtocolError
from ..link import Backend, Waiter
from ..message import Message

__all__ = ["Callbacks", "call", "failure"]

_log = logging.getLogger("mb_core.client")

Callback = Callable[..., Any]


async def call(function: Callback, *args: Any) -> Any:
    """Call a plain or an async function; give what it returns."""
    result = function(*args)
    if result is not None and isinstance(result, Awaitable):
        return await result
    return result


def failure(error: BaseException) -> Exception:
    """What user code raised, to be reported; raises it where it is no failure of that code.

    On asyncio a task that awaits what somebody else has cancelled gets a CancelledError, though
    nobody cancels the task: that must not end it.
    """
    if isinstance(error, Exception):
        return error
    # Not imported for this: on trio it may never be.
    asyncio = sys.modules.get("asyncio")
    if asyncio is not None and isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        if task is not None and not task.cancelling():
            fault = RuntimeError("something that was awaited has been cancelled")
            fault.__cause__ = error
            return fault
    raise error


class Callbacks:
    """Handlers by the event they are for, and the queue of calls that are due.

    A handler that fails stops no other: its error goes to the log and to the error handlers;
    an error handler's own to the log alone.
    """

    def __init__(self) -> None:
        self.connect: list[Callback] = []
        self.disconnect: list[Callback] = []
        self.error: list[Callback] = []
        self.message: list[Callback] = []
        self._due: deque[tuple[list[Callback], tuple[Any, ...]]] = deque()
        self._wakeup: Waiter | None = None
        self._finishing = False

    def post(self, handlers: list[Callback], *args: Any) -> None:
        """Have `handlers` called soon, after what was posted before."""
        if handlers:
            self._due.append((handlers, args))
            self._wake()

    def report(self, error: Exception, what: str, *, level: int = logging.ERROR) -> None:
        """An error that no caller of ours can get goes to the log and to the error handlers."""
        _log.log(level, "%s: %s", what, error, exc_info=error if error.__traceback__ else None)
        self.post(self.error, error)

    async def take_message(self, message: Message) -> None:
        """Give a message that has no other consumer to the message handlers, one by one."""
        try:
            args = (message.header, message.payload)
        except RemoteProtocolError as error:
            self.report(error, f"a message of {message.topic!r} can't be read")
            return
        for handler in list(self.message):
            await self._call(handler, args)

    async def run(self, backend: Backend) -> None:
        """Make the calls that are due, until `finish` was called and none is left."""
        self._finishing = False
        while True:
            await self.run_due()
            if self._finishing:
                return
            self._wakeup = backend.waiter()
            await self._wakeup

    def finish(self) -> None:
        """No more calls will be posted: let `run` return behind the last."""
        self._finishing = True
        self._wake()

    async def run_due(self) -> None:
        """Make the calls that are due now."""
        while self._due:
            handlers, args = self._due.popleft()
            for handler in list(handlers):
                await self._call(handler, args)

    def _wake(self) -> None:
        if self._wakeup is not None and not self._wakeup.done():
            self._wakeup.set_result(None)

    async def _call(self, handler: Callback, args: tuple[Any, ...]) -> None:
        try:
            await call(handler, *args)
        except BaseException as raised:
            error = failure(raised)
            name = getattr(handler, "__qualname__", repr(handler))
            if handler in self.error:
                _log.error("the error handler %s failed", name, exc_info=error)
            else:
                self.report(error, f"the callback {name} failed")
