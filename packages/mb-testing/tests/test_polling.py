"""until() and wait_until(): facts that nothing notifies of."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest

from mb_testing import until, wait_until


@pytest.mark.anyio
async def test_the_value_that_ends_the_wait_is_returned() -> None:
    values = iter([0, None, "", "there", "late"])
    assert await until(lambda: next(values)) == "there"
    assert wait_until(lambda: next(values)) == "late"


@pytest.mark.anyio
async def test_an_async_fact_is_awaited() -> None:
    values = iter([False, False, True])

    async def fact() -> bool:
        await anyio.lowlevel.checkpoint()
        return next(values)

    assert await until(fact) is True


@pytest.mark.anyio
async def test_other_tasks_go_on_meanwhile() -> None:
    happened = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(until, happened.is_set)
        await anyio.wait_all_tasks_blocked()
        happened.set()


@pytest.mark.anyio
async def test_a_wait_in_vain_is_a_timeout() -> None:
    text = "what was waited for did not happen within 0.01 s"
    with pytest.raises(TimeoutError, match=text):
        await until(lambda: False, timeout=0.01)
    with pytest.raises(TimeoutError, match=text):
        wait_until(lambda: False, timeout=0.01)


@pytest.mark.anyio
@pytest.mark.virtual_clock
async def test_the_time_limit_is_of_real_time() -> None:
    await until(lambda: anyio.current_time() >= 60)
