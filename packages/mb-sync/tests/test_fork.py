"""Forks: the child may not use what its parent has connected, and does the parent no harm."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from mb_broker import RunningBroker, running
from mb_core import LocalProtocolError
from mb_sync import MessageBrokerClient, Subscription

from .programs import broker, starting

__all__ = ["broker"]

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork"),
    # It says what these tests are about.
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]

PATIENCE = 20


@pytest.fixture(params=["tcp", "memory"])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    """Of a broker that the parent runs."""
    target = "memory://" if request.param == "memory" else "tcp://127.0.0.1:0"
    with running(target) as broker:
        yield broker.url


# What the child does needs the parent's broker, which it has no thread of.
over_the_network = pytest.mark.parametrize("url", ["tcp"], indirect=True)


@pytest.fixture
def client(url: str) -> Iterator[MessageBrokerClient]:
    with MessageBrokerClient(url) as client:
        client.subscribe("echo.it", action="request", handler=lambda message: message.payload)
        yield client


@pytest.fixture
def events(client: MessageBrokerClient) -> Subscription:
    events = client.subscribe("some.event")
    client.publish("some.event", "before the fork", confirm=True)
    return events


def in_child(function: Callable[[], object]) -> str:
    """What a forked process that calls `function` has to say, which is "fine" at best."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            try:
                function()
                answer = "fine"
            except BaseException as error:
                answer = repr(error)
            os.write(writing, answer.encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as answers:
        # A child that hangs would keep the pipe open.
        watchdog = threading.Timer(PATIENCE, os.kill, [child, 9])
        watchdog.start()
        answer = answers.read()
        watchdog.cancel()
        watchdog.join()
    os.waitpid(child, 0)
    return answer


def still_works(client: MessageBrokerClient, events: Subscription) -> bool:
    """Whether a client does all that it did before."""
    for number in range(20):
        assert client.request("echo.it", number).payload == number
        client.publish("some.event", number)
        assert events.receive(PATIENCE * 1000).payload == number
    with client.subscribe("another.event") as others:
        client.publish("another.event", 1, confirm=True)
        assert others.receive(PATIENCE * 1000).payload == 1
    return client.stats().reconnects == 0


def test_each_call_of_the_child_says_at_once_what_is_wrong(
    client: MessageBrokerClient, events: Subscription
) -> None:
    calls: list[Callable[[], object]] = [
        lambda: client.request("echo.it", 1),
        lambda: client.publish("some.event", 1),
        lambda: client.publish("some.event", 1, confirm=True),
        lambda: client.subscribe("a.b"),
        lambda: client.subscribe("a.b", handler=print),
        lambda: client.unsubscribe("some.event"),
        lambda: client.register_service("a", "b"),
        lambda: client.connect(),
        lambda: client.__enter__(),
        lambda: client.run(),
        lambda: client.stats(),
        lambda: client.on_message(print),
        lambda: client.on_connect(print),
        lambda: client.on_disconnect(print),
        lambda: client.on_error(print),
        lambda: next(events),
        lambda: iter(events),
        lambda: events.receive(),
        lambda: events.receive(0),
        lambda: events.unsubscribe(),
        lambda: events.__enter__(),
    ]

    def call_all() -> None:
        for call in calls:
            with pytest.raises(
                LocalProtocolError, match=r"belongs to the parent process.*create a new client"
            ):
                call()
        assert not client.connected

    assert in_child(call_all) == "fine"
    assert next(events).payload == "before the fork"  # it is the parent's
    assert still_works(client, events)


def test_leaving_blocks_in_the_child_does_nothing(
    client: MessageBrokerClient, events: Subscription
) -> None:
    def leave() -> None:
        client.close()
        client.close()
        client.__exit__(None, None, None)
        events.__exit__(None, None, None)

    assert in_child(leave) == "fine"
    assert next(events).payload == "before the fork"
    assert still_works(client, events)


def test_a_request_taken_before_the_fork_is_the_parents_to_answer(
    client: MessageBrokerClient, events: Subscription
) -> None:
    next(events)
    requests = client.subscribe("a.question", action="request")
    answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
    asking = threading.Thread(
        target=lambda: answers.put(client.request("a.question", None).payload)
    )
    asking.start()
    request = next(requests)

    def respond() -> None:
        with pytest.raises(LocalProtocolError, match="belongs to the parent process"):
            request.respond("from the child")

    assert in_child(respond) == "fine"
    request.respond("from the parent")
    assert answers.get(timeout=PATIENCE) == "from the parent"
    asking.join()


@over_the_network
def test_a_new_client_of_the_child_is_its_own(
    client: MessageBrokerClient, events: Subscription, url: str
) -> None:
    next(events)

    def talk() -> None:
        with MessageBrokerClient(url) as own:
            assert own.request("echo.it", "from the child").payload == "from the child"
            own.publish("some.event", "from the child", confirm=True)
            with own.subscribe("child.event") as own_events:
                own.publish("child.event", 1)
                assert own_events.receive(PATIENCE * 1000).payload == 1
        names = [thread.name for thread in threading.enumerate()]
        assert not [name for name in names if name.startswith("mb_sync")]

    assert in_child(talk) == "fine"
    assert events.receive(PATIENCE * 1000).payload == "from the child"
    assert still_works(client, events)


@over_the_network
def test_a_client_that_was_not_connected_may_be_in_the_child(url: str) -> None:
    early = MessageBrokerClient(url)
    heard = threading.Event()
    early.on_connect(heard.set)

    def connect() -> None:
        with early:
            assert early.request("system.heartbeat", {}).payload
            assert heard.wait(PATIENCE)

    assert in_child(connect) == "fine"
    connect()


def test_what_the_child_forgets_or_collects_does_not_reach_the_parents_broker(
    url: str,
) -> None:
    """Also the fork of a fork."""
    with MessageBrokerClient(url) as client:
        client.subscribe("echo.it", action="request", handler=lambda message: message.payload)
        held = [client.subscribe("some.event")]
        iter(held[0])

        def forget() -> None:
            held.clear()
            gc.collect()
            assert in_child(lambda: client.close()) == "fine"

        assert in_child(forget) == "fine"
        assert still_works(client, held[0])


def test_from_a_thread_the_fork_is_as_from_the_main_one(
    client: MessageBrokerClient, events: Subscription
) -> None:
    next(events)
    answers: list[str] = []

    def ask() -> None:
        with pytest.raises(LocalProtocolError, match="belongs to the parent process"):
            client.request("echo.it", 1)

    thread = threading.Thread(target=lambda: answers.append(in_child(ask)))
    thread.start()
    thread.join()
    assert answers == ["fine"]
    assert still_works(client, events)


def test_a_handler_may_fork(client: MessageBrokerClient, events: Subscription) -> None:
    next(events)

    def ask() -> None:
        client.close()
        with pytest.raises(LocalProtocolError, match="belongs to the parent process"):
            client.request("echo.it", 1)

    client.subscribe("fork.it", action="request", handler=lambda message: in_child(ask))
    assert client.request("fork.it", None).payload == "fine"
    assert still_works(client, events)


@contextlib.contextmanager
def busy(client: MessageBrokerClient) -> Iterator[None]:
    """While other threads publish, ask, iterate, connect and close as fast as they can."""
    stop = threading.Event()
    shared = client.subscribe("busy.event", queue_size=100, overflow="drop_oldest")

    def publish() -> None:
        client.publish("busy.event", 1)

    def ask() -> None:
        client.request("echo.it", 1)

    def take() -> None:
        with contextlib.suppress(TimeoutError):
            shared.receive(1)

    def until_stopped(function: Callable[[], None]) -> None:
        while not stop.is_set():
            function()

    threads = [
        threading.Thread(target=until_stopped, args=(each,))
        for each in (publish, publish, ask, take, take)
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(PATIENCE)
    assert [thread for thread in threads if thread.is_alive()] == []


def test_a_lock_that_another_thread_held_at_the_fork_is_no_trap(
    client: MessageBrokerClient, events: Subscription, url: str
) -> None:
    next(events)
    held = [client.subscribe("some.other.event")]
    iter(held[0])

    def use() -> None:
        held.clear()
        gc.collect()
        client.close()
        with pytest.raises(LocalProtocolError):
            client.publish("busy.event", 1)
        with pytest.raises(LocalProtocolError):
            events.receive(0)
        if not url.startswith("memory"):
            with MessageBrokerClient(url) as own:
                assert own.request("system.heartbeat", {}).payload

    with busy(client):
        for _ in range(8):
            assert in_child(use) == "fine"
    assert still_works(client, events)


def test_while_the_gate_is_held_a_fork_is_no_trap(client: MessageBrokerClient) -> None:
    """The same, at exactly the worst moment."""
    loop = client._lifecycle.loop
    assert loop is not None
    held, forked = threading.Event(), threading.Event()

    def hold() -> None:
        with loop.post_lock:
            held.set()
            forked.wait(PATIENCE)

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(PATIENCE)

    def use() -> None:
        assert not loop.post(lambda: None)
        client.close()

    answer = in_child(use)
    forked.set()
    thread.join()
    assert answer == "fine"


# Ways to end


PARENT = """
import multiprocessing, warnings
warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)

client = MessageBrokerClient(url)
client.connect()
client.subscribe("echo.it", action="request", handler=lambda message: message.payload)
events = client.subscribe("some.event")
iter(events)
atexit.register(say, "at exit")

def check():
    for number in range(20):
        assert client.request("echo.it", number).payload == number
        client.publish("some.event", number)
        assert events.receive(10_000).payload == number
    assert client.stats().reconnects == 0

check()
child = os.fork()
if child == 0:
    {end}
status = os.waitpid(child, 0)[1]
check()
say(f"status {{os.waitstatus_to_exitcode(status)}}")
"""

SILENT = "os.dup2(os.open(os.devnull, os.O_WRONLY), 2)"

ENDS = {
    "os._exit": ("os._exit(3)", 3, 1),
    "sys.exit": ("sys.exit(3)", 3, 2),
    "sys.exit when all was forgotten": ("del client, events; gc.collect(); sys.exit(3)", 3, 2),
    "an error": (f"{SILENT}; raise ValueError", 1, 2),
    "a signal": ("os.kill(os.getpid(), signal.SIGTERM)", -15, 1),
    "another program": ("os.execv(sys.executable, [sys.executable, '-c', 'exit(3)'])", 3, 1),
    "a use that is refused": (f"{SILENT}; client.request('echo.it', 1)", 1, 2),
}


@pytest.mark.parametrize(("end", "status", "exits"), ENDS.values(), ids=ENDS)
def test_however_the_child_ends_the_parent_goes_on(
    end: str, status: int, exits: int, broker: RunningBroker
) -> None:
    with starting(broker) as start:
        program = start(PARENT.format(end=end), "-X", "dev", ready=False)
        ended = program.wait()
    assert ended.stderr == ""
    lines = ended.stdout.splitlines()
    assert f"status {status}" in lines
    assert lines.count("at exit") == exits
    assert ended.status == 0


def ask_as_worker(url: str) -> str:
    with MessageBrokerClient(url) as own:
        payload: str = own.request("echo.it", "from a worker").payload
        return payload


@over_the_network
def test_workers_of_multiprocessing_have_clients_of_their_own(url: str) -> None:
    with MessageBrokerClient(url) as client:
        client.subscribe("echo.it", action="request", handler=lambda message: message.payload)
        events = client.subscribe("some.event")
        with multiprocessing.get_context("fork").Pool(2) as pool:
            assert pool.map(ask_as_worker, [url] * 4) == ["from a worker"] * 4
            pool.close()
            pool.join()
        assert still_works(client, events)
