"""Thousands of requests, answered, timed out and cancelled: nothing is left of them."""

from __future__ import annotations

import gc
import sys

import pytest

from .brokers import ProcessBroker
from .load import load

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("nothing_remains")]

WARM_UP, COUNT = 5_000, 20_000


async def test_nothing_is_left_of_requests_however_they_end() -> None:
    def blocks() -> int:
        gc.collect()
        return sys.getallocatedblocks()

    with ProcessBroker("tcp", "--log-level", "error") as broker:
        async with load(broker.url) as work:
            await work.ask(WARM_UP)
            before = blocks()
            await work.ask(COUNT)
            more = blocks() - before
            stats = work.client.stats()
    total = WARM_UP + COUNT
    assert work.timed_out == total // 10
    assert work.cancelled == total // 10
    assert work.answered == total - 2 * (total // 10)
    assert (stats.pending, stats.reconnects, stats.dropped) == (0, 0, 0)
    # One block of memory for each that was not answered would be more than this.
    assert more < 0.75 * COUNT / 5, f"{more} blocks of memory more"
