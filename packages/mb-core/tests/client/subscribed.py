"""What the tests of subscriptions share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from mb_core import (
    Message,
    Subscription,
)
from mb_core.client.callbacks import Callbacks, Handlers
from mb_core.client.queue import MessageQueue
from mb_core.client.runner import Runner
from mb_core.client.subscription import Consumer
from mb_core.header import Action
from mb_core.link import Home, current_backend
from mb_core.session import SubscriptionEntry


async def collect(events: Subscription, into: list[Any]) -> None:
    async for message in events:
        into.append(message.payload)  # noqa: PERF401


class Driver:
    """Confirms subscriptions as scripted, and records the requests."""

    def __init__(self) -> None:
        self.backend = current_backend()
        self.home = Home(self.backend)
        self.asked: list[tuple[str, SubscriptionEntry]] = []
        self.answers: list[tuple[Message, Any]] = []
        self.dropped = 0

    async def subscribe(self, entry: SubscriptionEntry) -> None:
        self.asked.append(("subscribe", entry))
        await self.confirm(entry)

    async def confirm(self, entry: SubscriptionEntry) -> None: ...

    async def unsubscribe(self, entries: Iterable[SubscriptionEntry]) -> None:
        self.asked += [("unsubscribe", entry) for entry in entries]

    def unsubscribe_nowait(self, entry: SubscriptionEntry) -> None:
        self.asked.append(("unsubscribe_nowait", entry))

    def spawn_consumer(self, function: Callable[[], Any]) -> None:
        raise AssertionError("nothing is consumed")

    def count_dropped(self, count: int) -> None:
        self.dropped += count

    # The Responder

    deadline = None

    async def respond(self, message: Message, payload: Any) -> None:
        raise AssertionError("who refuses does not wait")

    def answer_now(self, message: Message, payload: Any) -> None:
        message.responder = None
        self.answers.append((message, payload))


def subscription(driver: Driver, queue: MessageQueue) -> Subscription:
    async def connected() -> Driver:
        return driver

    consumer = Consumer(
        Callbacks(Handlers()),
        "a.b",
        (Action.PUBLISH, Action.REQUEST),
        priority=1,
        handler=None,
        concurrency=1,
        queue=queue,
        make_runner=Runner,
    )
    return Subscription(connected, consumer)
