"""Ctrl-C and SIGTERM: real programs, in processes of their own, that get real signals."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from mb_core import Message
from mb_sync import MessageBrokerClient
from mb_testing import FaultyBroker, running

from .programs import PATIENCE, Start, broker, saw_all_leave, starting

__all__ = ["broker"]

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")

AT_ONCE = 3.0
"""Seconds, of which the machine may need some; whatever else would end a wait takes longer."""


def never(message: Message) -> bool:
    """What gets no answer: whatever has to do with this word, and leaving one topic."""
    if message.topic == "system.topic.unsubscribe":
        return b"lasting.topic" in message.raw_payload
    return b"never" in message.topic.encode() + message.raw_payload


@pytest.fixture
def start(broker: FaultyBroker) -> Iterator[Start]:
    broker.faults.drop(never)
    with starting(broker) as start:
        yield start
    broker.faults.clear()


CALLS = {
    "request": "client.request('never.answered', 1)",
    "publish": "client.publish('never.confirmed', 1, confirm=True)",
    "subscribe": "client.subscribe('never.granted')",
    "subscribe with a handler": "client.subscribe('never.granted', handler=print)",
    "unsubscribe": "client.unsubscribe('lasting.topic')",
    "register": "client.register_service('never', 'registered')",
    "for": "for message in known: pass",
    "receive": "known.receive()",
    "receive with a time limit": "known.receive(60_000)",
    "run": "client.run()",
}

CONNECTED = """
client = MessageBrokerClient(url)
client.connect()
known = client.subscribe("known.topic")
"""


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_every_call_is_interrupted_at_once_and_the_client_goes_on(
    call: str, start: Start, broker: FaultyBroker, caplog: pytest.LogCaptureFixture
) -> None:
    first = "client.subscribe('lasting.topic')" if "lasting" in call else ""
    program = start(f"""{CONNECTED}
{first}
say_ready_when_waiting()
try:
    {call}
except KeyboardInterrupt:
    say("interrupted")
assert client.request("system.heartbeat", {{}}).payload
say(f"still there, {{client.stats().pending}} pending")
""")
    ended = program.interrupt()
    assert ended[:3] == ("interrupted\nstill there, 0 pending\n", "", 0)
    assert ended.seconds < AT_ONCE
    assert saw_all_leave(broker, caplog)


def test_an_interrupted_subscription_is_none(start: Start, broker: FaultyBroker) -> None:
    program = start(f"""{CONNECTED}
from mb_core import NoRouteFoundError
say_ready_when_waiting()
try:
    client.subscribe("never.granted")
except KeyboardInterrupt:
    pass
try:
    client.unsubscribe("never.granted")
except LocalProtocolError as error:
    say(error)
""")
    assert program.interrupt()[:3] == ("there is no subscription to 'never.granted'\n", "", 0)


def test_an_interrupt_that_nobody_catches_ends_the_program_as_it_does_others(
    start: Start, broker: FaultyBroker, caplog: pytest.LogCaptureFixture
) -> None:
    program = start("""
with MessageBrokerClient(url) as client:
    client.on_disconnect(lambda: say("disconnected"))
    say_ready_when_waiting()
    client.run()
""")
    ended = program.interrupt()
    assert ended.stdout == "disconnected\n"
    assert ended.stderr.startswith("Traceback")
    assert ended.stderr.count("Traceback") == 1
    assert ended.stderr.rstrip().endswith("KeyboardInterrupt")
    assert ended.status != 0
    assert ended.seconds < AT_ONCE
    assert saw_all_leave(broker, caplog)


def test_a_block_is_left_without_waiting_for_handlers(
    start: Start, broker: FaultyBroker, caplog: pytest.LogCaptureFixture
) -> None:
    program = start("""
def hang(message):
    say("ready")
    time.sleep(60)

try:
    with MessageBrokerClient(url) as client:
        client.subscribe("a.topic", handler=hang)
        client.publish("a.topic", 1)
        time.sleep(60)
except KeyboardInterrupt:
    say("left")
""")
    ended = program.interrupt()
    assert ended[:3] == ("left\n", "", 0)
    assert ended.seconds < AT_ONCE
    assert saw_all_leave(broker, caplog)


def test_closing_that_waits_for_a_handler_is_interrupted_and_goes_on_by_itself(
    start: Start, broker: FaultyBroker, caplog: pytest.LogCaptureFixture
) -> None:
    program = start("""
