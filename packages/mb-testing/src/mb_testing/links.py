"""Two Links that are connected in memory, and LinkEnd, a handler that keeps what it receives."""

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
    """One end of a Link. It keeps what it receives until a test takes it.

    The class itself can be used as an `Accept`.

    Attributes:
        link: The Link.
        messages: Received messages that have not been taken yet.
        batches: How often `messages_received` was called.
        lost: Whether the Link has ended.
        error: Why the Link has ended; None for an orderly end.
        faults: How the Link has violated its contract.
    """

    def __init__(self, link: Link) -> None:
        self.link = link
        self.messages: deque[bytes] = deque()
        self.batches = 0
        self.lost = False
        self.error: MBError | None = None
        self.faults: list[str] = []
        self._changed = anyio.Event()

    async def receive(self) -> bytes:
        """Wait for the next message, and return it.

        Raises:
            MBError: No messages are left, and the Link has ended. The error is the reason; after
                an orderly end, it is `ConnectionLost`.

        If cancelled, no message is lost.
        """
        while not self.messages:
            if self.lost:
                raise self.error or ConnectionLost("the link was closed cleanly", sent=True)
            await self._changed.wait()
        return self.messages.popleft()

    async def receive_many(self, count: int) -> list[bytes]:
        """Wait for the next `count` messages, and return them. Raises what `receive` raises."""
        return [await self.receive() for _ in range(count)]

    async def ended(self) -> MBError | None:
        """Wait until the Link has ended, and return the reason; None for an orderly end."""
        while not self.lost:
            await self._changed.wait()
        await self.link.wait_closed()
        return self.error

    # The LinkHandler

    def messages_received(self, messages: list[bytes]) -> None:
        """Called by the Link."""
        if not messages:
            self.faults.append("messages_received was called without a message")
        if self.lost:
            self.faults.append(f"messages_received({messages[:3]!r}) was called after link_lost")
        self.batches += 1
        self.messages += messages
        self._notify()

    def link_lost(self, error: MBError | None) -> None:
        """Called by the Link."""
        if self.lost:
            self.faults.append(f"link_lost({error!r}) was called a second time")
        self.lost, self.error = True, error
        self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()


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
    """Connect two Links on the running event loop, without a socket.

    Example::

        near, far = memory_link_pair()
        near.link.send(b"hello")
        assert await far.receive() == b"hello"

    Args:
        near: Called with the Link of one end; returns the handler for it. It may send messages
            over the Link during this call.
        far: The same for the other end.
        limits: A message over these limits ends the connection, as on a network.

    Returns:
        The two handlers.
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

    one.open(keeping(near))
    other.open(keeping(far))
    return made[0], made[1]
