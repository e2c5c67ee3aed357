"""Ctrl-C: real programs, in processes of their own, that get real signals."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from .signalled import Program, broker, interrupt, loop, start

__all__ = ["broker", "loop", "start"]

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")


def test_run_raises_keyboard_interrupt_where_it_is_awaited(start: Program) -> None:
    """The specification's own program."""
    process = start("""
async def main():
    client = MessageBrokerClient()
    await client.connect(url)
    client.on_disconnect(lambda: say("disconnected"))
    await say_ready(client)
    try:
        await client.run()
    except KeyboardInterrupt:
        await client.close()
        say("closed")
""")
    assert interrupt(process) == ("disconnected\nclosed\n", "", 0)


def test_an_interrupt_that_nobody_catches_closes_the_block_and_ends_the_program(
    start: Program,
) -> None:
    process = start("""
async def main():
    async with MessageBrokerClient(url) as client:
        client.on_disconnect(lambda: say("disconnected"))
        await say_ready(client)
        await client.run()
""")
    stdout, stderr, status = interrupt(process)
    assert stdout == "disconnected\n"
    assert stderr.rstrip().endswith("KeyboardInterrupt")
    assert status != 0


def test_an_interrupt_while_a_handler_works_comes_out_of_run(start: Program) -> None:
    """trio raises it in the handler, asyncio when the handler is done: never in the reader."""
    process = start("""
async def main():
    async with MessageBrokerClient(url) as client:
        def handler(message):
            say("ready")
            until = time.monotonic() + 1
            while time.monotonic() < until:
                pass
        await client.subscribe("a.busy" + sys.argv[2], handler=handler)
        await client.publish("a.busy" + sys.argv[2], {})
        try:
            await client.run()
        except KeyboardInterrupt:
            say("caught")
            await client.request("system.heartbeat", {})
            say("connected still")
""")
    assert interrupt(process) == ("caught\nconnected still\n", "", 0)


def test_an_interrupt_while_a_handler_has_tasks_of_its_own_comes_out_of_run(
    start: Program,
) -> None:
    process = start("""
async def main():
    async with MessageBrokerClient(url) as client:
        async def work():
            say("ready")
            until = time.monotonic() + 1
            while time.monotonic() < until:
                pass
        async def handler(message):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(work)
                tasks.start_soon(anyio.sleep, 1)
        await client.subscribe("a.tasks" + sys.argv[2], handler=handler)
        await client.publish("a.tasks" + sys.argv[2], {})
        try:
            await client.run()
        except KeyboardInterrupt:
            say("caught")
""")
    assert interrupt(process) == ("caught\n", "", 0)


def test_an_interrupt_while_messages_rush_in_comes_out_of_run(start: Program) -> None:
    """Whatever code of the library runs when it comes."""
    process = start("""
topic = "a.rush" + sys.argv[2]

async def publish():
    async with MessageBrokerClient(url) as client:
        while True:
            await client.publish(topic, "x" * 1000)

async def main():
    count = 0
    def handler(message):
        nonlocal count
        count += 1
        if count == 1000:
            say("ready")
    async with MessageBrokerClient(url) as client:
        await client.subscribe(topic, handler=handler)
        # The signal is for the main thread alone.
        threading.Thread(target=lambda: anyio.run(publish), daemon=True).start()
        try:
            await client.run()
        except KeyboardInterrupt:
            say("caught")
    os._exit(0)
""")
    stdout, stderr, status = interrupt(process)
    assert "TrioInternalError" not in stderr
    assert (stdout, status) == ("caught\n", 0)


def test_a_handler_that_never_ends_can_be_interrupted(start: Program, loop: str) -> None:
    """On asyncio by the second SIGINT, as a program without a client."""
    process = start("""
async def main():
    client = MessageBrokerClient(url)
    await client.connect()
    def handler(message):
        say("ready")
        while True:
            pass
    await client.subscribe("a.stuck" + sys.argv[2], handler=handler)
    await client.publish("a.stuck" + sys.argv[2], {})
    try:
        await client.run()
    finally:
        say("over")
""")
    if loop == "asyncio":
        process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=0.3)
    stdout, stderr, status = interrupt(process)
    assert stdout == "over\n"
    assert "KeyboardInterrupt" in stderr
    assert "TrioInternalError" not in stderr
    assert status != 0


