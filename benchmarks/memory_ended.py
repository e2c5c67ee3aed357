"""Things that are made and ended, over and over, on every path on which they end: nothing stays.

Each case gives the work of making and ending `EACH` of a thing: in a Session and a Router that
are wired together in memory, or the whole way, through a client and a broker over memory://.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from contextlib import AsyncExitStack

from mb_broker import Broker, Router
from mb_broker.registry import Service
from mb_core import Message, MessageBrokerClient, RequestTimeoutError
from mb_core.header import Action
from mb_core.session import (
    Initialized,
    PendingRequest,
    RequestsReceived,
    SendNow,
    Session,
    SubscriptionEntry,
)

from .growth_whole import Round, whole
from .growth_work import Work, topic, wildcard
from .workload import DOCUMENT

__all__ = ["EACH", "ENDED"]

EACH = 100


class _Pair:
    """A Session and a Router, and a clock; the Session answers its own requests."""

    def __init__(self) -> None:
        self.now = 0.0
        self.router = Router()
        self.session = Session()
        self.service: Service
        self.connect()

    def connect(self) -> None:
        self.session.link_up()
        self.service = self.router.connect(self.now)
        self.exchange()

    def lose(self) -> None:
        self.session.link_lost(None)
        self.router.disconnect(self.service, self.now)

    def subscribe(self, pattern: str, action: Action = Action.PUBLISH) -> SubscriptionEntry:
        entry = SubscriptionEntry(pattern, action, 1, None)
        self.ask(self.session.subscribe(entry, now=self.now, timeout=1000))
        return entry

    def ask(self, request: PendingRequest) -> None:
        self.exchange(request.message)

    def exchange(self, *messages: bytes) -> None:
        """Carry messages to the Router, and what comes of them to and fro until all is said."""
        said = list(messages)
        if said:
            self.router.receive(self.service, said, self.now)
        while received := self._output():
            if said := self._act(received):
                self.router.receive(self.service, said, self.now)

    def _output(self) -> list[bytes]:
        received: list[bytes] = []
        for service in self.router.take_output():
            if service is self.service:
                received += service.outbox
            service.outbox = []
        return received

    def _act(self, received: list[bytes]) -> list[bytes]:
        said = []
        for event in self.session.receive(received):
            if isinstance(event, Initialized):
                restoring = self.session.restore(now=self.now, timeout=1000)
                self.exchange(*(request.message for request in restoring))
                self.session.restored(self.now)
            elif isinstance(event, SendNow):
                said.append(event.message)
            elif isinstance(event, RequestsReceived):
                said += [self.session.respond(m, m.payload) for m in event.messages]
        return said


# In the machines


def requests() -> Work:
    """A third is answered, a third is cancelled, a third runs into its time limit."""
    pair = _Pair()
    session, router = pair.session, pair.router
    pair.subscribe("bench.ask", Action.REQUEST)
    router.registry.subscribe(router.connect(0.0), Action.REQUEST, "bench.silent", 1)

    def run() -> None:
        for number in range(EACH):
            pair.now += 0.01
            silent = number % 3 == 2
            asked = "bench.silent" if silent else "bench.ask"
            request = session.request(asked, DOCUMENT, now=pair.now, timeout=5)
            if number % 3 == 1:
                session.cancel(request)
            pair.ask(request)
            if silent:
                router.handle_deadline(pair.now + 0.005)
                pair.exchange()
        assert session.pending == router.outstanding == 0

    return Work(run, EACH)


def subscriptions() -> Work:
    """Each has a topic of its own, exact or with a wildcard, and gets a message."""
    pair, numbers = _Pair(), itertools.count()
    session = pair.session

    def run() -> None:
        for number in itertools.islice(numbers, EACH):
            entry = pair.subscribe((topic, wildcard)[number % 2](number))
            message = session.publish(topic(number), DOCUMENT)
            assert message is not None
            pair.exchange(message)
            pair.ask(session.unsubscribe(entry, now=pair.now, timeout=1000))
            session.remove(entry)
        assert not list(session.subscriptions)
        assert not list(pair.router.registry.subscriptions())

    return Work(run, EACH)


def connections() -> Work:
    """Each restores a subscription, and is lost while a request is pending."""
    pair = _Pair()
    session, router = pair.session, pair.router
    pair.subscribe("bench.events")
    router.registry.subscribe(router.connect(0.0), Action.REQUEST, "bench.silent", 1)

    def run() -> None:
        for _ in range(EACH):
            pair.now += 0.01
            pair.ask(session.request("bench.silent", DOCUMENT, now=pair.now, timeout=5))
            pair.lose()
            pair.connect()
            router.handle_deadline(pair.now)
        router.handle_deadline(pair.now + 1)
        assert session.pending == router.outstanding == 0
        assert len(router.registry.services) == 2

    return Work(run, EACH)


# The whole way


def whole_requests() -> Work:
    """As above; 64 at a time."""

    async def prepare(stack: AsyncExitStack) -> Round:
        broker = await stack.enter_async_context(Broker("memory://"))
        client = await stack.enter_async_context(MessageBrokerClient(broker.url))
        service = await stack.enter_async_context(MessageBrokerClient(broker.url))

        over = asyncio.Event()

        async def answer_too_late(message: Message) -> None:
            await over.wait()

        service.on_error(_ignore)  # what it hears then
        await service.subscribe("bench.ask", action="request", handler=lambda m: m.payload)
        await service.subscribe(
            "bench.late", action="request", handler=answer_too_late, concurrency=EACH
        )

        async def ask(number: int) -> None:
            if number % 3 == 2:
                try:
                    await client.request("bench.late", DOCUMENT, timeout=1)
                except RequestTimeoutError:
                    return
                raise AssertionError("answered in time")
            asking = asyncio.ensure_future(client.request("bench.ask", DOCUMENT))
            if number % 3 == 1:
                await asyncio.sleep(0)
                asking.cancel()
            await asyncio.wait([asking])

        async def work(numbers: range) -> None:
            for number in numbers:
                await ask(number)

        async def run() -> None:
            over.clear()
            await asyncio.gather(*(work(range(first, EACH, 64)) for first in range(64)))
            over.set()
            await client.request("bench.ask", DOCUMENT)  # the handlers go on meanwhile

        return run

    return whole(prepare, EACH)


def whole_subscriptions() -> Work:
    """Each has a topic of its own, and its handler gets a message."""
    numbers = itertools.count()

    async def prepare(stack: AsyncExitStack) -> Round:
        broker = await stack.enter_async_context(Broker("memory://"))
        client = await stack.enter_async_context(MessageBrokerClient(broker.url))

        async def run() -> None:
            for number in itertools.islice(numbers, EACH):
                handled = asyncio.Event()
                subscribed = await client.subscribe(topic(number), handler=_setter(handled))
                await client.publish(topic(number), DOCUMENT)
                await handled.wait()
                await subscribed.unsubscribe()

        return run

    return whole(prepare, EACH)


def whole_connections() -> Work:
    """Each subscribes and asks, and is closed."""

    async def prepare(stack: AsyncExitStack) -> Round:
        broker = await stack.enter_async_context(Broker("memory://"))
        service = await stack.enter_async_context(MessageBrokerClient(broker.url))
        await service.subscribe("bench.ask", action="request", handler=lambda m: m.payload)

        async def run() -> None:
            for _ in range(EACH):
                async with MessageBrokerClient(broker.url) as client:
                    await client.subscribe("bench.events", handler=_ignore)
                    await client.request("bench.ask", DOCUMENT)

        return run

    return whole(prepare, EACH)


def _setter(event: asyncio.Event) -> Callable[[Message], None]:
    return lambda message: event.set()


def _ignore(_: object) -> None:
    pass


ENDED: dict[str, Callable[[], Work]] = {
    "machines, requests": requests,
    "machines, subscriptions": subscriptions,
    "machines, connections": connections,
    "memory://, requests": whole_requests,
    "memory://, subscriptions": whole_subscriptions,
    "memory://, connections": whole_connections,
}
