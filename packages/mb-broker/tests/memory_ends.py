"""The two ends of a Link over memory://."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from mb_broker.memory_transport import MemoryTransport
from mb_core.link import Link, Listener, current_backend
from mb_core.url import parse_url
from mb_core.wire import Limits

Reports = Callable[[], list[str]]
LIMITS = Limits(max_payload=1000, max_message=1367)
BACKENDS = ["asyncio", "trio"]


class Ends:
    """A transport of the test's own, and Links through it."""

    def __init__(self, end: type[Any]) -> None:
        self.transport = MemoryTransport()
        self.end = end

    async def listen(self, name: str = "", accept: Any = None) -> Listener:
        return await self.transport.listen(
            parse_url(f"memory://{name}"),
            accept if accept is not None else self.end().accept,
            backend=current_backend(),
            limits=LIMITS,
        )

    async def connect(self, listener: Listener, accept: Any) -> Link:
        return await self.transport.connect(
            parse_url(f"memory://{listener.address[0]}"),
            accept,
            backend=current_backend(),
            limits=LIMITS,
        )

    async def pair(self) -> tuple[Any, Any]:
        """Two ends that are connected: the client's and the broker's."""
        near, far = self.end(), self.end()
        await self.connect(await self.listen(accept=far.accept), near.accept)
        await anyio.wait_all_tasks_blocked()
        assert far.link is not near.link
        return near, far


@pytest.fixture
def ends(raw_client: type[Any]) -> Ends:
    return Ends(raw_client)


async def settled(*clients: Any) -> None:
    """All that was sent has arrived; what has ended has ended on both sides."""
    for _ in range(5):
        await anyio.wait_all_tasks_blocked()


def assert_given(unsent: list[bytes], sent: list[bytes]) -> None:
    """The very objects that were sent, in order."""
    assert len(unsent) == len(sent)
    assert all(one is other for one, other in zip(unsent, sent, strict=True))


def in_thread(backend: str, function: Callable[[], Awaitable[Any]]) -> None:
    """Run `function` on an event loop of its own that ends with it; this thread waits."""
    faults: list[BaseException] = []

    def run() -> None:
        try:
            anyio.run(function, backend=backend)
        except BaseException as error:
            faults.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(30)
    assert not thread.is_alive()
    assert not faults
