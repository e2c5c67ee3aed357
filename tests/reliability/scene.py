"""A broker, a client behind the proxy, and one beside it, talking to each other both ways."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import anyio

from mb_broker import RunningBroker
from mb_client import MBError, MessageBrokerClient
from mb_testing.proxy import Proxy

from .brokers import thread_broker
from .traffic import (
    ANY_ABSENCE,
    ANY_LOSS,
    Asked,
    Published,
    Received,
    Signal,
    keep_asking,
    keep_publishing,
)

__all__ = ["FAST", "Scene", "scene"]

FAST: dict[str, Any] = {
    "connect_timeout": 1000,
    "close_timeout": 300,
    "drain_timeout": 300,
    "backoff_min": 1,
    "backoff_max": 20,
    "heartbeat_interval": None,
}
"""Options of a client that waits for nothing long; in milliseconds."""

REQUEST_LIMIT = 400
PUBLISH_LIMIT = 1500


@dataclass
class Scene:
    """`far` is behind the proxy and has all the trouble; `near` has none."""

    broker: RunningBroker
    proxy: Proxy
    near: MessageBrokerClient
    far: MessageBrokerClient
    connects: Signal = field(default_factory=Signal)
    losses: Signal = field(default_factory=Signal)
    errors: list[Exception] = field(default_factory=list)
    failures: Signal = field(default_factory=Signal)
    at_near: Received = field(default_factory=Received)
    at_far: Received = field(default_factory=Received)
    by_far: Published = field(default_factory=Published)
    by_near: Published = field(default_factory=Published)
    far_asks: Asked = field(default_factory=Asked)
    far_asks_again: Asked = field(default_factory=Asked)
    near_asks: Asked = field(default_factory=Asked)

    def __post_init__(self) -> None:
        self.far.on_connect(self.connects)
        self.far.on_disconnect(self.losses)
        self.far.on_error(self._fail)

    def _fail(self, error: Exception) -> None:
        self.errors.append(error)
        self.failures()

    async def subscribe(self) -> None:
        """Have both listen to each other, and answer each other."""
        await self.near.subscribe("to.near", handler=self.at_near.take)
        await self.near.subscribe("near.echo", action="request", handler=lambda m: m.payload)
        await self.far.register_service("far", "the client behind the proxy")
        await self.far.subscribe("to.far", handler=self.at_far.take)
        await self.far.subscribe("far.echo", action="request", handler=lambda m: m.payload)

    @asynccontextmanager
    async def traffic(self, *, limit: int = REQUEST_LIMIT) -> AsyncIterator[None]:
        """Talk both ways while the block lasts; afterwards nothing is on its way."""
        stop = anyio.Event()
        asking = partial(keep_asking, timeout=limit)
        publishing = partial(keep_publishing, timeout=PUBLISH_LIMIT)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(asking, self.far, "near.echo", self.far_asks, stop)
            again = partial(asking, retry=True)
            tasks.start_soon(again, self.far, "near.echo", self.far_asks_again, stop)
            tasks.start_soon(asking, self.near, "far.echo", self.near_asks, stop)
            tasks.start_soon(publishing, self.far, "to.near", self.by_far, stop)
            tasks.start_soon(publishing, self.near, "to.far", self.by_near, stop)
            try:
                yield
            finally:
                stop.set()

    async def flows(self) -> None:
        """Wait until messages of every kind get through again."""
        for what, signal in (
            ("a request is answered", self.far_asks.answers),
            ("a request that may be sent twice is answered", self.far_asks_again.answers),
            ("a request to the client is answered", self.near_asks.answers),
            ("a publication arrives", self.at_near.news),
            ("a publication to the client arrives", self.at_far.news),
        ):
            # One may have been on its way already.
            await signal.reaches(signal.count + 2, what)

    async def works_both_ways(self) -> None:
        """Whatever has happened: what is published and asked now arrives."""
        assert await self.by_near.try_once(self.near, "to.far", -1, timeout=5000)
        await self.at_far.has(-1)
        assert (await self.near.request("far.echo", "hello", timeout=5000)).payload == "hello"
        assert await self.by_far.try_once(self.far, "to.near", -2, timeout=5000)
        await self.at_near.has(-2)
        assert (await self.far.request("near.echo", "hello", timeout=5000)).payload == "hello"
        found: Any = (await self.near.request("system.service.list", {})).payload
        assert [one["name"] for one in found["services"]].count("far") == 1

    async def check(self) -> None:
        """The books are in order; to be called when all connections are well."""
        await self.by_far.check(self.at_near)
        # `far` may have been away when a message to it was passed on; none comes twice.
        assert set(self.at_far.numbers.values()) <= {1}
        self.far_asks.check(*ANY_LOSS)
        self.far_asks_again.check(*ANY_LOSS)
        assert not self.far_asks_again.early
        self.near_asks.check(*ANY_ABSENCE)
        assert self.connects.count == self.losses.count + 1
        for client in (self.far, self.near):
            stats = client.stats()
            assert stats.connected
            assert (stats.pending, stats.buffered, stats.buffered_bytes) == (0, 0, 0)
        assert all(isinstance(error, MBError) for error in self.errors), self.errors


@asynccontextmanager
async def scene(
    scheme: str = "tcp",
    *,
    server_context: ssl.SSLContext | None = None,
    client_context: ssl.SSLContext | None = None,
    broker: dict[str, Any] | None = None,
    **options: Any,
) -> AsyncIterator[Scene]:
    """A Scene with both clients connected; `options` are those of `far`, FAST where not named."""
    with (
        thread_broker(scheme, ssl_context=server_context, **(broker or {})) as started,
        Proxy(started.url) as proxy,
    ):
        tls: dict[str, Any] = {"ssl_context": client_context}
        near = MessageBrokerClient(started.url, **FAST, **tls)
        far = MessageBrokerClient(proxy.url, **FAST | options, **tls)
        made = Scene(started, proxy, near, far)
        async with near, far:
            await made.subscribe()
            yield made
        for client in (near, far):
            stats = client.stats()
            assert not stats.connected
            assert (stats.pending, stats.buffered, stats.buffered_bytes) == (0, 0, 0)
