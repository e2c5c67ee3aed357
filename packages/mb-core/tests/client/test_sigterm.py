"""SIGTERM: real programs, in processes of their own, that get real signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from mb_broker import Broker
from mb_core import ConnectionLost
from mb_core.signals import interruptible
from mb_sync import MessageBrokerClient

from .signalled import EPILOGUE, PROLOGUE, Program, broker, interrupt, loop, start

__all__ = ["broker", "loop", "start"]

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
PATIENCE = 30


# SIGTERM


ANSWERING = """
async def slow(message):
    say("ready")
    await anyio.sleep(0.3)
    return "answered"

async def answer(client):
    await client.subscribe(f"slow.{sys.argv[2]}", action="request", handler=slow)
"""


def terminate(
    process: subprocess.Popen[str], asking: Future[Any], number: int = signal.SIGTERM
) -> tuple[str, str, int]:
    """Stop a service that has begun to work on a request; it gives the answer."""
    ended = interrupt(process, number)
    assert asking.result(PATIENCE).payload == "answered"
    return ended


@pytest.fixture
def serve(broker: Broker, loop: str) -> Iterator[Callable[..., Any]]:
    """Start a service, ask it something, and wait until it has begun to answer."""
    started: list[subprocess.Popen[str]] = []
    with MessageBrokerClient(broker.url) as client, ThreadPoolExecutor() as threads:

        def serve(body: str, epilogue: str = EPILOGUE) -> tuple[subprocess.Popen[str], Future[Any]]:
            process = subprocess.Popen(
                [sys.executable, "-c", PROLOGUE + ANSWERING + body + epilogue, broker.url, loop],
                env={name: text for name, text in os.environ.items() if "COVERAGE" not in name},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            started.append(process)
            assert process.stdout is not None
            first = process.stdout.readline()
            if first != "serving\n":
                raise AssertionError(first + process.communicate(timeout=10)[1])
            asking = threads.submit(client.request, f"slow.{loop}", None)
            assert process.stdout.readline() == "ready\n"
            return process, asking

        yield serve
        for process in started:
            process.kill()
            process.communicate()


def test_a_service_that_gets_sigterm_answers_first_and_ends_as_killed_by_it(serve: Any) -> None:
    """The README's own service; whatever else the program closes is closed, too."""
    process, asking = serve(
        """
import atexit, contextlib
atexit.register(say, "at exit")

async def main():
    async with MessageBrokerClient(url) as client:
        await answer(client)
        client.on_disconnect(lambda: say("disconnected"))
        say("serving")
        try:
            await client.run()
        finally:
            await client.request("system.heartbeat", {})
            say("connected still")
""",
        """
with contextlib.suppress(KeyboardInterrupt):
    try:
        anyio.run(main, backend=sys.argv[2])
    finally:
        sys.stdout.write("left")  # and not flushed
""",
    )
    ended = terminate(process, asking)
    assert ended == ("connected still\ndisconnected\nleftat exit\n", "", -signal.SIGTERM)


@pytest.mark.parametrize("within", ["", "anyio.create_task_group()"])
def test_sigterm_that_nobody_catches_leaves_no_traceback(within: str, serve: Any) -> None:
    block = f"async with {within}:" if within else "if True:"
    process, asking = serve(f"""
async def main():
    async with MessageBrokerClient(url) as client:
        await answer(client)
        say("serving")
        {block}
            await client.run()
""")
    assert terminate(process, asking) == ("", "", -signal.SIGTERM)


def test_the_specifications_own_program_closes_at_sigterm(serve: Any) -> None:
    process, asking = serve("""
async def main():
    client = MessageBrokerClient()
    await client.connect(url)
    await answer(client)
    say("serving")
    try:
        await client.run()
    except KeyboardInterrupt:
        await client.close()
        say("closed")
""")
    assert terminate(process, asking) == ("closed\n", "", -signal.SIGTERM)


