"""Traffic through a fault, with books kept of what was promised for each message."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import anyio

from mb_client import (
    ConnectionLost,
    MBError,
    Message,
    MessageBrokerClient,
    NoRouteFoundError,
    RequestTimeoutError,
    ServiceUnavailableError,
)

__all__ = [
    "ANY_ABSENCE",
    "ANY_LOSS",
    "MARGIN",
    "PATIENCE",
    "Asked",
    "Published",
    "Received",
    "Signal",
    "keep_asking",
    "keep_publishing",
]

# Seconds after which what a test waits for counts as never coming.
PATIENCE = 60.0
# How much longer than its time limit a request may take, in seconds: the client waits a second
# for the broker's own word on it; the rest is for machines that are busy.
MARGIN = 1.0 + 1.5
# Seconds between two messages of one sender: traffic, not load.
_PAUSE = 0.003


class Signal:
    """Something that happens again and again, and can be waited for; of one event loop."""

    def __init__(self) -> None:
        self.count = 0
        self._next = anyio.Event()

    def __call__(self, *args: object) -> None:
        self.count += 1
        self._next.set()
        self._next = anyio.Event()

    async def until(self, fact: Callable[[], bool], what: str) -> None:
        """Wait until `fact` holds; it is looked at whenever this happens."""
        with anyio.move_on_after(PATIENCE):
            while not fact():
                await self._next.wait()
            return
        raise TimeoutError(f"not within {PATIENCE} s: {what}")

    async def reaches(self, count: int, what: str) -> None:
        await self.until(lambda: self.count >= count, f"{what} #{count}, only #{self.count}")


class Received:
    """The numbers that a subscription has received, by how often; its handler is `take`.

    A message is a number, or an object with a number `n`.
    """

    def __init__(self) -> None:
        self.numbers: Counter[int] = Counter()
        self.order: list[int] = []
        self.news = Signal()

    def take(self, message: Message) -> None:
        payload = message.payload
        number: int = payload["n"] if isinstance(payload, dict) else payload
        self.numbers[number] += 1
        self.order.append(number)
        self.news()

    async def has(self, *numbers: int) -> None:
        wanted = set(numbers)
        await self.news.until(
            lambda: wanted <= self.numbers.keys(), f"numbers {sorted(wanted)[:5]}... are received"
        )


@dataclass
class Published:
    """The outcome of each number for its publisher, and how often it was tried."""

    attempts: Counter[int] = field(default_factory=Counter)
    confirmed: set[int] = field(default_factory=set)
    # Reported as never sent.
    unsent: set[int] = field(default_factory=set)
    # Reported as perhaps sent.
    unsure: set[int] = field(default_factory=set)
    errors: Counter[type[MBError]] = field(default_factory=Counter)

    async def try_once(
        self,
        client: MessageBrokerClient,
        topic: str,
        number: int,
        *,
        timeout: int,
        pad: str | None = None,
    ) -> bool:
        """Publish with confirmation, and write down what came of it; whether it was confirmed."""
        payload = number if pad is None else {"n": number, "pad": pad}
        self.attempts[number] += 1
        self.unsent.discard(number)
        try:
            await client.publish(topic, payload, confirm=True, timeout=timeout)
        except MBError as error:
            self.errors[type(error)] += 1
            unsent = isinstance(error, ConnectionLost) and not error.sent
            (self.unsent if unsent else self.unsure).add(number)
            if unsent:
                self.attempts[number] -= 1
            return False
        self.confirmed.add(number)
        return True

    async def check(self, received: Received) -> None:
        """All that was confirmed has arrived, and nothing more often than it may."""
        await received.has(*self.confirmed)
        for number, times in received.numbers.items():
            assert times <= self.attempts[number], f"{number} came {times} times"
        for number in self.confirmed - self.unsure:
            assert received.numbers[number] == 1
        for number in self.unsent - self.unsure - self.confirmed:
            assert received.numbers[number] == 0, f"{number} had not been sent, and came"


@dataclass
class Asked:
    """What became of the requests of one sender."""

    answers: Signal = field(default_factory=Signal)
    errors: Counter[type[MBError]] = field(default_factory=Counter)
    # Those that came before the time limit was over.
    early: Counter[type[MBError]] = field(default_factory=Counter)
    # Seconds by which the slowest was over its time limit.
    latest: float = float("-inf")

    def check(self, *allowed: type[MBError]) -> None:
        """Each ended in time, and in no other way than `allowed`."""
        assert self.answers.count, "not one was answered"
        assert self.latest < MARGIN, f"one ended {self.latest:.3f} s behind its time limit"
        assert set(self.errors) <= set(allowed), self.errors


ANY_LOSS = (ConnectionLost, RequestTimeoutError)
"""How requests of the client may end whose connection has a fault."""

ANY_ABSENCE = (RequestTimeoutError, ServiceUnavailableError, NoRouteFoundError)
"""How requests may end to a service whose connection has a fault."""


async def keep_asking(
    client: MessageBrokerClient,
    topic: str,
    asked: Asked,
    stop: anyio.Event,
    *,
    timeout: int,
    retry: bool = False,
) -> None:
    """Ask again and again for the echo of a number."""
    number = 0
    while not stop.is_set():
        number += 1
        began = time.monotonic()
        try:
            answer = await client.request(topic, number, timeout=timeout, retry=retry)
        except MBError as error:
            asked.errors[type(error)] += 1
        else:
            assert answer.payload == number
            asked.answers()
        asked.latest = max(asked.latest, time.monotonic() - began - timeout / 1000)
        await anyio.sleep(_PAUSE)


async def keep_publishing(
    client: MessageBrokerClient,
    topic: str,
    published: Published,
    stop: anyio.Event,
    *,
    timeout: int,
) -> None:
    """Publish one number after the other, each once."""
    number = 0
    while not stop.is_set():
        number += 1
        await published.try_once(client, topic, number, timeout=timeout)
        await anyio.sleep(_PAUSE)
