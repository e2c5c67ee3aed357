"""Calls: requests to services and to the broker, from sending to the outcome."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..codec import decode_payload
from ..errors import MBError, RemoteProtocolError, RequestTimeoutError, ResponseError
from ..header import check_timeout
from ..link import Backend, DeadlineTimer, Waker
from ..message import Message, handling
from ..session import PendingRequest, Session
from ..stats import Latencies
from .connection import Connection
from .observers import Observers

__all__ = ["Calls", "check_status"]


class Calls:
    """Sends a Session's requests over the current connection, and waits for their outcomes.

    `timer` enforces their time limits. With `inherit_deadlines`, a request made in a handler has at
    most the time that is left for the handled request.
    """

    connection: Connection
    """The last established connection, open or not."""

    def __init__(
        self,
        session: Session,
        backend: Backend,
        timer: DeadlineTimer,
        observers: Observers | None,
        *,
        inherit_deadlines: bool,
    ) -> None:
        self.latencies = Latencies()
        self.clock = backend.time
        self.timer = timer
        self._session = session
        self._backend = backend
        self._observers = observers
        self._inherit_deadlines = inherit_deadlines

    def ask(
        self,
        topic: str,
        payload: Any,
        timeout: int,
        version: str,
        parent_id: str | None,
        retry: bool,
    ) -> PendingRequest:
        """Return a request that inherits time limit and parent from the one being handled."""
        now = self.clock()
        current = handling.get()
        if current is not None:
            if parent_id is None:
                parent_id = current.request_id
            deadline = current.deadline if self._inherit_deadlines else None
            if deadline is not None and deadline < now + check_timeout(timeout) / 1000:
                timeout = int((deadline - now) * 1000)
                if timeout < 1:
                    raise RequestTimeoutError(
                        f"{topic!r} was not requested: the time limit of {current.topic!r}, "
                        "which is being handled, has expired (inherit_deadlines)"
                    )
        return self._session.request(
            topic,
            payload,
            now=now,
            timeout=timeout,
            version=version,
            parent_id=parent_id,
            retry=retry,
        )

    async def complete(self, request: PendingRequest) -> Message:
        """Send a request (or queue it until there is a connection) and wait for its outcome.

        Raises ResponseError or ConnectionLost.  When cancelled, the request may have been sent,
        and its response is ignored.
        """
        waiter = self._backend.waiter()
        try:
            self.begin(request, waiter)
            if waiter.done():  # awaiting it does not yield to the loop
                await self._backend.checkpoint()
            outcome = await waiter
        except BaseException:
            self.cancel(request)
            raise
        self.finish(request, outcome)
        if isinstance(outcome, Message):
            return outcome
        raise outcome

    def begin(self, request: PendingRequest, waiter: Waker) -> None:
        """The first half of `complete`: sets `waiter` to a Message or an MBError, once.

        Call `finish` afterwards, or `cancel` if the caller stops waiting.
        """
        request.waiter = waiter
        self.timer.reschedule_if_earlier(request.given_up_at)
        if request.outbox_key is None:
            # The caller waits for its answer, with a deadline, so no back-pressure is needed.
            self.connection.send(request.message)

    def finish(self, request: PendingRequest, outcome: Message | MBError) -> None:
        """Record a request's outcome."""
        if self._observers is not None:
            self._observers.finished(request, outcome, self.clock())
        if isinstance(outcome, Message):
            self.latencies.add(self.clock() - request.began)

    def cancel(self, request: PendingRequest) -> None:
        """Stop waiting for this request; its response is ignored."""
        self._session.cancel(request)
        if self._observers is not None:
            self._observers.finished(request, None, self.clock())

    async def confirm(self, request: PendingRequest) -> None:
        """Complete a request to the broker itself, whose answer is a status.

        Raises ResponseError if the status is not success, and what `complete` raises.
        """
        error = check_status(request, await self.complete(request))
        if error is not None:
            raise error

    async def complete_all(self, requests: Sequence[PendingRequest]) -> list[Message | MBError]:
        """Send requests to the broker itself together, and wait for all of their outcomes.

        When cancelled, the requests have been sent, and their responses are ignored.
        """
        try:
            for request in requests:
                request.waiter = self._backend.waiter()
                self.connection.send(request.message)
            self.timer.reschedule()
            return [await request.waiter for request in requests]
        finally:
            for request in requests:
                self._session.cancel(request)


def check_status(request: PendingRequest, outcome: Message | MBError) -> MBError | None:
    """Return the error in a status answer of the broker itself; None for success."""
    if isinstance(outcome, MBError):
        return outcome
    try:
        answer = decode_payload(outcome.raw_payload)
    except RemoteProtocolError as error:
        return error
    status = answer.get("status") if isinstance(answer, dict) else None
    if status == "success":
        return None
    return ResponseError(f"the broker answered {request.topic} with {answer!r}")
