"""Programs that end without closing their clients: what was said arrives, and nobody waits long."""

from __future__ import annotations

import queue
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from mb_broker import RunningBroker, running
from mb_core import Message
from mb_sync import MessageBrokerClient

from .programs import PATIENCE, Ended, Start, broker, saw_all_leave, starting

__all__ = ["broker"]

QUICK = 4.0
"""Seconds, of which the start of Python takes some; a time limit would take longer."""

Arrived = Callable[[int], list[Any]]


@pytest.fixture
def start(broker: RunningBroker) -> Iterator[Start]:
    with starting(broker) as start:
        yield start


@pytest.fixture
def arrived(broker: RunningBroker) -> Iterator[Arrived]:
    """Return a function that waits for this many publications of `last.words`."""
    payloads: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def note(message: Message) -> None:
        payloads.put(message.payload)

    with MessageBrokerClient(broker.url) as client:
        client.subscribe("last.words", handler=note, queue_size=None)
        yield lambda count: [payloads.get(timeout=PATIENCE) for _ in range(count)]


def run(start: Start, body: str) -> Ended:
    """Run a program in Python's development mode, with warnings as errors; it says nothing ill."""
    ended = start(body, "-X", "dev", "-W", "error", ready=False).wait()
    assert ended.stderr == ""
    assert ended.seconds < QUICK
    return ended


CONNECTED = """
client = MessageBrokerClient(url)
client.connect()
"""


def test_a_program_that_forgets_to_close_says_good_bye(
    start: Start, broker: RunningBroker, caplog: pytest.LogCaptureFixture
) -> None:
    ended = run(
        start,
        f"""{CONNECTED}
client.on_disconnect(lambda: say("disconnected"))
assert client.request("system.heartbeat", {{}}).payload
""",
    )
    assert (ended.stdout, ended.status) == ("disconnected\n", 0)
    assert saw_all_leave(broker, caplog)


def test_what_was_published_immediately_before_the_end_arrives(
    start: Start, arrived: Arrived
) -> None:
    ended = run(
        start,
        f"""{CONNECTED}
for number in range(3000):
    client.publish("last.words", number)
""",
    )
    assert ended.status == 0
    assert arrived(3000) == list(range(3000))


def test_what_other_threads_have_published_arrives_as_well(start: Start, arrived: Arrived) -> None:
    """Non-daemon threads: Python waits for them, and the clients live as long."""
    ended = run(
        start,
        f"""{CONNECTED}
main = threading.main_thread()
def work(number):
    main.join()
    assert client.request("system.heartbeat", {{}}).payload
    client.publish("last.words", number)
for number in range(5):
    threading.Thread(target=work, args=(number,)).start()
""",
    )
    assert ended.status == 0
    assert sorted(arrived(5)) == [0, 1, 2, 3, 4]


def test_handlers_go_on_as_long_as_other_threads_do(start: Start, arrived: Arrived) -> None:
    """Though Python may start no new ones any more, from the end of the main thread on."""
    ended = run(
        start,
        f"""{CONNECTED}
main = threading.main_thread()
def answer(message):
    return message.payload
def work():
    main.join()
    client.subscribe("late.question", action="request", handler=answer, concurrency=2)
    client.publish("last.words", client.request("late.question", "late").payload)
threading.Thread(target=work).start()
""",
    )
    assert ended.status == 0
    assert arrived(1) == ["late"]


def test_daemon_threads_in_the_midst_of_calls_do_no_harm(
    start: Start, broker: RunningBroker, caplog: pytest.LogCaptureFixture
) -> None:
    ended = run(
        start,
        f"""{CONNECTED}
from mb_core import MBError
events = client.subscribe("some.event")
going = threading.Semaphore(0)
def until_lost(step):
    try:
        step()
        going.release()
        while True:
            step()
    except MBError:
        pass  # lost, or nobody subscribes any more, or nothing more will come
for step in (
    lambda: client.request("system.heartbeat", {{}}),
    lambda: client.publish("some.event", 1),
    lambda: client.publish("some.event", 1, confirm=True),
    lambda: events.receive(),
):
    threading.Thread(target=until_lost, args=(step,), daemon=True).start()
for _ in range(4):
    going.acquire()
logging.disable()  # a publication that comes too late is reported
""",
    )
    assert ended.status == 0
    assert saw_all_leave(broker, caplog)


def test_a_handler_that_hangs_keeps_no_program_from_ending(
    start: Start, broker: RunningBroker, caplog: pytest.LogCaptureFixture
) -> None:
    """Several have a second, together."""
    ended = run(
        start,
        """
hanging = threading.Semaphore(0)
def hang(message):
    hanging.release()
    time.sleep(60)
clients = [MessageBrokerClient(url) for _ in range(3)]
for client in clients:
    client.connect()
    client.subscribe("a.topic", handler=hang)
clients[0].publish("a.topic", 1)
for _ in clients:
    hanging.acquire()
""",
    )
    assert ended.status == 0
    assert saw_all_leave(broker, caplog)


def test_a_handler_that_is_about_to_be_done_may_finish(start: Start, arrived: Arrived) -> None:
    ended = run(
        start,
        f"""{CONNECTED}
asked, go = threading.Event(), threading.Event()
def answer(message):
    asked.set()
    go.wait()
    client.publish("last.words", "from the handler")
client.subscribe("a.topic", handler=answer)
client.publish("a.topic", None)
asked.wait()
atexit.register(go.set)  # called before ours is, which was registered before
""",
    )
    assert ended.status == 0
    assert arrived(1) == ["from the handler"]


