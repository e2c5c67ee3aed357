"""The worker pool shares the requests of one topic, and answers those it has before it ends."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from mb_sync import MessageBrokerClient
from mb_testing import FaultyBroker, wait_until

from .programs import PATIENCE, started

TOPIC = "key.derive"


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_it_shares_the_work_and_drains(mb_broker: FaultyBroker, stop: signal.Signals) -> None:
    with (
        started("worker_pool.py", "2", url=mb_broker.url_of("tcp"), new_session=True) as pool,
        MessageBrokerClient(mb_broker.url) as client,
        ThreadPoolExecutor(8) as threads,
    ):
        wait_until(lambda: len(subscribers(client)) == 3)
        assert sorted(s["priority"] for s in subscribers(client)) == [0, 1, 1]

        def ask(number: int) -> Any:
            job = {"password": f"secret {number}", "rounds": 1_000}
            return client.request(TOPIC, job).payload["worker"]

        workers = set(threads.map(ask, range(24)))
        assert len(workers) == 2  # the reserve got nothing

        mb_broker.faults.delay(50)  # so that they are still waiting for their answers
        asked = [threads.submit(ask, number) for number in range(8)]
        wait_until(lambda: client.stats().pending == 8)
        if stop is signal.SIGINT:
            os.killpg(pool.pid, stop)  # as a terminal does
        else:
            pool.send_signal(stop)
        assert {future.result(PATIENCE) for future in asked} <= workers
        mb_broker.faults.clear()
        out, err = pool.communicate(timeout=PATIENCE)
        assert (pool.returncode, out, err) == (0, "", "")
        assert not subscribers(client)


def subscribers(client: MessageBrokerClient) -> list[dict[str, Any]]:
    topics = client.request("system.topic.list", {}).payload["topics"]
    found = [topic["subscribers"] for topic in topics if topic["topic"] == TOPIC]
    return found[0] if found else []
