"""MB within one process: the broker on the event loop of its clients."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from mb_broker import Broker

from .. import cases
from .mb import MB, connected

__all__ = ["measure"]


def measure(messages: int, backend: str) -> cases.Figures:
    return cases.run(_with_broker, messages, backend)


@contextlib.asynccontextmanager
async def _with_broker() -> AsyncIterator[MB]:
    async with Broker("memory://") as broker, connected(broker.url) as peer:
        yield peer
