"""A request that the event loop sends and a thread waits for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mb_core.errors import RequestTimeoutError
from mb_core.header import check_timeout
from mb_core.hosted_client import Supervisor
from mb_core.message import Message
from mb_core.session import PendingRequest

from .loop_thread import STUCK, LoopThread
from .thread_waiter import ThreadWaiter

__all__ = ["BlockingRequest"]

_GRACE = 1.0
"""Seconds after the time limit in which the loop still waits for the broker's timeout error."""
_RESPONSE_TIMEOUT = 1.0
"""Seconds within which a late loop responds, if it is running."""


class BlockingRequest(ThreadWaiter):
    """One request, which `ask` creates in the event loop.

    It needs no task, so it takes one turn of the loop each way. Both the loop and the thread
    enforce the time limit of `timeout` milliseconds, because the loop may wait for something that
    the thread holds.
    """

    __slots__ = ("_ask", "_request", "_supervisor", "_timeout")

    def __init__(
        self, supervisor: Supervisor, ask: Callable[[], PendingRequest], timeout: int
    ) -> None:
        super().__init__()
        self._supervisor = supervisor
        self._ask = ask
        self._timeout = check_timeout(timeout) / 1000
        self._request: PendingRequest | None = None

    def complete(self, loop: LoopThread) -> tuple[PendingRequest, Message]:
        """Make the request and wait for the answer; raises what Calls.complete raises."""
        try:
            if not loop.post(self._begin):
                self._begin()  # the Session has ended and reports it
            limit = self._timeout + _GRACE
            while not self.wait(limit):
                # If this process was stopped for a while, the loop runs next.
                if not loop.responds(_RESPONSE_TIMEOUT) and not self.done():
                    raise RequestTimeoutError(STUCK)
                limit = _GRACE
        except BaseException:
            loop.post(self._abandon)
            raise
        outcome = self.result
        if isinstance(outcome, BaseException):
            try:
                raise outcome
            finally:
                del outcome, self.result  # it refers to this frame
        assert self._request is not None
        return self._request, outcome

    # In the loop

    def set_result(self, outcome: Any, /) -> None:
        assert self._request is not None
        self._supervisor.calls.finish(self._request, outcome)
        super().set_result(outcome)

    def _begin(self) -> None:
        try:
            self._request = self._ask()
            self._supervisor.calls.begin(self._request, self)
        except BaseException as error:
            if self._request is not None:
                self._supervisor.calls.cancel(self._request)
            super().set_result(error)

    def _abandon(self) -> None:
        if self._request is not None and not self.done():
            self._supervisor.calls.cancel(self._request)