disconnected = threading.Event()
hanging = threading.Event()

def hang(message):
    hanging.set()
    time.sleep(60)

client = MessageBrokerClient(url, drain_timeout=60_000)
client.connect()
client.on_disconnect(disconnected.set)
client.subscribe("a.topic", handler=hang)
client.publish("a.topic", 1)
hanging.wait()
say_ready_when_waiting()
try:
    client.close()
except KeyboardInterrupt:
    say("interrupted")
assert disconnected.wait(20)
try:
    client.request("system.heartbeat", {})
except ConnectionLost as error:
    say(error)
client.close()
say("closed")
""")
    ended = program.interrupt()
    assert ended[:3] == ("interrupted\nnot sent: the client was closed\nclosed\n", "", 0)
    assert ended.seconds < AT_ONCE
    assert saw_all_leave(broker, caplog)


def test_an_interrupt_is_the_main_threads_and_a_handler_goes_on(
    start: Start, broker: FaultyBroker
) -> None:
    """And so does that which it waits for."""
    program = start("""
asked, go = threading.Event(), threading.Event()

def ask_on(message):
    return client.request("another.question", None).payload

def think(message):
    asked.set()
    go.wait()
    return "answered all the same"

client = MessageBrokerClient(url)
client.connect()
client.subscribe("a.question", action="request", handler=ask_on)
client.subscribe("another.question", action="request", handler=think)
answers = []
asking = threading.Thread(target=lambda: answers.append(client.request("a.question", None)))
asking.start()
asked.wait()
say_ready_when_waiting()
try:
    client.run()
except KeyboardInterrupt:
    say("interrupted")
go.set()
asking.join()
say(answers[0].payload)
""")
    ended = program.interrupt()
    assert ended[:3] == ("interrupted\nanswered all the same\n", "", 0)


def test_messages_that_rush_in_are_interrupted_and_none_is_lost(
    start: Start, broker: FaultyBroker
) -> None:
    """Wherever the loop over them is hit: what one iteration does not get, the next does."""
    program = start("""
client = MessageBrokerClient(url)
client.connect()
events = client.subscribe("rush.in", queue_size=None)
interrupted = threading.Event()
published = []

def publish():
    while not interrupted.is_set():
        published.append(len(published))
        client.publish("rush.in", published[-1])
    client.publish("rush.in", "the end")

threading.Thread(target=publish, daemon=True).start()
seen = []
while "the end" not in seen[-1:]:
    try:
        for message in events:
            seen.append(message.payload)
            if len(seen) == 1000:
                say("ready")
            if message.payload == "the end":
                break
    except KeyboardInterrupt:
        interrupted.set()
del seen[-1]
# The one that was in the hands of the loop when that was hit may be gone, and no other.
say(f"{interrupted.is_set()} {seen == sorted(set(seen))} {len(published) - len(seen) <= 1}")
""")
    assert program.interrupt()[:3] == ("True True True\n", "", 0)


# Connecting


@pytest.fixture
def mute() -> Iterator[FaultyBroker]:
    """A broker that accepts, and never greets."""
    with running("tcp://127.0.0.1:0") as broker:
        broker.faults.stall()
        yield broker


def test_connecting_to_one_that_never_greets_is_interrupted(mute: FaultyBroker) -> None:
    with starting(mute) as start:
        program = start("""
client = MessageBrokerClient(url, connect_timeout=60_000)
say_ready_when_waiting()
try:
    client.connect()
except KeyboardInterrupt:
    say("interrupted")
try:
    client.request("system.heartbeat", {})
except LocalProtocolError as error:
    say(error)
client.close()
while any(thread.name == "mb_sync" for thread in threading.enumerate()):
    time.sleep(0.001)
say("nothing is left")
""")
        ended = program.interrupt()
    assert ended[:3] == (
        "interrupted\nnot connected: client.connect(...) first\nnothing is left\n",
        "",
        0,
    )
    assert ended.seconds < AT_ONCE


def test_who_was_interrupted_while_connecting_may_connect_again(mute: FaultyBroker) -> None:
    with starting(mute) as start:
        program = start("""
client = MessageBrokerClient(url, connect_timeout=60_000)
for _ in range(2):
    say_ready_when_waiting()
    try:
        client.connect()
    except KeyboardInterrupt:
        pass
