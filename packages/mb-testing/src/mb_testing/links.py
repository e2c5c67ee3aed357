"""An in-memory pair of Links, and an end of a Link that keeps what it is given."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TypeVar, overload

import anyio

from mb_core.errors import ConnectionLost, MBError
from mb_core.link import Link, LinkHandler, current_backend
from mb_core.link.memory import MemoryLink, loop_poster
from mb_core.wire import Limits

__all__ = ["LinkEnd", "memory_link_pair"]

_Near = TypeVar("_Near", bound=LinkHandler)
_Far = TypeVar("_Far", bound=LinkHandler)


class LinkEnd:
    """One end of a Link: it keeps what it receives, until a test asks for it.

    The class itself is an `Accept`: give it where a handler for a new Link is asked for.
    `messages` have come and were not taken, `batches` counts how many calls brought messages,
    `error` is why the Link was lost.  What a Link does against its contract lies in `faults`.
    """

    def __init__(self, link: Link) -> None:
        self.link = link
        self.messages: deque[bytes] = deque()
        self.batches = 0
        self.lost = False
        self.error: MBError | None = None
        self.faults: list[str] = []
        self._news = anyio.Event()

    async def receive(self) -> bytes:
        """Take the next message, as soon as it has come.

        Raises why the Link was lost, ConnectionLost after an orderly end, when all was taken.
        When cancelled, nothing is lost.
        """
        while not self.messages:
            if self.lost:
                raise self.error or ConnectionLost("the link has ended in order", sent=True)
            await self._news.wait()
        return self.messages.popleft()

    async def receive_many(self, count: int) -> list[bytes]:
        """Take the next `count` messages; otherwise as `receive`."""
        return [await self.receive() for _ in range(count)]

    async def ended(self) -> MBError | None:
        """Wait for the end of the Link, and give its reason: None for an orderly end."""
        while not self.lost:
            await self._news.wait()
        await self.link.wait_closed()
        return self.error

    # The LinkHandler

    def messages_received(self, messages: list[bytes]) -> None:
        """For the Link to call."""
        if not messages:
            self.faults.append("messages_received was called without a message")
        if self.lost:
            self.faults.append(f"messages_received({messages[:3]!r}) was called after link_lost")
        self.batches += 1
        self.messages += messages
        self._tell()

    def link_lost(self, error: MBError | None) -> None:
        """For the Link to call."""
        if self.lost:
            self.faults.append(f"link_lost({error!r}) was called a second time")
        self.lost, self.error = True, error
        self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = anyio.Event()


@overload
def memory_link_pair(*, limits: Limits = ...) -> tuple[LinkEnd, LinkEnd]: ...
@overload
def memory_link_pair(
    near: Callable[[Link], _Near], far: Callable[[Link], _Far], *, limits: Limits = ...
) -> tuple[_Near, _Far]: ...
def memory_link_pair(
    near: Callable[[Link], LinkHandler] = LinkEnd,
    far: Callable[[Link], LinkHandler] = LinkEnd,
    *,
    limits: Limits | None = None,
) -> tuple[LinkHandler, LinkHandler]:
    """Two connected Links on the running event loop, without a socket.

    `near` and `far` make the handlers of the two ends, which are given back; what they send from
    within is sent.  A message over the `limits` ends the connection, as on a network.
    """
    post = loop_poster(current_backend())
    sizes = limits if limits is not None else Limits()
    one, other = MemoryLink(post, sizes, "the far end"), MemoryLink(post, sizes, "the near end")
    one.other, other.other = other, one
    made: list[LinkHandler] = []

    def keeping(accept: Callable[[Link], LinkHandler]) -> Callable[[Link], LinkHandler]:
        def keep(link: Link) -> LinkHandler:
            made.append(accept(link))
            return made[-1]

        return keep

    one.be_open(keeping(near))
    other.be_open(keeping(far))
    return made[0], made[1]
