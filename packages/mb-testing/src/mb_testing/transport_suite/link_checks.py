"""Checks of one end of a Link that many tests need."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

from ..links import LinkEnd
from .links_under_test import Network
from .requirements import Requirement, expect, violation

__all__ = ["Echo", "expect_answer", "expect_end", "expect_in_time"]

_T = TypeVar("_T")


class Echo(LinkEnd):
    """An end that sends back what it receives."""

    def messages_received(self, messages: list[bytes]) -> None:
        super().messages_received(messages)
        self.link.send_many(messages)


async def expect_in_time(
    net: Network, requirement: Requirement, wait: Callable[[], Awaitable[_T]], found: str
) -> _T:
    """Wait for something, and fail with the text `found` if it does not happen."""
    __tracebackhide__ = True
    with anyio.move_on_after(net.patience):
        return await wait()
    raise violation(requirement, found)


async def expect_answer(net: Network, requirement: Requirement, end: LinkEnd) -> None:
    """Send a message to an Echo, and expect it to come back."""
    __tracebackhide__ = True
    end.link.send(b"hello")
    came = await expect_in_time(net, requirement, end.receive, f"{end.link.peer} does not answer")
    expect(requirement, came == b"hello", f"the answer of {end.link.peer} is {came!r}")


async def expect_end(
    net: Network, requirement: Requirement, end: LinkEnd, *, in_order: bool | None = None
) -> None:
    """Wait for the end of a Link: in order, with an error, or either if `in_order` is None."""
    __tracebackhide__ = True
    found = f"the link to {end.link.peer} never ended"
    await expect_in_time(net, requirement, end.ended, found)
    found = f"the link to {end.link.peer} was lost with {end.error!r}"
    expect(requirement, in_order is None or (end.error is None) is in_order, found)
