"""The queue of callbacks by itself."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, field

import anyio
import anyio.lowlevel
import pytest

from mb_core import (
    Message,
    parse_message,
)
from mb_core.client.callbacks import Callbacks, Handlers
from mb_core.link import current_backend
from mb_core.message import handling
from mb_core.user_code import call, failure
from mb_testing import until

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("leaves_nothing")]


async def test_call_takes_plain_and_async_functions() -> None:
    async def answer(number: int) -> int:
        await anyio.lowlevel.checkpoint()
        return number

    class Callable_:  # noqa: N801
        async def __call__(self, number: int) -> int:
            return number

    for function in (answer, Callable_(), lambda number: number, lambda number: answer(number)):
        assert await call(function, 7) == 7
    assert await call(lambda: None) is None


async def test_what_was_posted_before_waits_for_run_and_goes_to_whom_is_there_then() -> None:
    handlers = Handlers()
    callbacks = Callbacks(handlers)
    first: list[int] = []
    second: list[int] = []
    callbacks.register(callbacks.connect, first.append)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            for number in range(3):
                callbacks.post(callbacks.connect, number)
            callbacks.post(callbacks.disconnect, 3)  # of which there are none
            callbacks.register(callbacks.connect, second.append)
            await anyio.wait_all_tasks_blocked()
            assert first == []
            tasks.start_soon(callbacks.run, current_backend())
            await anyio.wait_all_tasks_blocked()
            assert first == second == [0, 1, 2]
            callbacks.post(callbacks.connect, 4)
            callbacks.finish()
    assert first == second == [0, 1, 2, 4]


async def test_run_ends_behind_the_errors_of_the_last_calls() -> None:
    handlers = Handlers()
    callbacks = Callbacks(handlers)
    errors: list[Exception] = []

    async def fail() -> None:
        await anyio.lowlevel.checkpoint()
        raise ValueError("last")

    callbacks.register(callbacks.connect, fail)
    callbacks.register(callbacks.error, errors.append)
    callbacks.post(callbacks.connect)
    callbacks.finish()
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(callbacks.run, current_backend())
            await anyio.wait_all_tasks_blocked()
            callbacks.finish()
    assert [str(error) for error in errors] == ["last"]


@pytest.mark.parametrize("turns", range(5))
async def test_what_a_cancelled_run_has_not_called_is_left_for_the_next(turns: int) -> None:
    """Wherever it is cancelled; a call that had begun is over."""
    handlers = Handlers()
    callbacks = Callbacks(handlers)
    begun: list[int] = []
    got: list[int] = []

    async def handler(number: int) -> None:
        begun.append(number)
        await anyio.lowlevel.checkpoint()
        got.append(number)

    callbacks.register(callbacks.connect, handler)
    for number in range(3):
        callbacks.post(callbacks.connect, number)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(callbacks.run, current_backend())
            for _ in range(turns):
                await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(callbacks.run, current_backend())
            await anyio.wait_all_tasks_blocked()
            callbacks.finish()
    assert begun == [0, 1, 2]
    assert len(got) >= 2


async def test_what_is_due_can_be_called_without_run() -> None:
    handlers = Handlers()
    callbacks = Callbacks(handlers)
    errors: list[Exception] = []
    got: list[int] = []

    async def handler(number: int) -> None:
        await anyio.lowlevel.checkpoint()
        got.append(number)
        if number == 1:
            raise ValueError(number)

    callbacks.register(callbacks.message, handler)
    callbacks.register(callbacks.error, errors.append)
    for number in range(3):
        callbacks.post(callbacks.message, number)
    with anyio.fail_after(5):
        await callbacks.run_due()
    assert got == [0, 1, 2]
    assert [str(error) for error in errors] == ["1"]


async def test_a_handler_that_is_being_called_is_not_called_by_another_task_as_well() -> None:
    handlers = Handlers()
    callbacks = Callbacks(handlers)
    steps: list[str] = []
    go_on = anyio.Event()

    async def handler(number: int) -> None:
        steps.append(f"begin {number}")
        await go_on.wait()
        steps.append(f"end {number}")

    callbacks.register(callbacks.message, handler)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(callbacks.run, current_backend())
            callbacks.post(callbacks.message, 0)
            await anyio.wait_all_tasks_blocked()
            callbacks.post(callbacks.message, 1)
            await callbacks.run_due()  # returns at once: it waits for nobody
            go_on.set()
            await until(lambda: len(steps) == 4)
            callbacks.finish()
    assert steps == ["begin 0", "end 0", "begin 1", "end 1"]


async def test_a_handler_need_not_be_hashable_nor_have_a_name(
    caplog: pytest.LogCaptureFixture,
) -> None:
    @dataclass
    class Handler:
        got: list[int] = field(default_factory=list, repr=False)

        def __call__(self, number: int) -> None:
            self.got.append(number)
            if number == 2:
                raise ValueError("mine")

    handlers = Handlers()
    callbacks = Callbacks(handlers)
    one, two = Handler(), Handler()
    for handler in (one, two):
        callbacks.register(callbacks.connect, handler)
    for number in range(3):
        callbacks.post(callbacks.connect, number)
    with anyio.fail_after(5):
        await callbacks.run_due()
    assert one.got == two.got == [0, 1, 2]
    assert "Handler() failed: mine" in caplog.text


async def test_handlers_that_are_equal_are_called_each() -> None:
    @dataclass(frozen=True)
    class Handler:
        got: list[int] = field(default_factory=list, compare=False)

        def __call__(self, number: int) -> None:
            self.got.append(number)

    handlers = Handlers()
    callbacks = Callbacks(handlers)
    one, two = Handler(), Handler()
    for handler in (one, two):
        callbacks.register(callbacks.connect, handler)
    callbacks.post(callbacks.connect, 1)
    await callbacks.run_due()
    assert (one.got, two.got) == ([1], [1])


async def test_callbacks_are_no_part_of_what_the_handler_works_on_that_has_connected() -> None:
    handlers = Handlers()
    callbacks = Callbacks(handlers)
    seen: list[Message | None] = []
    callbacks.register(callbacks.connect, lambda: seen.append(handling.get()))
    callbacks.post(callbacks.connect)
    message = parse_message("publish:a:1.0.0\n1")
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            handling.set(message)
            tasks.start_soon(callbacks.run, current_backend())
            await anyio.wait_all_tasks_blocked()
            callbacks.finish()
            assert handling.get() is message
            handling.set(None)
    assert seen == [None]


INTERRUPTED = """
import signal, sys, time
import anyio
from mb_broker import Broker
from mb_core import MessageBrokerClient

