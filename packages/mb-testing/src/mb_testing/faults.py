"""Faults to inject into the connections of a broker, over any transport."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

import anyio

from mb_core.errors import LocalProtocolError, MBError
from mb_core.link import Accept, Backend, DeadlineTimer, Link, LinkHandler, Poster, Spawn
from mb_core.link.memory import loop_poster
from mb_core.message import Message
from mb_core.topic import check_pattern, matches

from .faulty_link import ActiveFaults, FaultyLink

__all__ = ["Faults"]

T = TypeVar("T")

# Seconds to wait for the broker's thread before it counts as stuck.
_PATIENCE = 30.0

Matcher = str | Callable[[Message], bool]


class Faults:
    """What goes wrong with a broker's connections.

    A broker from the fixture `mb_broker` or from `mb_testing.running` has them as its attribute
    `faults`. For a `Broker` on the test's own event loop, pass
    `Broker(wrap_accept=faults.wrap_accept)`.

    Example::

        with mb_testing.running("memory://") as broker:
            broker.faults.delay(200)
            ...
            broker.faults.cut()

    Faults affect whole messages, so they are the same over every transport and on every event loop.
    `mb_testing.proxy` has faults that affect bytes. A fault affects all connections, including new
    ones, until it is undone or `clear` is called. Times are measured by the clock of the broker's
    event loop, which may be a virtual clock.

    All methods can be called from any thread, and return when they have taken effect. If no broker
    is running, they affect the next one.
    """

    def __init__(self) -> None:
        self._active = ActiveFaults()
        self._refusing = False
        self._links: set[FaultyLink] = set()
        self._backend: Backend | None = None
        self._post: Poster | None = None
        self._thread = 0
        self._timer: DeadlineTimer

    # Connections

    def cut(self) -> int:
        """Break all connections, and return how many there were. Messages in transit are lost.

        Clients may reconnect at once; use `refuse` to prevent it.
        """
        return self._in_loop(self._cut)

    def refuse(self) -> None:
        """Refuse new connections, before the greeting."""
        self._in_loop(lambda: self._set_refusing(True))

    def accept(self) -> None:
        """Accept connections again, after `refuse`."""
        self._in_loop(lambda: self._set_refusing(False))

    @property
    def connections(self) -> int:
        """How many connections there are. A stalled one counts until both sides have ended it."""
        return len(self._links)

    # Messages

    def stall(self) -> None:
        """Hold all messages in both directions, as if a cable was pulled.

        For clients, connections are open and silent, and new ones get no greeting. Neither side
        notices that the other one has closed.
        """
        self._in_loop(lambda: self._set_stalled(True))

    def resume(self) -> None:
        """Undo `stall`: deliver the messages that were held, in order.

        Connections that one side has closed in the meantime now end for the other side, too.
        """
        self._in_loop(lambda: self._set_stalled(False))

    def delay(self, milliseconds: float) -> None:
        """Delay each message in both directions. The order is kept.

        Messages that are already in transit keep their delay.

        Args:
            milliseconds: 0 to stop delaying messages.

        Raises:
            LocalProtocolError: The delay is negative or not finite.
        """
        if not 0 <= milliseconds < float("inf"):
            raise LocalProtocolError(f"invalid delay {milliseconds!r}: milliseconds, 0 or more")
        self._in_loop(lambda: self._set_delay(milliseconds / 1000))

    def drop(self, what: Matcher) -> None:
        """Drop certain messages, in both directions. Further calls add to earlier ones.

        Example::

            faults.drop("order.#")
            faults.drop(lambda message: message.action == "response")

        Args:
            what: A topic or a pattern, whose wildcards don't match `system.*`. Or a function that
                takes a `Message` and returns whether to drop it.

        Raises:
            LocalProtocolError: The topic is invalid.
        """
        if callable(what):
            drops = what
        else:
            pattern = check_pattern(what)
            drops = lambda message: matches(pattern, message.topic)  # noqa: E731
        self._in_loop(lambda: self._active.drops.append(drops))

    @property
    def dropped(self) -> int:
        """How many messages were dropped so far."""
        return self._active.dropped

    def garbage(self, data: bytes = b"\xff no message \xff") -> None:
        """Send `data` to each client as if it were a message."""
        self._in_loop(lambda: self._put_garbage(data))

    def clear(self) -> None:
        """Undo all faults: nothing is refused, stalled, delayed or dropped any more."""
        self._in_loop(self._clear)

    # For the broker, on its event loop

    def wrap_accept(self, accept: Accept, backend: Backend, spawn: Spawn) -> Accept:
        """Return a replacement for `accept` that adds these faults to each connection.

        For `Broker(wrap_accept=...)`, which calls it.

        Args:
            accept: What accepts connections without faults.
            backend: The broker's event loop.
            spawn: Starts a task that runs as long as the broker. When it ends, the remaining
                connections are closed.
        """
        self._backend = backend
        post = self._post = loop_poster(backend)
        self._thread = threading.get_ident()
        self._timer = DeadlineTimer(backend, self._next_due, self._pass_on_due)
        spawn(self._run)

        def accept_with_faults(link: Link) -> LinkHandler:
            if self._refusing:
                link.abort()
                return _IgnoreMessages()
            faulty = FaultyLink(
                link,
                self._active,
                clock=backend.time,
                post=post,
                reschedule=self._timer.reschedule,
                ended=self._links.discard,
            )
            self._links.add(faulty)
            try:
                faulty.open(accept)
            except BaseException:
                self._links.discard(faulty)
                raise
            return faulty

        return accept_with_faults

    async def _run(self) -> None:
        """Pass on delayed messages in their time, until the broker ends."""
        try:
            await self._timer.run()
        finally:
            # The broker has closed its connections: what is left are those it no longer knows.
            with anyio.CancelScope(shield=True):
                links = list(self._links)
                for link in links:
                    link.cut()
                for link in links:
                    await link.inner.wait_closed()
            self._links.clear()
            self._backend = self._post = None

    # Within the broker's thread

    def _in_loop(self, function: Callable[[], T]) -> T:
        post = self._post
        if post is None or threading.get_ident() == self._thread:
            return function()
        done: Future[T] = Future()

        def call() -> None:
            try:
                done.set_result(function())
            except BaseException as error:
                done.set_exception(error)

        if not post(call):
            return function()  # the broker's loop has ended
        try:
            return done.result(_PATIENCE)
        except TimeoutError:
            text = f"the broker's event loop was busy for {_PATIENCE:g} s: does a call block it?"
            raise TimeoutError(text) from None

    def _cut(self) -> int:
        links = list(self._links)
        for link in links:
            link.cut()
        return len(links)

    def _set_refusing(self, refusing: bool) -> None:
        self._refusing = refusing

    def _set_stalled(self, stalled: bool) -> None:
        if stalled and not self._active.stalled:
            for link in self._links:
                link.stall()
        self._active.stalled = stalled
        if not stalled and self._backend is not None:
            for link in list(self._links):
                link.resume(self._backend.time())
            self._timer.reschedule()

    def _set_delay(self, seconds: float) -> None:
        self._active.delay = seconds

    def _put_garbage(self, data: bytes) -> None:
        for link in list(self._links):
            link.put_garbage(data)

    def _clear(self) -> None:
        self._refusing = False
        self._active.drops.clear()
        self._active.delay = 0.0
        self._set_stalled(False)

    def _next_due(self) -> float | None:
        return min((due for link in self._links if (due := link.due) is not None), default=None)

    def _pass_on_due(self, now: float) -> None:
        for link in list(self._links):
            link.pass_on_due(now)


class _IgnoreMessages:
    """The handler of a connection that was refused."""

    def messages_received(self, messages: list[bytes]) -> None:
        pass

    def link_lost(self, error: MBError | None) -> None:
        pass
