"""A broker that is broken or hostile: what the client holds and reports for it is bounded."""

from __future__ import annotations

import contextlib
import logging
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import anyio
import anyio.to_thread
import pytest

from mb_core import (
    ConnectionLost,
    MessageBrokerClient,
    RemoteProtocolError,
    TCPSocketClient,
    WebSocketClient,
)
from mb_core.wire import Limits, WireState
from mb_ws import server_wire

from .scripted import GREETING, error
from .watching import Watch

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("leaves_nothing")]

Script = Callable[[socket.socket], None]

HEARTBEAT = b"request:system.heartbeat:1.0.0\n{}"
UNANSWERED = b"request:a.b:1.0.0:3f2504e0-4f89-41d3-9a0c-0305e82c3301\n{}"
PING = b"\x89\x7d" + b"p" * 125


def framed(message: bytes) -> bytes:
    return struct.pack(">I", len(message)) + message


@contextmanager
def raw_broker(script: Script, scheme: str = "tcp") -> Iterator[str]:
    """The URL of a broker that is a script over a socket, behind the greeting, in a thread.

    The socket is read by the script alone, and behind it.
    """

    def serve() -> None:
        # Given up by the client, or never connected.
        with contextlib.suppress(OSError), listener.accept()[0] as sock:
            sock.settimeout(30)
            if scheme == "ws":
                shake_hands(sock)
            else:
                sock.sendall(framed(GREETING))
            script(sock)
            while sock.recv(65_536):
                pass

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(30)
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"{scheme}://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            thread.join()


def shake_hands(sock: socket.socket) -> None:
    wire = server_wire(Limits())
    while wire.state is WireState.HANDSHAKE:
        wire.receive_data(sock.recv(65_536))
    wire.send(GREETING)
    sock.sendall(wire.data_to_send())