async def main():
    async with Broker("tcp://127.0.0.1:0") as broker:
        client = MessageBrokerClient(broker.url, close_timeout=20_000)
        await client.connect()
        errors = []
        def interrupt(error):
            if not errors:
                errors.append(error)
                signal.raise_signal(signal.SIGINT)
        client.on_error(interrupt)
        client.on_disconnect(lambda: print("disconnected"))
        await client.publish("nobody.listens", {})
        try:
            await client.run()
        except KeyboardInterrupt:
            print("caught")
            with anyio.fail_after(10):
                await client.close()

anyio.run(main, backend=sys.argv[1])
"""


async def test_an_interrupt_in_a_callback_reaches_the_main_task_and_stops_no_callback(
    anyio_backend_name: str,
) -> None:
    """On trio it is raised in the callback itself."""
    result = subprocess.run(  # noqa: ASYNC221
        [sys.executable, "-c", INTERRUPTED, anyio_backend_name],
        env={name: text for name, text in os.environ.items() if "COVERAGE" not in name},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (result.stdout, result.stderr, result.returncode) == ("caught\ndisconnected\n", "", 0)


async def test_only_failures_of_user_code_are_failures() -> None:
    error = ValueError()
    assert failure(error) is error
    for other in (KeyboardInterrupt(), SystemExit(1)):
        with pytest.raises(type(other)):
            failure(other)
    with anyio.CancelScope() as scope:
        scope.cancel()
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class() as cancelled:
            with pytest.raises(anyio.get_cancelled_exc_class()):
                failure(cancelled)
            raise
