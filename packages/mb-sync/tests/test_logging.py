"""A logging handler that publishes each record, those of the client itself included."""

from __future__ import annotations

import _thread
import asyncio
import logging
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

import mb_testing
from mb_broker import RunningBroker, running
from mb_core import ConnectionLost, LocalProtocolError, Message, RequestTimeoutError
from mb_sync import MessageBrokerClient
from mb_testing import wait_until

from .programs import starting

PATIENCE = 20

_log = logging.getLogger("a.program")


class Shipping(logging.Handler):
    """Publishes records; remembers what went wrong with that, and where they were logged."""

    def __init__(self, client: MessageBrokerClient) -> None:
        super().__init__()
        self.client = client
        self.errors: list[Exception] = []
        self.threads: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        self.threads.add(threading.current_thread().name)
        try:
            self.client.publish("log.record", record.getMessage())
        except Exception as error:
            self.errors.append(error)


@pytest.fixture
def broker() -> Iterator[RunningBroker]:
    with running("tcp://127.0.0.1:0") as broker:
        yield broker


@pytest.fixture
def shipping(broker: RunningBroker) -> Iterator[Shipping]:
    """A handler of all that is logged in this process."""
    client = MessageBrokerClient(broker.url, publish_buffer=2_000)
    shipping = Shipping(client)
    root = logging.getLogger()
    level = root.level
    with client:
        root.addHandler(shipping)
        root.setLevel(logging.DEBUG)
        try:
            yield shipping
        finally:
            root.removeHandler(shipping)
            root.setLevel(level)


def test_what_the_clients_own_loop_logs_is_published_as_well(
    broker: RunningBroker, shipping: Shipping
) -> None:
    """Through an outage: that of the client, which it logs itself."""
    lost, connected = threading.Event(), threading.Event()
    shipping.client.on_disconnect(lost.set)
    shipping.client.on_connect(connected.set)
    connected.clear()
    records = shipping.client.subscribe("log.record")
    broker.kill()
    assert lost.wait(PATIENCE)
    _log.info("while away")
    broker.start()
    assert connected.wait(PATIENCE)
    heard: list[str] = []
    while not heard or not heard[-1].startswith("connected to"):
        heard.append(records.receive(PATIENCE * 1000).payload)
    assert "while away" in heard
    assert "mb_sync" in shipping.threads
    assert shipping.errors == []


def test_a_thread_that_logs_while_the_loop_logs_waits_for_nobody(
    broker: RunningBroker, shipping: Shipping
) -> None:
    """It holds the handler's lock, for which the loop waits: so it may not wait for the loop."""
    lost = threading.Event()
    shipping.client.on_disconnect(lost.set)
    broker.kill()
    assert lost.wait(PATIENCE)
    loop = shipping.client._lifecycle.loop
    assert loop is not None
    blocked, published = threading.Event(), threading.Event()

    def log() -> None:
        blocked.set()
        _log.info("from the loop")

    def publish() -> None:
        with shipping.lock or threading.Lock():
            loop.post(log)
            assert blocked.wait(PATIENCE)
            shipping.client.publish("log.record", "from the thread")
            published.set()

    thread = threading.Thread(target=publish)
    thread.start()
    assert published.wait(PATIENCE)
    thread.join(PATIENCE)
    broker.start()


def test_a_full_buffer_is_told_of_and_does_not_feed_itself(
    broker: RunningBroker, shipping: Shipping
) -> None:
    """Each report of a lost record is a record, too."""
    lost = threading.Event()
    shipping.client.on_disconnect(lost.set)
    broker.kill()
    assert lost.wait(PATIENCE)
    for number in range(200):
        _log.info("while away %d", number)
    count = len(shipping.errors)
    assert 100 < count < 250
    assert {type(error) for error in shipping.errors} == {ConnectionLost}
    assert shipping.client.stats().buffered_bytes <= 2_000
    broker.start()


