"""Ctrl-C and sys.exit() in user code that the connection's own tasks run."""

from __future__ import annotations

from typing import Any

import pytest

from mb_core.client.interrupt import pass_interrupt_on, uninterrupted


@pytest.mark.anyio
async def test_only_interrupts_are_passed_on() -> None:
    errors: list[BaseException] = [ExceptionGroup("two", [ValueError()]), SystemExit(1)]
    for error in errors:
        with pytest.raises(type(error)) as raised:
            pass_interrupt_on(error)
        assert raised.value is error


@pytest.mark.anyio
async def test_a_task_that_is_not_to_be_interrupted_runs_all_the_same() -> None:
    ran: list[Any] = []

    async def function() -> None:
        ran.append(1)

    await uninterrupted(function)()
    assert ran == [1]
