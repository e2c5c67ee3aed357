"""One timer for many deadlines, driving a machine that keeps them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest

from mb_core.link import DeadlineTimer, current_backend

pytestmark = pytest.mark.anyio

FAR = 3600.0


class Machine:
    """Keeps deadlines by name; at each, it fires."""

    def __init__(self) -> None:
        self.deadlines: dict[str, float] = {}
        self.fired: list[str] = []
        self.calls = 0
        self._news = anyio.Event()

    def next_deadline(self) -> float | None:
        return min(self.deadlines.values(), default=None)

    def handle(self, now: float) -> None:
        self.calls += 1
        due = sorted((at, name) for name, at in self.deadlines.items() if at <= now)
        for _, name in due:
            del self.deadlines[name]
            self.fired.append(name)
        self._news.set()

    def add(self, name: str, seconds: float) -> None:
        self.deadlines[name] = anyio.current_time() + seconds

    async def until_fired(self, count: int) -> list[str]:
        while len(self.fired) < count:
            self._news = anyio.Event()
            await self._news.wait()
        return self.fired


@asynccontextmanager
async def running(machine: Machine) -> AsyncIterator[DeadlineTimer]:
    timer = DeadlineTimer(current_backend(), machine.next_deadline, machine.handle)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(timer.run)
            await anyio.wait_all_tasks_blocked()
            yield timer
            tasks.cancel_scope.cancel()


async def test_a_deadline_fires_and_not_before_its_time() -> None:
    machine = Machine()
    async with running(machine) as timer:
        machine.add("one", 0.05)
        due = machine.deadlines["one"]
        timer.reschedule()
        await machine.until_fired(1)
        assert anyio.current_time() >= due


async def test_deadlines_that_were_there_before_it_ran_fire() -> None:
    machine = Machine()
    machine.add("due", -1)
    machine.add("soon", 0.01)
    async with running(machine):
        assert await machine.until_fired(2) == ["due", "soon"]


async def test_an_earlier_deadline_moves_the_timer() -> None:
    machine = Machine()
    machine.add("far", FAR)
    async with running(machine) as timer:
        machine.add("near", 0.01)
        timer.reschedule()
        assert await machine.until_fired(1) == ["near"]
        machine.add("nearer", 0.01)
        timer.reschedule()
        assert await machine.until_fired(2) == ["near", "nearer"]


async def test_a_deadline_that_has_passed_fires_at_once() -> None:
    machine = Machine()
    async with running(machine) as timer:
        machine.add("late", -FAR)
        timer.reschedule()
        assert await machine.until_fired(1) == ["late"]


async def test_many_deadlines_fire_in_order() -> None:
    machine = Machine()
    async with running(machine) as timer:
        start = anyio.current_time()
        for n in reversed(range(200)):
            machine.deadlines[f"{n:03}"] = start + n / 10_000
            timer.reschedule()
        assert await machine.until_fired(200) == [f"{n:03}" for n in range(200)]


async def test_a_later_deadline_or_none_wakes_nobody() -> None:
    machine = Machine()
    async with running(machine) as timer:
        timer.reschedule()
        machine.add("near", FAR)
        timer.reschedule()
        await anyio.wait_all_tasks_blocked()
        calls = machine.calls
        machine.add("later", 2 * FAR)
        timer.reschedule()
        del machine.deadlines["near"]
        timer.reschedule()
        machine.deadlines.clear()
        timer.reschedule()
        await anyio.wait_all_tasks_blocked()
        assert machine.calls == calls


async def test_rescheduling_many_times_in_a_turn_wakes_once() -> None:
    machine = Machine()
    async with running(machine) as timer:
        calls = machine.calls
        for n in range(10):
            machine.add(f"{n}", FAR - n)
            timer.reschedule()
        await anyio.wait_all_tasks_blocked()
        assert machine.calls == calls + 1


async def test_rescheduling_before_it_runs_and_after_it_ended_does_nothing() -> None:
    machine = Machine()
    timer = DeadlineTimer(current_backend(), machine.next_deadline, machine.handle)
    machine.add("one", FAR)
    timer.reschedule()
    assert machine.calls == 0
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(timer.run)
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
    calls = machine.calls
    machine.add("two", 0)
    timer.reschedule()
    await anyio.wait_all_tasks_blocked()
    assert machine.calls == calls
