"""A publication that nobody is subscribed to: everything that shows messages agrees on it.

A real broker's audit feed is recorded, and given to what draws it: `mb trace`, `mb top` and the
page.  The broker's own metrics have to say the same.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import pytest

import mb_broker
from mb_client import Broker, MessageBrokerClient, NoRouteFoundError
from mb_tools.audit import read_event
from mb_tools.exchange_trees import TreeBuilder
from mb_tools.top.model import FEED, Audit, Model

pytestmark = pytest.mark.anyio

PAGE = Path(mb_broker.__file__).parent / "page"

STATUSES = """
import { Trace } from "./trace.js";
import { readFileSync } from "node:fs";

const trace = new Trace(() => {});
for (const text of JSON.parse(readFileSync(0))) trace.take(text);
console.log(JSON.stringify([...trace.roots()].map(({ topic, status }) => [topic, status])));
"""

# Two of the publications reach nobody: one is to be confirmed, and one is not.
TOPICS = ["heard", "unheard", "unheard.confirmed", "nobody.answers"]
EXPECTED = ["delivered", "unheard", "unheard", "failed"]


@pytest.fixture
async def recorded() -> tuple[list[bytes], dict[str, Any]]:
    """The audit feed of these messages, and the broker's metrics after them."""
    async with (
        Broker("memory://") as broker,
        MessageBrokerClient(broker.url) as watcher,
        MessageBrokerClient(broker.url) as client,
        watcher.subscribe(FEED) as events,
        watcher.subscribe("heard"),
    ):
        await client.publish("heard", {}, confirm=True)
        await client.publish("unheard", {})
        with suppress(NoRouteFoundError):
            await client.publish("unheard.confirmed", {}, confirm=True)
        with suppress(NoRouteFoundError):
            await client.request("nobody.answers", {})
        metrics = (await client.request("system.metrics", {})).payload["metrics"]
        raw: list[bytes] = []
        with anyio.fail_after(10):
            async for event in events:
                raw.append(event.raw_payload)
                if event.payload["message"]["header"]["topic"] == "system.metrics":
                    break
        return raw, metrics


async def test_the_metrics_count_it_as_dropped(
    recorded: tuple[list[bytes], dict[str, Any]],
) -> None:
    _, metrics = recorded
    counts = {name: value for name, value in metrics.items() if name.startswith("router.publish")}
    assert counts["router.publish.count.dropped"] == 2
    assert counts["router.publish.count.error"] == 0


async def test_mb_trace_shows_it_as_unheard_and_not_as_failed(
    recorded: tuple[list[bytes], dict[str, Any]],
) -> None:
    builder = TreeBuilder()
    for raw in recorded[0]:
        event = read_event(raw)
        assert event is not None
        builder.take(event, 0.0)
    roots = builder.take_finished(60.0)
    assert [root.exchange.topic for root in roots] == TOPICS
    assert [root.exchange.outcome.value for root in roots] == EXPECTED
    assert [root.failed for root in roots] == [False, False, False, True]


async def test_mb_top_counts_it_as_unheard_and_not_as_an_error(
    recorded: tuple[list[bytes], dict[str, Any]],
) -> None:
    model = Model()
    model.set_audit(Audit.ON)
    for raw in recorded[0]:
        model.take_event(raw, 0.0)
    topics = list(model.topics(0.0))
    assert [row.topic for row in topics] == TOPICS
    assert [row.unheard for row in topics] == [0, 1, 1, 0]
    assert [row.errors for row in topics] == [0, 0, 0, 1]
    assert [row.topic for row in model.errors()] == ["nobody.answers"]


async def test_the_page_shows_it_as_unheard_and_not_as_failed(
    recorded: tuple[list[bytes], dict[str, Any]],
) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    feed = json.dumps([raw.decode() for raw in recorded[0]])
    command = [node, "--input-type=module", "--eval", STATUSES]
    with anyio.fail_after(60):
        done = await anyio.run_process(command, input=feed.encode(), cwd=PAGE)
    statuses = dict(json.loads(done.stdout))
    assert {topic: statuses[topic] for topic in TOPICS} == {
        "heard": "sent",
        "unheard": "unheard",
        "unheard.confirmed": "unheard",
        "nobody.answers": "failed",
    }
    assert Counter(statuses.values())["failed"] == 1
