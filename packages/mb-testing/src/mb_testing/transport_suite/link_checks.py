"""What is expected of one end of a Link, whatever the test is about."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

from ..links import LinkEnd
from .network import Network
from .requirements import Promise, broken, expect

__all__ = ["Echo", "expect_answer", "expect_end", "expect_in_time"]

_T = TypeVar("_T")


class Echo(LinkEnd):
    """An end that sends back what it receives."""

    def messages_received(self, messages: list[bytes]) -> None:
        super().messages_received(messages)
        self.link.send_many(messages)


async def expect_in_time(
    net: Network, promise: Promise, wait: Callable[[], Awaitable[_T]], found: str
) -> _T:
    """Wait for something; `found` is the failure's text when it does not come about."""
    __tracebackhide__ = True
    with anyio.move_on_after(net.patience):
        return await wait()
    raise broken(promise, found)


async def expect_answer(net: Network, promise: Promise, end: LinkEnd) -> None:
    """Send a message to an Echo, and expect it to come back."""
    __tracebackhide__ = True
    end.link.send(b"hello")
    came = await expect_in_time(net, promise, end.receive, f"{end.link.peer} does not answer")
    expect(promise, came == b"hello", f"the answer of {end.link.peer} is {came!r}")


async def expect_end(
    net: Network, promise: Promise, end: LinkEnd, *, in_order: bool | None = None
) -> None:
    """Wait for the end of a Link, and expect no error of it, or one, or either."""
    __tracebackhide__ = True
    found = f"the link to {end.link.peer} never ended"
    await expect_in_time(net, promise, end.ended, found)
    found = f"the link to {end.link.peer} was lost with {end.error!r}"
    expect(promise, in_order is None or (end.error is None) is in_order, found)
