"""One connection: a Link from its dialling to its end, under a Session that outlives it."""

from __future__ import annotations

import contextlib
import copy
import logging
from collections.abc import Callable
from time import monotonic
from typing import Any

import anyio

from ..codec import decode_payload
from ..errors import (
    ConnectError,
    ConnectionLost,
    ForbiddenError,
    MBError,
    RemoteProtocolError,
    ResponseError,
    UnauthorizedError,
)
from ..link import Link, LinkHandler, Waiter
from ..message import Message
from ..session import NoServiceYet, PendingRequest, Session, SessionState, SubscriptionEntry
from ..url import URL
from .backoff import Backoff
from .callbacks import Callbacks
from .consumer import EndError
from .dial import MAX_ANSWERS, ConnectionOptions, dial
from .dispatch import Dispatcher
from .interrupt import uninterrupted
from .lifetime import Lifetime, abort, abort_and_wait
from .observing import Observers
from .stats import Traffic
from .turn import Turn, checkpoint
from .upkeep import UpkeepOptions

__all__ = ["Connection", "broken", "check_status"]

_PERMANENT = frozenset(
    {
        "FORBIDDEN",
        "INVALID_REQUEST",
        "MALFORMED_MESSAGE",
        "TOPIC_NOT_SUPPORTED",
        "VERSION_NOT_SUPPORTED",
    }
)
"""What a broker answers to a request that it will never accept as it is."""