def test_without_a_connection_a_program_ends_as_quickly(start: Start) -> None:
    """What waits for a connection has a second, too, and then is reported as lost."""
    with running("tcp://127.0.0.1:0") as away, starting(away) as start_away:
        program = start_away("""
logging.disable()  # the loss is logged, and each attempt
gone = threading.Event()
client = MessageBrokerClient(url)
client.connect()
client.on_disconnect(gone.set)
client.on_error(lambda error: say(error) if "never sent" in str(error) else None)
say("ready")
gone.wait()
client.publish("last.words", 1)
""")
        away.stop()
        ended = program.wait()
        away.start()
    assert (
        ended.stdout
        == "1 publication was never sent: there was no connection before the client closed\n"
    )
    assert (ended.stderr, ended.status) == ("", 0)
    assert ended.seconds < PATIENCE / 4


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
@pytest.mark.parametrize("scheme", ["tcp", "ws"])
def test_a_broker_that_is_frozen_keeps_no_program_from_ending(
    scheme: str, broker: RunningBroker
) -> None:
    """It is given up long before `close_timeout`, which here is an hour."""
    command = [sys.executable, "-m", "mb_tools", "serve", "--tcp-port=0", "--ws-port=0"]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as frozen,
        starting(broker) as start,
    ):
        try:
            assert frozen.stdout is not None
            urls = [frozen.stdout.readline().strip() for _ in range(2)]
            (url,) = [url for url in urls if url.startswith(scheme)]
            ended = start(
                f"""
client = MessageBrokerClient({url!r}, close_timeout=3_600_000, drain_timeout=3_600_000)
client.connect()
os.kill({frozen.pid}, signal.SIGSTOP)
client.publish("last.words", 1)
""",
                ready=False,
            ).wait()
        finally:
            frozen.kill()
    assert "what was published last may not have arrived" in ended.stderr
    assert (ended.stdout, ended.status) == ("", 0)


def test_sys_exit_in_a_handler_ends_the_call_only(start: Start, arrived: Arrived) -> None:
    ended = run(
        start,
        f"""{CONNECTED}
logging.disable()  # it is reported there
from mb_core import InternalError
client.subscribe("leave.it", action="request", handler=lambda message: sys.exit(5))
for _ in range(2):
    try:
        client.request("leave.it", None)
    except InternalError:
        client.publish("last.words", "still there")
""",
    )
    assert ended.status == 0
    assert arrived(2) == ["still there"] * 2


@pytest.mark.parametrize("end", ["sys.exit(4)", "raise SystemExit(4)"])
def test_sys_exit_within_a_block_is_not_kept_waiting(
    end: str, start: Start, broker: RunningBroker, caplog: pytest.LogCaptureFixture
) -> None:
    ended = run(
        start,
        f"""
hanging = threading.Event()
def hang(message):
    hanging.set()
    time.sleep(60)
with MessageBrokerClient(url) as client:
    client.subscribe("a.topic", handler=hang)
    client.publish("a.topic", 1)
    hanging.wait()
    {end}
""",
    )
    assert ended.status == 4
    assert saw_all_leave(broker, caplog)


def test_an_exit_handler_of_the_programs_own_may_still_use_the_client(
    start: Start, arrived: Arrived
) -> None:
    """One that was registered after mb_sync was imported: Python calls the last one first."""
    ended = run(
        start,
        f"""{CONNECTED}
def say_good_bye():
    assert client.request("system.heartbeat", {{}}).payload
    client.publish("last.words", "good bye")
atexit.register(say_good_bye)
""",
    )
    assert ended.status == 0
    assert arrived(1) == ["good bye"]


def test_who_closes_while_the_program_ends_has_nothing_to_wait_for(start: Start) -> None:
    ended = run(
        start,
        f"""
atexit.unregister(sys.modules["mb_sync.loop_thread"]._close_all)
def close():
    client.close()
    client.close()
    say("closed")
atexit.register(close)
atexit.register(sys.modules["mb_sync.loop_thread"]._close_all)
{CONNECTED}
""",
    )
    assert (ended.stdout, ended.status) == ("closed\n", 0)


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
def test_a_signal_whose_handler_exits_ends_in_order(start: Start, arrived: Arrived) -> None:
    """As a service is stopped: what is under way when it comes is interrupted."""
    program = start(f"""{CONNECTED}
signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(7))
client.publish("last.words", 1)
say_ready_when_waiting()
client.run()
""")
    ended = program.interrupt(signal.SIGTERM)
    assert (ended.stdout, ended.stderr, ended.status) == ("", "", 7)
    assert ended.seconds < QUICK
    assert arrived(1) == [1]


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
def test_a_signal_whose_handler_closes_ends_run(start: Start) -> None:
    program = start(f"""{CONNECTED}
signal.signal(signal.SIGTERM, lambda number, frame: client.close())
say_ready_when_waiting()
client.run()
say("closed cleanly")
""")
    ended = program.interrupt(signal.SIGTERM)
    assert (ended.stdout, ended.stderr, ended.status) == ("closed cleanly\n", "", 0)
    assert ended.seconds < QUICK


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_program_that_is_killed_is_missed_at_once(
    number: int, caplog: pytest.LogCaptureFixture
) -> None:
    with running("tcp://127.0.0.1:0") as broker, starting(broker) as start:
        program = start(f"{CONNECTED}say_ready_when_waiting()\nclient.run()")
        assert program.interrupt(number).status == -number
        assert saw_all_leave(broker, caplog)