@pytest.mark.parametrize("group", ["anyio.create_task_group", "asyncio.TaskGroup"])
def test_runs_in_a_task_group_close_their_clients_at_sigterm(
    serve: Any, loop: str, group: str
) -> None:
    if loop != "asyncio" and group.startswith("asyncio"):
        pytest.skip("asyncio's own")
    start = "start_soon(client.run)" if group.startswith("anyio") else "create_task(client.run())"
    process, asking = serve(f"""
async def main():
    async with MessageBrokerClient(url) as quick, MessageBrokerClient(url) as slow:
        await answer(slow)
        for client in quick, slow:
            client.on_disconnect(lambda: say("disconnected"))
        async with {group}() as tasks:
            for client in quick, slow:
                tasks.{start}
            tasks.{start.replace("client.run", "anyio.sleep_forever")}
            say("serving")
""")
    stdout, _, status = terminate(process, asking)
    assert (stdout, status) == ("disconnected\ndisconnected\n", -signal.SIGTERM)


def test_a_run_in_a_task_of_its_own_closes_its_client_at_sigterm(serve: Any, loop: str) -> None:
    if loop != "asyncio":
        pytest.skip("trio has no such tasks")
    process, asking = serve("""
async def main():
    client = MessageBrokerClient(url)
    await client.connect()
    await answer(client)
    running = asyncio.create_task(client.run())
    say("serving")
    try:
        await anyio.sleep_forever()
    finally:
        say("main")
""")
    assert terminate(process, asking) == ("main\n", "", -signal.SIGTERM)


def test_of_two_clients_the_one_in_the_main_task_stops_both_at_sigterm(serve: Any) -> None:
    process, asking = serve("""
async def main():
    async with MessageBrokerClient(url) as one, MessageBrokerClient(url) as two:
        await answer(one)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(one.run)
            await anyio.wait_all_tasks_blocked()
            say("serving")
            try:
                await two.run()
            except KeyboardInterrupt:
                say("caught")
                await one.close()
""")
    assert terminate(process, asking) == ("caught\n", "", -signal.SIGTERM)


# A service with a handler that never ends; what is done when it is stopped comes behind.
HANGING = """
async def main():
    async with MessageBrokerClient(url, drain_timeout=3_600_000) as client:
        async def hang(message):
            say("ready")
            await anyio.sleep_forever()
        await client.subscribe("a.hang" + sys.argv[2], handler=hang)
        await client.publish("a.hang" + sys.argv[2], {})
        try:
            await client.run()
        finally:"""


@pytest.mark.parametrize(
    ("first", "second", "status"),
    [
        (signal.SIGTERM, signal.SIGTERM, -signal.SIGTERM),
        (signal.SIGTERM, signal.SIGINT, -signal.SIGTERM),
        (signal.SIGINT, signal.SIGTERM, -signal.SIGTERM),
        (signal.SIGINT, signal.SIGINT, -signal.SIGINT),
    ],
)
def test_a_second_signal_ends_a_service_at_once(
    start: Program, first: int, second: int, status: int, loop: str
) -> None:
    """Though a handler has all the time it wants."""
    process = start(
        HANGING
        + """
            say("draining")
"""
    )
    process.send_signal(first)
    assert process.stdout is not None
    assert process.stdout.readline() == "draining\n"
    stdout, _, ended = interrupt(process, second)
    assert (stdout, ended) == ("", status)


def test_a_second_interrupt_within_what_ends_the_block_ends_it_at_once(
    start: Program, loop: str
) -> None:
    """Wherever it comes: trio raises it in whatever runs, which handles the first one."""
    process = start(
        HANGING
        + """
            signal.raise_signal(signal.SIGINT)
"""
    )
    stdout, _, status = interrupt(process)
    assert (stdout, status) == ("", -signal.SIGINT)


def test_a_handler_that_blocks_the_loop_is_killed_by_the_second_sigterm(start: Program) -> None:
    process = start("""
async def main():
    async with MessageBrokerClient(url) as client:
        def handler(message):
            say("ready")
            while signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
                pass
            say("first")
            while True:
                pass
        await client.subscribe("a.block" + sys.argv[2], handler=handler)
        await client.publish("a.block" + sys.argv[2], {})
        await client.run()
""")
    process.send_signal(signal.SIGTERM)
    assert process.stdout is not None
    assert process.stdout.readline() == "first\n"
    assert interrupt(process, signal.SIGTERM) == ("", "", -signal.SIGTERM)