def test_what_a_broker_in_this_process_logs_about_each_message_causes_no_other(
    broker: RunningBroker, shipping: Shipping, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its debug entry about a message is published; that publication gets no entry."""
    for name in ("mb_broker.broker", "mb_broker.registry", "mb_core.client"):
        monkeypatch.setattr(logging.getLogger(name), "disabled", True)
    shipping.client.request("system.heartbeat", {})  # behind what was logged before
    with MessageBrokerClient(broker.url) as listener:
        records = listener.subscribe("log.record", queue_size=None)
        for number in range(20):
            shipping.client.publish("log.record", number, confirm=True)
        heard: list[object] = []
        entry = "published log.record, receivers: 1"
        while heard.count(entry) < 20 or 19 not in heard:
            heard.append(records.receive(PATIENCE * 1000).payload)
        shipping.client.publish("another.topic", "behind all of it")
        text = records.receive(PATIENCE * 1000).payload
        assert text == "nobody is subscribed to publish another.topic"
        assert heard.count(entry) == 20
        assert [number for number in heard if isinstance(number, int)] == [*range(20)]


def test_in_the_loops_thread_a_call_that_waits_says_at_once_that_it_can_not(
    broker: RunningBroker, shipping: Shipping
) -> None:
    errors: list[Exception] = []
    done = threading.Event()
    client = shipping.client

    def call() -> None:
        for function in (
            lambda: client.request("some.question", 1),
            lambda: client.publish("some.event", 1, confirm=True),
            lambda: client.subscribe("some.event"),
            lambda: client.close(),
        ):
            try:
                function()
            except Exception as error:
                errors.append(error)
        done.set()

    assert client._lifecycle.loop is not None
    client._lifecycle.loop.post(call)
    assert done.wait(PATIENCE)
    assert [type(error) for error in errors] == [LocalProtocolError] * 4
    assert "may only publish, without confirm" in str(errors[0])


WAITING: dict[str, Callable[[MessageBrokerClient], object]] = {
    "request": lambda client: client.request("some.question", 1, timeout=300),
    "confirm": lambda client: client.publish("some.event", 1, confirm=True, timeout=300),
    "subscribe": lambda client: client.subscribe("some.event"),
    "stats": lambda client: client.stats(),
    "close": lambda client: client.close(),
}


@pytest.mark.parametrize("call", WAITING)
def test_a_thread_that_holds_what_the_loop_waits_for_gets_an_error(
    broker: RunningBroker, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """As in a logging handler, whose lock its thread holds while it calls."""
    monkeypatch.setattr("mb_sync.loop_thread._CHECK_INTERVAL", 0.2)
    monkeypatch.setattr("mb_sync.loop_thread._RESPONSE_TIMEOUT", 0.2)
    lock, blocked = threading.Lock(), threading.Event()
    with MessageBrokerClient(broker.url) as client:
        loop = client._lifecycle.loop
        assert loop is not None

        def log() -> None:
            blocked.set()
            with lock:
                pass

        error = RequestTimeoutError if call in ("request", "confirm") else LocalProtocolError
        with lock:
            loop.post(log)
            assert blocked.wait(PATIENCE)
            with pytest.raises(error, match="loop does not run: it waits for something that this"):
                WAITING[call](client)
        monkeypatch.undo()
        if call != "close":
            client.wait_connected(PATIENCE * 1000)
            assert client.stats().pending == 0


def test_connecting_again_where_an_interrupted_connect_cannot_be_undone_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mb_sync.loop_thread._CHECK_INTERVAL", 0.2)
    monkeypatch.setattr("mb_sync.loop_thread._RESPONSE_TIMEOUT", 0.2)
    with mb_testing.running("tcp://127.0.0.1:0") as mute:
        mute.faults.stall()
        client = MessageBrokerClient(mute.url)
        lock, blocked = threading.Lock(), threading.Event()

        def log() -> None:
            blocked.set()
            with lock:
                pass

        def interrupt() -> None:
            wait_until(lambda: client._lifecycle.loop is not None)
            client._lifecycle.loop.post(log)
            assert blocked.wait(PATIENCE)
            _thread.interrupt_main()

        interrupting = threading.Thread(target=interrupt)
        with lock:
            interrupting.start()
            with pytest.raises(KeyboardInterrupt):
                client.connect()
            with pytest.raises(LocalProtocolError, match="loop does not run: it waits for"):
                client.connect()
        interrupting.join()
        monkeypatch.undo()
        mute.faults.resume()
        with client:
            client.request("system.heartbeat", {})


def test_a_call_that_takes_long_is_no_fault_of_the_loops(
    broker: RunningBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mb_sync.loop_thread._CHECK_INTERVAL", 0.001)
    began, waited = threading.Event(), threading.Event()

    async def wait() -> str:
        began.set()
        while not waited.is_set():  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        return "done"

    with MessageBrokerClient(broker.url) as client:
        loop = client._lifecycle.loop
        assert loop is not None
        signs = iter(range(20))
        runs = loop.responds

        def count(within: float) -> bool:
            if next(signs, None) is None:
                waited.set()
            return runs(within)

        monkeypatch.setattr(loop, "responds", count)
        assert loop.call(wait) == "done"


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
def test_an_answer_that_waits_while_the_process_is_stopped_is_not_late(
    broker: RunningBroker,
) -> None:
    """The thread wakes up first, its time is over, and the loop has the answer."""
    program = """
client = MessageBrokerClient(url)
client.connect()
client.on_error(lambda error: say(repr(error)))
say("ready")
print(client.request("slow.answer", 1, timeout=1000).payload, flush=True)
client.close()
"""
    asked, answer = threading.Event(), threading.Event()

    def handle(message: Message) -> str:
        asked.set()
        assert answer.wait(PATIENCE)
        return "in time"

    with MessageBrokerClient(broker.url) as service, starting(broker) as start:
        service.subscribe("slow.answer", action="request", handler=handle)
        process = start(program)
        assert asked.wait(PATIENCE)
        process.process.send_signal(signal.SIGSTOP)
        answer.set()
        time.sleep(2.5)  # longer than the request has, and than the loop may be late
        process.process.send_signal(signal.SIGCONT)
        ended = process.wait()
    assert (ended.stdout, ended.status, ended.stderr) == ("in time\n", 0, "")