def test_of_two_clients_the_one_in_the_main_task_raises(start: Program) -> None:
    process = start("""
async def main():
    async with MessageBrokerClient(url) as one, MessageBrokerClient(url) as two:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(one.run)
            await anyio.wait_all_tasks_blocked()
            await say_ready(two)
            try:
                await two.run()
            except KeyboardInterrupt:
                say("caught")
                await one.close()
    say("closed")
""")
    assert interrupt(process) == ("caught\nclosed\n", "", 0)


def test_two_that_run_at_once_are_both_ended(start: Program) -> None:
    process = start("""
async def main():
    async with MessageBrokerClient(url) as one, MessageBrokerClient(url) as two:
        one.on_disconnect(lambda: say("one"))
        two.on_disconnect(lambda: say("two"))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(one.run)
            tasks.start_soon(two.run)
            await anyio.wait_all_tasks_blocked()
            await say_ready(two)
""")
    stdout, stderr, status = interrupt(process)
    assert stdout == "two\none\n"
    assert "KeyboardInterrupt" in stderr
    assert status != 0


def test_within_a_task_group_the_main_task_unwinds_in_order(start: Program) -> None:
    process = start("""
async def main():
    async with MessageBrokerClient(url) as client:
        client.on_disconnect(lambda: say("disconnected"))
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(client.run)
                await anyio.wait_all_tasks_blocked()
                await say_ready(client)
                await anyio.sleep_forever()
        finally:
            say("main")
""")
    stdout, stderr, status = interrupt(process)
    assert stdout == "main\ndisconnected\n"
    assert "KeyboardInterrupt" in stderr
    assert status != 0


def test_a_second_run_is_interrupted_like_the_first(start: Program) -> None:
    process = start("""
async def main():
    one, two = MessageBrokerClient(url), MessageBrokerClient(url)
    await one.connect()
    await two.connect()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(one.close)
        await one.run()
    await say_ready(two)
    try:
        await two.run()
    except KeyboardInterrupt:
        say("caught")
    await two.close()
""")
    assert interrupt(process) == ("caught\n", "", 0)


def test_a_programs_own_handler_of_the_signal_stays(start: Program) -> None:
    process = start("""
def own(number, frame):
    os.write(1, b"mine\\n")  # print() can't be called while it runs
    stop.set()

async def main():
    global stop
    stop = anyio.Event()
    signal.signal(signal.SIGINT, own)
    async with MessageBrokerClient(url) as client:
        async def close():
            while not stop.is_set():
                await anyio.sleep(0.01)
            await client.close()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(close)
            await say_ready(client)
            await client.run()
    assert signal.getsignal(signal.SIGINT) is own
    say("ended")
""")
    assert interrupt(process) == ("mine\nended\n", "", 0)


def test_what_handled_the_signal_before_handles_it_again(start: Program) -> None:
    process = start("""
async def main():
    before = signal.getsignal(signal.SIGINT)
    async with MessageBrokerClient(url) as client:
        with anyio.move_on_after(0.05):
            await client.run()
        assert signal.getsignal(signal.SIGINT) is before
        await client.close()
        await client.run()
        assert signal.getsignal(signal.SIGINT) is before
    async with MessageBrokerClient(url) as client:
        await say_ready(client)
        try:
            await anyio.sleep_forever()
        finally:
            say("ended")
""")
    stdout, stderr, status = interrupt(process)
    assert stdout == "ended\n"
    assert "KeyboardInterrupt" in stderr
    assert status != 0


def test_in_another_thread_the_main_thread_is_interrupted(start: Program) -> None:
    process = start(
        """
async def main():
    async with MessageBrokerClient(url) as client:
        await say_ready(client)
        await client.run()
""",
        """
thread = threading.Thread(
    target=lambda: anyio.run(main, backend=sys.argv[2]), daemon=True
)
thread.start()
try:
    thread.join()
except KeyboardInterrupt:
    say("main thread")
""",
    )
    assert interrupt(process) == ("main thread\n", "", 0)


def test_a_loop_that_is_run_by_hand_is_interrupted_too(start: Program, loop: str) -> None:
    if loop != "asyncio":
        pytest.skip("asyncio's own ways to run")
    process = start(
        """
async def main():
    async with MessageBrokerClient(url) as client:
        await say_ready(client)
        try:
            await client.run()
        except KeyboardInterrupt:
            say("caught")
""",
        "asyncio.new_event_loop().run_until_complete(main())",
    )
    stdout, _, status = interrupt(process)
    assert (stdout, status) == ("caught\n", 0)