class Connection:
    """Drives a Session over one Link.

    `again` says that it follows an outage, after which other clients may still be on their way
    back.  `lost` is called when it is over, after the Session was told.
    """

    link: Link
    _send: Callable[[bytes], None]

    def __init__(
        self,
        session: Session,
        dispatcher: Dispatcher,
        callbacks: Callbacks,
        options: ConnectionOptions,
        upkeep: UpkeepOptions,
        lifetime: Lifetime,
        *,
        again: bool,
        observers: Observers | None,
        turn: Turn,
        look: Callable[[], None],
        lost: Callable[[Connection], None],
    ) -> None:
        # How it ended; None while it has not.
        self.error: EndError | None = None
        self.broken = False  # whether that was not in order
        self._session = session
        self._dispatcher = dispatcher
        self._callbacks = callbacks
        self._options = options
        self._upkeep = upkeep
        self._again = again
        self._lifetime = lifetime
        self._observers = observers
        self._look = look
        self._lost = lost
        self._accepted = self._up = False  # whether there is a Link, and the Session has it
        self._messages = self._bytes = 0  # received
        self._over = anyio.Event()
        self._fault: MBError | None = None  # why we have ended it
        self._stranded: list[bytes] = []  # what the Link took no more
        # Bytes of answers of our own that wait behind what was unsent when the count began: until
        # the Link has sent `_mark` bytes, all of them do.
        self._unread = self._mark = 0
        self._clock = lifetime.backend.time
        self._turn = turn
        self._greeting: Waiter = lifetime.backend.waiter()

    async def open(self, url: URL) -> None:
        """Connect, wait for the broker's greeting, and tell it what the Session has to tell.

        Raises ConnectError or PluginError.  When it fails or is cancelled, the Link is gone.
        """
        seconds = self._options.connect_timeout
        step = "did not accept the connection"
        try:
            with anyio.fail_after(seconds):
                await dial(
                    url,
                    self._accept,
                    self._options,
                    backend=self._lifetime.backend,
                    spawn=self._lifetime.spawn,
                )
                step = "accepted the connection and sent no system.initialize"
                failure = await self._greeting
                if failure is not None:
                    text = f"{url} ended the connection before its greeting: {failure}"
                    raise ConnectError(text, final=_is_final(failure))
                step = "sent its greeting and did not answer the client's requests"
                failure = await self._restore()
                if failure is not None:
                    raise ConnectError(f"{url} ended the connection at once: {failure}")
        except TimeoutError:
            await self._end_at_once()
            # The Link may have found a fault, and was waiting for the end of an endless stream.
            found = self.error().__cause__ if self.error is not None else None
            if isinstance(found, MBError):
                text = f"the connection to {url} failed: {found}"
                raise ConnectError(text, final=_is_final(found)) from None
            raise ConnectError(
                f"{url} {step} within {seconds:g} s: "
                f"is an MB broker listening there for {url.scheme}://?"
            ) from None
        except BaseException:
            await self._end_at_once()
            raise

    async def wait_over(self) -> None:
        """Wait for the end of the Link."""
        await self._over.wait()

    @property
    def progress(self) -> int:
        """How far the Link has come; 0 for one that does not say."""
        return getattr(self.link, "progress", 0)

    def traffic(self) -> Traffic:
        """What went over the Link so far."""
        link = self.link
        return Traffic(link.messages_sent, link.bytes_sent, self._messages, self._bytes)

    # Sending

    def send(self, message: bytes) -> None:
        """Send a message; one that the Link takes no more is as one that never left."""
        try:
            self._send(message)
        except ConnectionLost:
            self._stranded.append(message)
            if not self._lifetime.ending:
                # The broker has said goodbye, and may take its time to hang up.  Everything sent
                # until then would wait here, whatever the limit of the buffer.
                abort(self.link)
                self._turn.over = 0.0  # so that the Link can say that it has ended
        except Exception as error:
            self._stranded.append(message)
            self._give_up_broken(error)

    def answer(self, message: bytes) -> None:
        """Send an answer of the client's own: nobody here waits for it, so nothing slows it down.

        The connection is given up when too many bytes of such answers wait to be read.
        """
        if self._fault is None:
            if self.link.congested:
                self._count_unread(len(message))
            else:
                self._unread = self._mark = 0
        if self._fault is None:
            self.send(message)

    async def drain(self) -> None:
        """Wait until the Link takes more; raises ConnectionLost where it can't say."""
        try:
            await uninterrupted(self.link.drain)()
        except MBError:
            raise
        except Exception as error:
            raise self._give_up_broken(error) from error

    async def respond(self, message: Message, payload: Any) -> None:
        """AnswerNow a request received here; see Message.respond."""
        try:
            sent = self._respond(message, payload)
        except Exception:
            await checkpoint()
            raise
        if sent and self.link.congested:
            await self.drain()
        elif not sent or monotonic() >= self._turn.over:
            await self._turn.take()

    def _respond(self, message: Message, payload: Any) -> bool:
        """Send an answer that is still wanted; whether it was."""
        home = self._lifetime.home
        if home.running() is not home.loop:
            raise home.error()
        if message.request_key is None:
            message.responder = None
            return False
        deadline = message.deadline
        if self._over.is_set():
            message.responder = None
            raise _unanswerable(message)
        if deadline is not None and self._clock() >= deadline:
            message.responder = None
            self._dispatcher.note_late_answer(message)
            return False
        answer = self._session.respond(message, payload)
        message.responder = None
        try:
            self._send(answer)
        except MBError:
            raise
        except Exception as error:
            raise self._give_up_broken(error) from error
        return True

    def answer_now(self, message: Message, payload: Any) -> None:
        """AnswerNow a request from the reader: without back-pressure, if it still can."""
        deadline, message.responder = message.deadline, None
        if deadline is not None and self._clock() >= deadline:
            return
        if message.request_key is not None and not self._over.is_set():
            # If the connection is gone, the broker tells the requester.
            with contextlib.suppress(ConnectionLost):
                self.answer(self._session.respond(message, payload))

    # The LinkHandler

    def messages_received(self, messages: list[bytes]) -> None:
        self._messages += len(messages)
        self._bytes += sum(map(len, messages))
        self._dispatcher.act(self._session.receive(messages))

    def link_lost(self, error: MBError | None) -> None:
        if self._over.is_set():
            return
        error = error if error is not None else self._fault
        self.error = _lost_for(self.link.peer, error)
        self.broken = error is not None
        self._over.set()
        if not self._greeting.done():
            self._greeting.set_result(
                error if error is not None else ConnectError("no reason was given")
            )
        try:
            unsent = [*self.link.take_unsent(), *self._stranded]
            if self._up:
                self._dispatcher.act(self._session.link_lost(error, unsent))
                self._look()
            self._lost(self)
        except Exception as bug:  # the Link could only log it
            self._lifetime.fail(bug)

    # The Uplink

    def greeted(self) -> None:
        if not self._greeting.done():
            self._greeting.set_result(None)

    def refused(self, error: MBError) -> bool:
        if self._greeting.done():
            return False
        self._greeting.set_result(error)
        return True

    def give_up(self, error: MBError) -> None:
        self._fault = error
        abort(self.link)

    def unrouted(self, event: NoServiceYet) -> None:
        now = self._clock()
        self._dispatcher.act(self._session.retry_later(event.request, event.error, now=now))
        self._look()

    # Within

    def _count_unread(self, size: int) -> None:
        """Count an answer of the client's own while the broker is not reading."""
        link = self.link
        if link.bytes_sent >= self._mark:  # what waited when the count began is gone
            self._unread, self._mark = 0, link.bytes_sent + link.unsent + 1
        self._unread += size
        if self._unread > MAX_ANSWERS:
            text = (
                f"the broker does not read: {self._unread} bytes of answers to its own requests "
                f"wait for it, the limit is {MAX_ANSWERS}; see whether it hangs, or what else "
                "listens there"
            )
            self.give_up(RemoteProtocolError(text))

    def _give_up_broken(self, error: Exception) -> ConnectionLost:
        """Give up a Link that has raised the network's error, or a bug of its transport."""
        lost = broken(self.link, error)
        self.give_up(lost)
        return lost

    def _accept(self, link: Link) -> LinkHandler:
        self.link = link
        self._send = link.send
        handler: LinkHandler = self
        if self._observers is not None:
            self._send = self._observers.watch_sending(link.send)
            handler = self._observers.watch_receiving(self)
        self._accepted = True
        self._dispatcher.uplink = self
        if self._lifetime.hold(link):
            self._session.link_up()
            self._up = True
        return handler

    async def _restore(self) -> MBError | None:
        """Tell the broker what it is to know; the error where the connection did not last."""
        session = self._session
        if (end := self._end()) is not None:
            return end
        requests = session.restore(now=self._clock(), timeout=self._limit)
        self._dispatcher.act(session.ask_for_timeouts())
        try:
            refused = await self._tell(requests)
        except ConnectionLost as error:
            return error
        if (end := self._end()) is not None:
            return end
        settling = self._upkeep.settling if self._again else 0.0
        self._dispatcher.act(
            session.restored(self._clock(), settling=settling, progress=self.progress)
        )
        self._look()
        if refused:
            self._lifetime.spawn(lambda: self._restore_rest(refused))
        return None

    async def _restore_rest(self, refused: list[Any]) -> None:
        """Ask for what the broker has refused for now until it is accepted, or the Link is gone.

        The rest of the client works meanwhile.
        """
        backoff = Backoff(self._upkeep.backoff_min, self._upkeep.backoff_max)
        while refused:
            await anyio.sleep(backoff.next())
            if self._over.is_set():
                return  # the next connection restores everything
            requests = self._session.restore_again(refused, now=self._clock(), timeout=self._limit)
            try:
                refused = await self._tell(requests)
            except ConnectionLost:
                return

    async def _tell(self, requests: list[PendingRequest]) -> list[Any]:
        """Send requests that restore something; return the subjects that are refused for now.

        What is refused for good is dropped.  Raises ConnectionLost.
        """
        refused: list[Any] = []
        try:
            for request in requests:
                request.waiter = self._lifetime.backend.waiter()
                self.send(request.message)
            self._look()
            for request in requests:
                outcome = await request.waiter
                if isinstance(outcome, ConnectionLost):
                    raise outcome
                error = check_status(request, outcome)
                if isinstance(error, ResponseError) and error.code in _PERMANENT:
                    self._drop(request.about, error)
                elif error is not None:
                    what = f"{_name_of(request.about)} could not be restored, will try again"
                    self._callbacks.report(error, what, level=logging.WARNING)
                    refused.append(request.about)
        finally:
            for request in requests:
                self._session.cancel(request)
        return refused

    @property
    def _limit(self) -> int:
        return round(self._options.connect_timeout * 1000)

    def _end(self) -> MBError | None:
        """Why there is nothing to restore any more, if so: it was lost, or closed."""
        if self._session.state is SessionState.RESTORING:
            return None
        return self.error() if self.error is not None else ConnectError("it was closed")

    def _drop(self, subject: Any, error: MBError) -> None:
        """The broker refuses for good to restore this: report it and carry on with the rest."""
        session = self._session
        self._callbacks.report(error, f"{_name_of(subject)} could not be restored")
        if not isinstance(subject, SubscriptionEntry):
            session.registration = None
            return
        for entry in session.subscriptions.of(subject.action, subject.pattern):
            session.remove(entry)
            entry.consumer.release(entry, lambda: copy.copy(error))

    async def _end_at_once(self) -> None:
        if self._accepted:  # nothing was sent: there is no farewell to wait for
            await abort_and_wait(self.link, self._options.close_timeout)
            self.link_lost(None)  # if its transport has not said so


