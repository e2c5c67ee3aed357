"""A million requests, a tenth timed out and a tenth cancelled: memory stays flat.

Takes minutes, so it runs when asked for: `pytest -m soak tests/reliability/soak`.
"""

from __future__ import annotations

import gc

import psutil
import pytest

from ..brokers import ProcessBroker
from ..load import load

pytestmark = [
    pytest.mark.soak,
    pytest.mark.anyio,
    pytest.mark.usefixtures("nothing_remains"),
]

ROUNDS = 10
IN_A_ROUND = 100_000
MEGABYTE = 1024 * 1024


async def test_memory_is_flat_over_a_million_requests() -> None:
    memory: list[int] = []
    with ProcessBroker("tcp", "--log-level", "error") as broker:
        async with load(broker.url) as work:
            for _ in range(ROUNDS):
                await work.ask(IN_A_ROUND)
                assert work.client.stats().pending == 0
                gc.collect()
                memory.append(psutil.Process().memory_info().rss)
            stats = work.client.stats()
    total = ROUNDS * IN_A_ROUND
    assert work.timed_out == work.cancelled == total // 10
    assert work.answered == total - 2 * (total // 10)
    assert (stats.reconnects, stats.dropped) == (0, 0)
    # The first rounds fill caches and the allocator's arenas; the others add nothing.
    assert max(memory[2:]) < memory[1] + 4 * MEGABYTE, memory