def flood(data: bytes) -> Script:
    """Send the same for ever, and read nothing."""
    many = data * (65_536 // len(data))

    def script(sock: socket.socket) -> None:
        while True:
            sock.sendall(many)

    return script


@pytest.mark.parametrize(
    ("scheme", "data"),
    [("tcp", framed(HEARTBEAT)), ("tcp", framed(UNANSWERED)), ("ws", PING)],
    ids=["heartbeats", "requests that nobody answers", "pings"],
)
async def test_a_broker_that_reads_no_answers_is_given_up(scheme: str, data: bytes) -> None:
    with anyio.fail_after(20):
        with raw_broker(flood(data), scheme) as url:
            async with (
                MessageBrokerClient(url, reconnect=False) as client,
            ):
                with pytest.raises(ConnectionLost) as raised:
                    await client.run()
    text = str(raised.value)
    assert "does not read" in text
    assert "the limit is 1048576" in text
    cause: BaseException | None = raised.value
    while cause is not None and not isinstance(cause, RemoteProtocolError):
        cause = cause.__cause__
    assert cause is not None


async def test_a_raw_client_gives_up_who_reads_no_pongs() -> None:
    with anyio.fail_after(20):
        with raw_broker(flood(PING), "ws") as url:
            async with WebSocketClient() as client:
                errors: list[Exception] = []
                ended = anyio.Event()
                client.on_error(errors.append)
                client.on_disconnect(ended.set)
                await client.connect(url)
                await ended.wait()
    (lost,) = errors
    assert isinstance(lost, ConnectionLost)
    assert "the limit is 1048576" in str(lost)


@pytest.mark.parametrize(
    ("scheme", "data", "answer", "times"),
    [
        ("tcp", framed(HEARTBEAT), len(framed(b"response:system.heartbeat:1.0.0\n{}")), 120_000),
        ("ws", PING, len(PING) + 4, 40_000),
    ],
    ids=["heartbeats", "pings"],
)
async def test_one_that_reads_may_ask_as_much_as_it_likes(
    scheme: str, data: bytes, answer: int, times: int
) -> None:
    """More than three times the limit, as fast as it goes."""
    done = threading.Event()

    def script(sock: socket.socket) -> None:
        def send() -> None:
            for _ in range(100):
                sock.sendall(data * (times // 100))

        sender = threading.Thread(target=send)
        sender.start()
        left = times * answer
        assert left > 3 * 1024 * 1024
        while left > 0 and (received := sock.recv(65_536)):
            left -= len(received)
        sender.join()
        if left <= 0:
            done.set()

    with anyio.fail_after(30):
        with raw_broker(script, scheme) as url:
            async with (
                MessageBrokerClient(url, reconnect=False) as client,
            ):
                await anyio.to_thread.run_sync(done.wait, 20)
                assert done.is_set()
                assert client.connected


async def test_what_the_program_publishes_does_not_count() -> None:
    """Its own back-pressure bounds that, and a broker may be busy for a while."""
    published, answered = threading.Event(), threading.Event()
    payload = "x" * 10_000

    def script(sock: socket.socket) -> None:
        if not published.wait(20):
            return
        sock.sendall(framed(HEARTBEAT) * 100)
        left, tail, answers = 1_000 * len(payload), b"", 0
        while (left > 0 or answers < 100) and (received := sock.recv(65_536)):
            left -= len(received)
            answers += (tail + received).count(b"response:system.heartbeat")
            tail = (tail + received)[-24:]
        if left <= 0:
            answered.set()

    async def publish(client: MessageBrokerClient) -> None:
        await client.publish("a.b", payload)

    with anyio.fail_after(30):
        with raw_broker(script) as url:
            async with (
                MessageBrokerClient(url, reconnect=False) as client,
                anyio.create_task_group() as tasks,
            ):
                for _ in range(1_000):
                    tasks.start_soon(publish, client)
                await anyio.wait_all_tasks_blocked()
                published.set()
                await anyio.to_thread.run_sync(answered.wait, 20)
                assert answered.is_set()
                assert client.connected


# Reports


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


async def test_any_number_of_messages_that_cant_be_read_is_reported_once_a_second_and_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def script(sock: socket.socket) -> None:
        sock.sendall(framed(b"") * 5_000)

    with anyio.fail_after(20):
        with raw_broker(script) as url:
            async with (
                MessageBrokerClient(url, reconnect=False) as client,
            ):
                watch = Watch(client)
                while client.stats().messages_received <= 5_000:
                    await anyio.lowlevel.checkpoint()
                await watch.error(RemoteProtocolError)
                assert client.connected
    texts = warnings(caplog)
    assert len(texts) < 20  # two, and more on a machine that takes seconds
    assert len(watch.errors) <= len(texts)
    # The rest is reported when the client is closed, if not before.
    assert "(message 5000 of this kind)" in texts[-1]


async def test_reports_of_ever_new_topics_are_bounded_as_well(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def script(sock: socket.socket) -> None:
        for number in range(20):
            sock.sendall(
                b"".join(
                    framed(b"response:a%d.b:1.0.0\n%b" % (each, error("FORBIDDEN")))
                    for each in range(number * 1_000, number * 1_000 + 1_000)
                )
            )

    with anyio.fail_after(30):
        with raw_broker(script) as url:
            async with (
                MessageBrokerClient(url, reconnect=False) as client,
            ):
                while client.stats().messages_received <= 20_000:
                    await anyio.lowlevel.checkpoint()
                assert client.connected
    # 32 a second, and once what is left when the client is closed.
    assert len(warnings(caplog)) < 3_000


async def test_a_raw_client_reports_once_a_second_what_is_not_text(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def script(sock: socket.socket) -> None:
        sock.sendall(framed(b"\xff") * 5_000 + framed(b"the end"))

    with anyio.fail_after(20):
        with raw_broker(script) as url:
            async with TCPSocketClient() as client:
                ended = anyio.Event()
                errors: list[Exception] = []
                client.on_error(errors.append)
                client.on_message(lambda text: ended.set() if text == "the end" else None)
                await client.connect(url)
                await ended.wait()
    texts = warnings(caplog)
    assert 2 <= len(texts) < 20
    assert "(message 5000 of this kind)" in texts[-1]
    assert len(errors) <= len(texts)
