"""Runners: when a handler is called, and when there is nothing more to call it for."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Coroutine
from typing import Any
from uuid import uuid4

import anyio
import anyio.abc
import anyio.lowlevel
import pytest

from mb_core import LocalProtocolError, Message, ServiceUnavailableError, parse_message
from mb_core.client.callbacks import Callbacks, Handlers
from mb_core.client.queue import MessageQueue
from mb_core.client.runner import Runner
from mb_core.link import current_backend
from mb_core.options import check_concurrency

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("leaves_nothing")]


def messages(*numbers: int) -> list[Message]:
    return [parse_message(f"publish:a:1.0.0\n{number}") for number in numbers]


class Bench:
    """A runner over a queue, its tasks in a group of the test's own."""

    def __init__(
        self, handler: Callable[[Message], Any], tasks: anyio.abc.TaskGroup, concurrency: int = 1
    ) -> None:
        self.queue = MessageQueue(None, "drop_newest")
        self.handlers = Handlers()
        self.callbacks = Callbacks(self.handlers)
        self.running = 0
        self._tasks = tasks
        runner = Runner(self.queue, handler, "a.+", concurrency, self.callbacks)
        runner.start(current_backend(), self._spawn)

    def _spawn(self, function: Callable[[], Coroutine[Any, Any, None]]) -> None:
        async def run() -> None:
            self.running += 1
            await function()
            self.running -= 1

        self._tasks.start_soon(run)


async def test_a_runner_waits_for_messages_and_calls_its_handler_with_them_in_order() -> None:
    got: list[int] = []
    async with anyio.create_task_group() as tasks:
        bench = Bench(lambda message: got.append(message.payload), tasks)
        for numbers in ((1, 2), (), (3,)):
            bench.queue.put(messages(*numbers))
            await anyio.wait_all_tasks_blocked()
        assert (got, bench.running) == ([1, 2, 3], 1)
        bench.queue.end(None)
    assert bench.running == 0


@pytest.mark.parametrize("concurrency", [1, 2, 5])
async def test_a_runner_ends_behind_the_last_message_of_a_queue_that_has_ended(
    concurrency: int,
) -> None:
    got: list[int] = []
    go_on = anyio.Event()

    async def handler(message: Message) -> None:
        await go_on.wait()
        got.append(message.payload)

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            bench = Bench(handler, tasks, concurrency)
            bench.queue.put(messages(*range(7)))
            await anyio.wait_all_tasks_blocked()
            assert (len(bench.queue), bench.running) == (7 - concurrency, concurrency)
            bench.queue.end(None)
            await anyio.wait_all_tasks_blocked()
            assert got == []
            go_on.set()
    assert sorted(got) == list(range(7))


async def test_a_runner_over_a_queue_that_has_ended_takes_what_is_left() -> None:
    got: list[int] = []
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            bench = Bench(lambda message: got.append(message.payload), tasks, 2)
            bench.queue.put(messages(1))
            bench.queue.end(None)
    assert got == [1]


async def test_when_the_client_and_its_handlers_are_gone_requests_are_refused() -> None:
    answers: list[Any] = []

    class Responder:
        def answer_now(self, message: Message, payload: Any) -> None:
            answers.append((message.payload, type(payload)))

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            bench = Bench(answers.append, tasks, concurrency=2)
            await anyio.wait_all_tasks_blocked()
            del bench.handlers
            for number in (1, 2):
                request = parse_message(f"request:a:1.0.0:{uuid4()}\n{number}")
                request.responder = Responder()  # type: ignore[assignment]
                bench.queue.put([request, *messages(0)])
                await anyio.wait_all_tasks_blocked()
            assert len(bench.queue) == 0
            bench.queue.end(None)
    assert answers == [(1, ServiceUnavailableError), (2, ServiceUnavailableError)]


async def test_a_failure_is_reported_with_the_handlers_name_and_the_pattern(
    caplog: pytest.LogCaptureFixture,
) -> None:
    errors: list[Exception] = []

    def fail(message: Message) -> None:
        raise ValueError("mine")

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            bench = Bench(fail, tasks)
            bench.callbacks.register(bench.callbacks.error, errors.append)
            bench.queue.put(messages(1))
            bench.queue.end(None)
        await bench.callbacks.run_due()
    assert [str(error) for error in errors] == ["mine"]
    assert ".fail of 'a.+' failed: mine" in caplog.text


@pytest.mark.parametrize("concurrency", [0, -1, 1.0, "1", None, True, False], ids=repr)
async def test_concurrency_is_a_number_from_one(concurrency: Any) -> None:
    check_concurrency(1)
    with pytest.raises(LocalProtocolError, match="concurrency must be at least 1, got "):
        check_concurrency(concurrency)


INTERRUPTED = """
import signal, sys
import anyio
from mb_broker import Broker
from mb_core import MessageBrokerClient

async def main():
    async with Broker("tcp://127.0.0.1:0") as broker, MessageBrokerClient(broker.url) as client:
        def interrupt(message):
            print(message.payload)
            if message.payload == 0:
                signal.raise_signal(signal.SIGINT)
            if message.payload == 2:
                done.set()
        done = anyio.Event()
        await client.subscribe("a.b", handler=interrupt)
        await client.publish("a.b", 0)
        await client.publish("a.b", 1)
        try:
            await client.run()
        except KeyboardInterrupt:
            print("caught")
        await client.publish("a.b", 2)
        with anyio.fail_after(10):
            await done.wait()

anyio.run(main, backend=sys.argv[1])
"""


async def test_an_interrupt_in_a_handler_reaches_the_main_task_and_the_handler_is_called_again(
    anyio_backend_name: str,
) -> None:
    """On trio it is raised in the handler itself."""
    result = subprocess.run(  # noqa: ASYNC221
        [sys.executable, "-c", INTERRUPTED, anyio_backend_name],
        env={name: text for name, text in os.environ.items() if "COVERAGE" not in name},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (sorted(result.stdout.split()), result.stderr) == (["0", "1", "2", "caught"], "")
    assert result.returncode == 0