client.connect()
assert client.request("system.heartbeat", {}).payload
say("connected")
client.close()
""")
        program.process.send_signal(signal.SIGINT)
        program.wait_ready()
        program.process.send_signal(signal.SIGINT)
        mute.faults.resume()
        assert program.wait()[:3] == ("connected\n", "", 0)


@pytest.mark.parametrize("options", ["", ", retry_connect=True"])
def test_a_block_that_is_interrupted_while_it_connects_is_not_entered(
    options: str, mute: FaultyBroker
) -> None:
    if options:
        mute.stop()
    with starting(mute) as start:
        program = start(f"""
say_ready_when_waiting()
with MessageBrokerClient(url, connect_timeout=60_000{options}) as client:
    say("entered")
""")
        ended = program.interrupt()
    if options:
        mute.start()
    assert ended.stdout == ""
    assert ended.stderr.rstrip().endswith("KeyboardInterrupt")
    assert ended.stderr.count("Traceback") == 1
    assert ended.status != 0
    assert ended.seconds < AT_ONCE


# Stopping a service


SERVICE = """
def slow(message):
    say("working")
    time.sleep(0.3)
    return "answered"

def serve(client):
    client.subscribe("slow.question", action="request", handler=slow)
    say("ready")
    client.run()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    "body",
    [
        "with MessageBrokerClient(url) as client: serve(client)",
        """
with MessageBrokerClient(url) as client:
    try: serve(client)
    except KeyboardInterrupt: pass
""",
        """
client = MessageBrokerClient(url)
client.connect()
try: serve(client)
except KeyboardInterrupt: client.close()
""",
        # The other client waits for the signal.
        """
with MessageBrokerClient(url) as other, MessageBrokerClient(url) as client:
    client.run = other.run
    serve(client)
""",
        # Closed at the end of the program.
        """
client = MessageBrokerClient(url)
client.connect()
serve(client)
""",
    ],
    ids=["block", "caught", "closed", "two clients", "left open"],
)
def test_a_service_that_is_stopped_answers_first(
    body: str, number: int, start: Start, broker: FaultyBroker, caplog: pytest.LogCaptureFixture
) -> None:
    program = start(SERVICE + 'atexit.register(say, "at exit")\n' + body)
    with MessageBrokerClient(broker.url) as client, ThreadPoolExecutor() as threads:
        asking = threads.submit(client.request, "slow.question", None)
        assert program.process.stdout is not None
        assert program.process.stdout.readline() == "working\n"
        ended = program.interrupt(number)
        assert asking.result(PATIENCE).payload == "answered"
    assert ended.stdout == "at exit\n"
    if number == signal.SIGTERM:
        assert (ended.stderr, ended.status) == ("", -number)
    else:
        assert ended.status == (0 if "except" in body else -number)
    assert saw_all_leave(broker, caplog)


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_a_service_at_once(start: Start, second: int) -> None:
    program = start("""
def hang(message):
    say("ready")
    time.sleep(60)

with MessageBrokerClient(url, drain_timeout=60_000) as client:
    client.subscribe("a.hanging.topic", handler=hang)
    client.publish("a.hanging.topic", 1)
    try:
        client.run()
    finally:
        say("stopping")
""")
    program.process.send_signal(signal.SIGTERM)
    assert program.process.stdout is not None
    assert program.process.stdout.readline() == "stopping\n"
    ended = program.interrupt(second)
    assert ended.status == -signal.SIGTERM
    assert ended.seconds < AT_ONCE


def test_sigterm_elsewhere_than_in_run_does_what_it_did(start: Start) -> None:
    program = start("""
def own(number, frame):
    say("mine")
    client.close()

with MessageBrokerClient(url) as client:
    before = signal.signal(signal.SIGTERM, own)
    say_ready_when_waiting()
    client.run()
    assert signal.signal(signal.SIGTERM, before) is own
with MessageBrokerClient(url) as client:
    threading.Timer(0.01, client.close).start()
    client.run()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
client = MessageBrokerClient(url)
client.connect()
thread = threading.Thread(target=client.run, daemon=True)
thread.start()
os.kill(os.getpid(), signal.SIGTERM)
thread.join()
""")
    ended = program.interrupt(signal.SIGTERM)
    assert ended[:3] == ("mine\n", "", -signal.SIGTERM)
