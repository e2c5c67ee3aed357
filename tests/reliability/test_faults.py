"""What a client promises, kept through each fault that a network can have.

Every request ends in time; what was confirmed has arrived once, what was reported as unsent not
at all; registration and subscriptions come back; nothing remains at the end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from mb_testing.proxy import (
    HALF_OPEN,
    NORMAL,
    STALLED,
    Conditions,
    Cut,
    Direction,
    Proxy,
)

from .scene import Scene, scene

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("nothing_remains")]

UP, DOWN = Direction.UP, Direction.DOWN
# Milliseconds of silence after which the client asks for a sign of life.
HEARTBEAT = 120


@dataclass(frozen=True, slots=True)
class Fault:
    """`silent`: it is noticed by its silence alone, and the broker keeps the old connection."""

    name: str
    strike: Callable[[Proxy], object]
    silent: bool = False


def existing(conditions: Conditions, *directions: Direction) -> Callable[[Proxy], object]:
    """A fault of the connections that exist when it strikes."""
    return lambda proxy: proxy.set(conditions, *directions, connections="existing")


BREAKING = [
    Fault("reset", lambda proxy: proxy.cut(Cut.RESET)),
    Fault("orderly-end", lambda proxy: proxy.cut(Cut.ORDERLY)),
    Fault("garbage-down", lambda proxy: proxy.inject(b"\xff" * 64, DOWN)),
    Fault("garbage-up", lambda proxy: proxy.inject(b"\xff" * 64, UP)),
    Fault("swapped-down", existing(Conditions(swap=True), DOWN)),
    Fault("swapped-up", existing(Conditions(swap=True), UP)),
    Fault("cut-in-down", existing(Conditions(cut_after=3), DOWN)),
    Fault("cut-in-up", existing(Conditions(cut_after=3), UP)),
]
SILENT = [
    Fault("stalled", existing(STALLED), silent=True),
    Fault("half-open", existing(HALF_OPEN), silent=True),
    Fault("stalled-down", existing(STALLED, DOWN), silent=True),
]
HARMLESS = [
    Fault("delay", lambda proxy: proxy.set(Conditions(delay=30))),
    Fault("delay-down", lambda proxy: proxy.set(Conditions(delay=60), DOWN)),
    Fault("one-byte-at-a-time", lambda proxy: proxy.set(Conditions(chunk=1))),
]

# The transports differ in how they find out that bytes are wrong, and in how they end.
BY_WIRE = [
    ("tcp", *BREAKING),
    ("ws", *(f for f in BREAKING if f.name in ("orderly-end", "garbage-down", "garbage-up"))),
    ("tls", *(f for f in BREAKING if f.name in ("reset", "orderly-end", "garbage-down"))),
]


def over(*table: Any) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        ("scheme", "fault"),
        [
            pytest.param(scheme, fault, id=f"{scheme}-{fault.name}")
            for scheme, *faults in table
            for fault in faults
        ],
    )


def contexts(scheme: str, certificates: Any) -> dict[str, Any]:
    if scheme not in ("tls", "wss"):
        return {}
    return {
        "server_context": certificates.server(),
        "client_context": certificates.client(),
    }


async def strike_and_recover(stage: Scene, strike: Callable[[Proxy], object]) -> None:
    """Hit the connection in the middle of its traffic, and see it come back."""
    async with stage.traffic():
        await stage.flows()
        strike(stage.proxy)
        await stage.connects.reaches(2, "the client is connected")
        stage.proxy.set(NORMAL, connections="new")
        # The network is back: the old connection, of which the broker may know, with it.
        while stage.proxy.stats.open > 1:
            stage.proxy.cut(Cut.RESET, oldest=1)
            await stage.proxy.until(lambda stats: stats.open == 1)
        await stage.flows()


@over(*BY_WIRE)
async def test_a_connection_that_breaks_comes_back(
    scheme: str, fault: Fault, certificates: Any
) -> None:
    async with scene(scheme, **contexts(scheme, certificates)) as stage:
        await strike_and_recover(stage, fault.strike)
        await stage.works_both_ways()
        await stage.check()
        assert stage.proxy.stats.accepted == 2
        assert stage.losses.count == 1


@over(("tcp", *SILENT), ("ws", SILENT[1]), ("tls", SILENT[1]))
async def test_a_connection_that_falls_silent_is_given_up_and_comes_back(
    scheme: str, fault: Fault, certificates: Any
) -> None:
    async with scene(
        scheme, heartbeat_interval=HEARTBEAT, **contexts(scheme, certificates)
    ) as stage:
        await strike_and_recover(stage, fault.strike)
        await stage.works_both_ways()
        await stage.check()


@over(("tcp", *HARMLESS), ("ws", HARMLESS[2]), ("tls", HARMLESS[2]))
async def test_what_only_slows_a_connection_down_costs_nothing_else(
    scheme: str, fault: Fault, certificates: Any
) -> None:
    async with scene(scheme, heartbeat_interval=1000, **contexts(scheme, certificates)) as stage:
        async with stage.traffic(limit=5000):
            await stage.flows()
            fault.strike(stage.proxy)
            await stage.flows()
            await stage.flows()
        await stage.works_both_ways()
        await stage.check()
        assert (stage.connects.count, stage.losses.count) == (1, 0)
        assert stage.by_far.confirmed == stage.by_far.attempts.keys()
        assert not stage.far_asks.errors
        assert not stage.near_asks.errors


@pytest.mark.parametrize("how", Cut, ids=lambda how: how.name)
async def test_a_broker_that_refuses_for_a_while_is_tried_until_it_is_back(how: Cut) -> None:
    async with scene() as stage:
        async with stage.traffic():
            await stage.flows()
            stage.proxy.refuse()
            stage.proxy.cut(how)
            # Each failed round is reported.
            await stage.failures.reaches(3, "a failed try")
            assert not stage.far.connected
            stage.proxy.accept()
            await stage.connects.reaches(2, "the client is connected")
            await stage.flows()
        await stage.works_both_ways()
        await stage.check()


async def test_a_broker_that_accepts_and_says_nothing_is_given_up_and_tried_again() -> None:
    async with scene(connect_timeout=150) as stage:
        async with stage.traffic():
            await stage.flows()
            stage.proxy.hang()
            stage.proxy.cut(Cut.RESET)
            await stage.proxy.until(lambda stats: stats.accepted >= 4)
            assert not stage.far.connected
            stage.proxy.accept()
            await stage.connects.reaches(2, "the client is connected")
            await stage.flows()
        await stage.works_both_ways()
        await stage.check()


async def test_a_connection_that_breaks_while_it_is_restored_is_tried_again() -> None:
    async with scene() as stage:
        # A client has three times as much to tell: none of these lives to be connected.
        sizes = iter([5, 60, 100, 150, 200])

        def cut_early() -> Conditions:
            return Conditions(cut_after=next(sizes, None))

        async with stage.traffic():
            await stage.flows()
            stage.proxy.set(cut_early, UP, connections="new")
            stage.proxy.cut(Cut.RESET)
            await stage.connects.reaches(2, "the client is connected")
            await stage.flows()
        await stage.works_both_ways()
        await stage.check()
        assert stage.proxy.stats.accepted == 1 + 5 + 1


async def test_a_client_that_is_not_heard_any_more_is_dropped_and_comes_back() -> None:
    """Only one direction is broken: the client hears the broker all the time."""
    async with scene(broker={"heartbeat_after": 200, "drop_after": 600}) as stage:
        async with stage.traffic():
            await stage.flows()
            stage.proxy.set(STALLED, UP, connections="existing")
            await stage.connects.reaches(2, "the client is connected")
            await stage.flows()
        await stage.works_both_ways()
        await stage.check()