def broken(link: Link, error: Exception) -> ConnectionLost:
    """The error for callers when a Link raises what it must not, such as a plain OSError."""
    lost = ConnectionLost(f"the connection to {link.peer} broke: {error!r}", sent=True)
    lost.__cause__ = error
    return lost


def check_status(request: PendingRequest, outcome: Message | MBError) -> MBError | None:
    """The error in the answer of the broker itself, which is a status; None where there is none."""
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


def _unanswerable(message: Message) -> ConnectionLost:
    text = f"the connection over which {message.topic!r} was requested is lost"
    error = ConnectionLost(text, sent=False)
    error._about = message
    return error


def _name_of(subject: Any) -> str:
    if isinstance(subject, SubscriptionEntry):
        return f"the subscription to {subject.pattern!r}"
    return "the service's registration"


def _is_final(error: MBError) -> bool:
    if isinstance(error, ConnectError):
        return error.final
    return isinstance(error, UnauthorizedError | ForbiddenError)


def _lost_for(peer: str, error: MBError | None) -> EndError:
    text = f"the connection to {peer} was closed"
    if error is None:
        text += " by the broker"
    elif isinstance(error, ConnectionLost) and peer in str(error):
        text = str(error)  # says that it broke
    else:
        text += f": {error}"

    def lost() -> ConnectionLost:
        fresh = ConnectionLost(text, sent=True)
        fresh.__cause__ = error
        return fresh

    return lost
