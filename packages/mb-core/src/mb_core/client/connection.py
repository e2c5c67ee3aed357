"""One connection: a Link from dialling to closing, driving a Session that outlives it."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any

import anyio
import msgspec

from ..dialing import MAX_ANSWERS, dial
from ..errors import (
    ConnectError,
    ConnectionLost,
    ForbiddenError,
    MBError,
    RemoteProtocolError,
    UnauthorizedError,
)
from ..link import Link, LinkHandler, Turn, Waiter, checkpoint
from ..message import Message
from ..options import ClientOptions
from ..session import Event, Session
from ..signals import uninterrupted
from ..stats import Traffic
from ..url import URL
from .callbacks import Callbacks
from .observers import Observers
from .queue import EndError
from .tasks import TaskScope, abort, abort_and_wait

__all__ = ["Connection", "Responder", "broken", "is_final"]


class Connection:
    """Drives a Session over one Link.

    `accepted` is called when there is a Link, `lost` when it has ended, after the Session was
    notified. The Session's events go to `handle_events`.
    """

    link: Link
    _send: Callable[[bytes], None]

    def __init__(
        self,
        session: Session,
        callbacks: Callbacks,
        options: ClientOptions,
        tasks: TaskScope,
        turn: Turn,
        *,
        observers: Observers | None,
        handle_events: Callable[[list[Event]], None],
        reschedule: Callable[[], None],
        accepted: Callable[[Connection], None],
        lost: Callable[[Connection], None],
    ) -> None:
        # How it ended; None while it is open.
        self.error: EndError | None = None
        self.broken = False  # whether that was not an orderly close
        self._session = session
        self._callbacks = callbacks
        self._options = options
        self._tasks = tasks
        self._turn = turn
        self._observers = observers
        self._handle_events = handle_events
        self._reschedule = reschedule
        self._on_accepted = accepted
        self._on_lost = lost
        self._accepted = self._up = False  # whether there is a Link and the Session knows it
        self._messages = self._bytes = 0  # received
        self._over = anyio.Event()
        self._fault: MBError | None = None  # why we ended it
        self._refused: list[bytes] = []  # messages that the Link no longer accepted
        # Bytes of answers of our own that wait behind what was unsent when the count began: until
        # the Link has sent `_mark` bytes, all of them do.
        self._unread = self._mark = 0
        self._clock = tasks.backend.time
        self._greeting: Waiter = tasks.backend.waiter()

    async def dial(self, url: URL, token: str | None) -> None:
        """Connect; raises ConnectError or PluginError.  `end_at_once` if that fails."""
        await dial(
            url,
            self._accept,
            self._options,
            backend=self._tasks.backend,
            spawn=self._tasks.spawn,
            token=token,
        )

    async def wait_greeted(self) -> MBError | None:
        """Wait for the broker's greeting; return the error that arrived instead, if any."""
        failure: MBError | None = await self._greeting
        return failure

    async def end_at_once(self) -> None:
        """End the Link, if there is one, without a closing handshake: nothing was sent yet."""
        if self._accepted:
            await abort_and_wait(self.link, self._options.close_timeout)
            self.link_lost(None)  # if its transport has not reported it

    @property
    def over(self) -> bool:
        """Whether the Link has ended."""
        return self._over.is_set()

    async def wait_over(self) -> None:
        """Wait for the end of the Link."""
        await self._over.wait()

    @property
    def progress(self) -> int:
        """The progress of the Link; 0 if it does not provide it."""
        return getattr(self.link, "progress", 0)

    def traffic(self) -> Traffic:
        """The traffic of the Link so far."""
        link = self.link
        return Traffic(link.messages_sent, link.bytes_sent, self._messages, self._bytes)

    # Sending

    def send(self, message: bytes) -> None:
        """Send a message; if the Link no longer accepts it, it counts as not sent."""
        try:
            self._send(message)
        except ConnectionLost:
            self._refused.append(message)
            if not self._tasks.ending:
                # The broker has closed its side, but may take a while to disconnect. Until then,
                # messages would pile up here, beyond the limit of the buffer.
                abort(self.link)
                self._turn.over = 0.0  # so that the Link can report that it has ended
        except Exception as error:
            self._refused.append(message)
            self._give_up_broken(error)

    def answer(self, message: bytes) -> None:
        """Send an answer that the client itself generates, without back-pressure. The connection is
        dropped when too many bytes of such answers are unread.
        """
        if self._fault is None:
            if self.link.congested:
                self._count_unread(len(message))
            else:
                self._unread = self._mark = 0
        if self._fault is None:
            self.send(message)

    async def drain(self) -> None:
        """Wait until the Link accepts more; raises ConnectionLost if it fails."""
        try:
            await uninterrupted(self.link.drain)()
        except MBError:
            raise
        except Exception as error:
            raise self._give_up_broken(error) from error

    async def respond(self, message: Message, payload: Any) -> None:
        """Answer a request received here; see Message.respond."""
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
        """Send an answer if its requester still waits; return whether it did."""
        home = self._tasks.home
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
            self._callbacks.late_answer(message)
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
        """Answer a request from the reader: without back-pressure, if the Link is still open."""
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
        self._handle_events(self._session.receive(messages))

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
            unsent = [*self.link.take_unsent(), *self._refused]
            if self._up:
                self._handle_events(self._session.link_lost(error, unsent))
                self._reschedule()
            self._on_lost(self)
        except Exception as bug:  # the Link could only log it
            self._tasks.fail(bug)

    # Events of the Session about this connection

    def greeted(self) -> None:
        """Handle the broker's greeting."""
        if not self._greeting.done():
            self._greeting.set_result(None)

    def refused(self, error: MBError) -> bool:
        """Handle an error that the broker reports; return whether it replaces the greeting."""
        if self._greeting.done():
            return False
        self._greeting.set_result(error)
        return True

    def give_up(self, error: MBError) -> None:
        """End the connection because of `error`."""
        self._fault = error
        abort(self.link)

    # Within

    def _count_unread(self, size: int) -> None:
        """Count a generated answer while the broker is not reading."""
        link = self.link
        if (
            link.bytes_sent >= self._mark
        ):  # everything that waited when the count began has been sent
            self._unread, self._mark = 0, link.bytes_sent + link.unsent + 1
        self._unread += size
        if self._unread > MAX_ANSWERS:
            text = (
                f"the broker does not read: {self._unread} bytes of answers to its own requests "
                f"wait for it, the limit is {MAX_ANSWERS}; check whether it hangs, or whether "
                "another program listens there"
            )
            self.give_up(RemoteProtocolError(text))

    def _give_up_broken(self, error: Exception) -> ConnectionLost:
        """Drop a Link that has raised a network error, or because of a bug in its transport."""
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
        self._on_accepted(self)
        if self._tasks.adopt(link):
            self._session.link_up()
            self._up = True
        return handler


class Responder(msgspec.Struct, eq=False):
    """The Responder of one received request: its connection, and its time limit.

    `deadline` is when its sender stops waiting, by the event loop's clock; None where it did not
    say.
    """

    _connection: Connection
    deadline: float | None

    def respond(self, message: Message, payload: Any) -> Awaitable[None]:
        return self._connection.respond(message, payload)

    def answer_now(self, message: Message, payload: Any) -> None:
        self._connection.answer_now(message, payload)


def broken(link: Link, error: Exception) -> ConnectionLost:
    """Return the error for callers when a Link raises something it must not, such as OSError."""
    lost = ConnectionLost(f"the connection to {link.peer} broke: {error!r}", sent=True)
    lost.__cause__ = error
    return lost


def _unanswerable(message: Message) -> ConnectionLost:
    text = f"the connection over which {message.topic!r} was requested is lost"
    error = ConnectionLost(text, sent=False)
    error._about = message
    return error


def is_final(error: MBError) -> bool:
    """Return whether another attempt to connect would fail in the same way."""
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