def test_a_programs_own_handler_of_sigterm_stays(start: Program) -> None:
    process = start("""
def own(number, frame):
    os.write(1, b"mine\\n")  # print() can't be called while it runs
    stop.set()

async def main():
    global stop
    stop = threading.Event()
    signal.signal(signal.SIGTERM, own)
    async with MessageBrokerClient(url) as client:
        async def close():
            await anyio.to_thread.run_sync(stop.wait)
            await client.close()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(close)
            await say_ready(client)
            await client.run()
    assert signal.getsignal(signal.SIGTERM) is own
    say("ended")
""")
    assert interrupt(process, signal.SIGTERM) == ("mine\nended\n", "", 0)


def test_sigterm_is_handled_only_while_run_waits(start: Program) -> None:
    process = start("""
async def main():
    async with MessageBrokerClient(url) as client:
        with anyio.move_on_after(0.05):
            await client.run()
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        await say_ready(client)
        await anyio.sleep_forever()
""")
    assert interrupt(process, signal.SIGTERM) == ("", "", -signal.SIGTERM)


def test_outside_the_main_thread_sigterm_does_what_it_did(start: Program) -> None:
    process = start(
        """
async def main():
    async with MessageBrokerClient(url) as client:
        await say_ready(client)
        await client.run()
""",
        """
thread = threading.Thread(target=lambda: anyio.run(main, backend=sys.argv[2]), daemon=True)
thread.start()
thread.join()
""",
    )
    assert interrupt(process, signal.SIGTERM) == ("", "", -signal.SIGTERM)


def test_a_fork_of_a_program_that_sigterm_ends_is_not_killed_by_it(start: Program) -> None:
    process = start("""
async def main():
    async with MessageBrokerClient(url) as client:
        await say_ready(client)
        try:
            await client.run()
        except KeyboardInterrupt:
            pass
    import warnings
    warnings.simplefilter("ignore", DeprecationWarning)  # plugins were looked for in a thread
    child = os.fork()
    if child:
        say(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    elif sys.argv[2] == "trio":
        import atexit
        atexit._run_exitfuncs()  # what a fork must not do is to unwind trio
        os._exit(5)
    else:
        sys.exit(5)
""")
    assert interrupt(process, signal.SIGTERM) == ("5\n", "", -signal.SIGTERM)


# The parts


async def nothing() -> None: ...


@pytest.mark.anyio
async def test_a_handler_that_is_set_meanwhile_stays() -> None:
    def own(number: int, frame: object) -> None: ...

    async def function() -> None:
        signal.signal(signal.SIGINT, own)

    before = signal.getsignal(signal.SIGINT)
    try:
        await interruptible(function, nothing)
        assert signal.getsignal(signal.SIGINT) is own
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.anyio
async def test_an_interrupt_comes_before_the_loss_that_came_with_it() -> None:
    """Ctrl-C in a terminal reaches a broker that was started there as well."""

    async def function() -> None:
        signal.raise_signal(signal.SIGINT)
        raise ConnectionLost("the broker was interrupted too", sent=True)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        await interruptible(function, nothing)
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.anyio
async def test_without_an_interrupt_errors_come_out_as_they_are() -> None:
    async def function() -> None:
        raise ConnectionLost("gone", sent=True)

    with pytest.raises(ConnectionLost, match="gone"):
        await interruptible(function, nothing)


@pytest.mark.parametrize("loop", ["trio"])
def test_after_sigterm_a_receiver_of_the_programs_own_still_gets_sigint(start: Program) -> None:
    process = start("""
import trio

async def main():
    with trio.open_signal_receiver(signal.SIGINT) as interrupts:
        async with MessageBrokerClient(url) as client, trio.open_nursery() as nursery:

            async def receive():
                async for number in interrupts:
                    say("interrupted")
                    received.set()

            async def handle(message):
                await received.wait()

            received = trio.Event()
            nursery.start_soon(receive)
            await client.subscribe("a.b", handler=handle)
            await client.publish("a.b", 1)
            await say_ready(client)
            try:
                await client.run()
            except KeyboardInterrupt:
                say("terminating")
                await client.close()
                say("closed")
                nursery.cancel_scope.cancel()
""")
    process.send_signal(signal.SIGTERM)
    assert process.stdout is not None
    assert process.stdout.readline() == "terminating\n"
    assert interrupt(process) == ("interrupted\nclosed\n", "", -signal.SIGTERM)
