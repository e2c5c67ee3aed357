"""WebSocketClient and TCPSocketClient: messages, connecting, closing, callbacks."""

from __future__ import annotations

from typing import Any

import anyio
import anyio.lowlevel
import pytest
from anyio.abc import SocketAttribute

from mb_broker import RunningBroker
from mb_core import (
    ConnectError,
    ConnectionLost,
    LocalProtocolError,
    MessageBrokerClient,
    MessageHeader,
    RemoteProtocolError,
    TCPSocketClient,
    WebSocketClient,
    create_message,
    parse_message,
)
from mb_testing import until

from .raw_clients import connected, make, scheme
from .watching import Start

__all__ = ["scheme"]

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("leaves_nothing")]
GREETING = "publish:system.initialize:1.0.0\n{}"


# Speaking the protocol by hand


async def test_messages_go_out_and_come_in_as_text(mb_broker: RunningBroker, scheme: str) -> None:
    got: list[str] = []
    with anyio.fail_after(5):
        async with await connected(mb_broker, scheme) as client:
            client.on_message(got.append)
            await client.send("request:system.heartbeat:1.0.0\n{}")
            await until(lambda: len(got) == 2)
    assert got[0] == GREETING
    assert parse_message(got[1]).payload == {"status": "success"}


async def test_what_create_message_makes_is_understood(
    mb_broker: RunningBroker, scheme: str
) -> None:
    got: list[str] = []
    request_id = "0f8fad5b-d9cb-469f-a165-70867728950e"
    with anyio.fail_after(5):
        async with (
            MessageBrokerClient(mb_broker.url) as service,
            await connected(mb_broker, scheme) as client,
        ):
            await service.subscribe("echo", action="request", handler=lambda m: m.payload)
            client.on_message(got.append)
            header = MessageHeader("request", "echo", request_id=request_id)
            await client.send(create_message(header, {"text": "grüße"}))
            await until(lambda: len(got) == 2)
    answer = parse_message(got[1])
    assert (answer.request_id, answer.payload) == (request_id, {"text": "grüße"})


async def test_heartbeats_are_left_to_the_user(start_tcp_server: Start) -> None:
    got: list[str] = []
    async with start_tcp_server() as server:
        client = TCPSocketClient()
        client.on_message(got.append)
        with anyio.fail_after(5):
            await client.connect("127.0.0.1", server.port)
            await server.connected.wait()
            await server.send(b"request:system.heartbeat:1.0.0\n{}")
            await until(lambda: len(got) == 2)
            await client.close()
            await server.disconnected.wait()
        assert server.messages == []


async def test_a_url_says_where_to_connect(mb_broker: RunningBroker, scheme: str) -> None:
    client = make(scheme)
    with anyio.fail_after(5):
        await client.connect(mb_broker.url_of(scheme))
        await client.close()


# Connecting and closing


async def test_a_client_connects_once(mb_broker: RunningBroker, scheme: str) -> None:
    with anyio.fail_after(5):
        async with await connected(mb_broker, scheme) as client:
            with pytest.raises(LocalProtocolError, match="already connected"):
                await client.connect(mb_broker.url_of(scheme))
            await client.send("request:system.heartbeat:1.0.0\n{}")
        with pytest.raises(LocalProtocolError, match="already connected"):
            await client.connect(mb_broker.url_of(scheme))


async def test_after_a_failure_a_client_may_connect_elsewhere(
    mb_broker: RunningBroker, scheme: str, free_port: int
) -> None:
    client = make(scheme)
    with anyio.fail_after(5):
        with pytest.raises(ConnectError, match="nobody listens"):
            await client.connect("127.0.0.1", free_port)
        await client.connect(mb_broker.url_of(scheme))
        await client.close()


async def test_a_handshake_without_an_answer_is_a_connect_error_in_time(
    start_tcp_server: Start,
) -> None:
    async with start_tcp_server(greeting=None) as server:
        client = WebSocketClient(connect_timeout=50)
        with anyio.fail_after(5):
            with pytest.raises(ConnectError, match=r"did not accept .* within 0\.05 s"):
                await client.connect("127.0.0.1", server.port)
            await server.disconnected.wait()


async def test_sending_before_connecting_and_after_closing_is_refused(
    mb_broker: RunningBroker, scheme: str
) -> None:
    client = make(scheme)
    with anyio.fail_after(5):
        with pytest.raises(LocalProtocolError, match="not connected"):
            await client.send("x")
        await client.connect(mb_broker.url_of(scheme))
        await client.close()
        with pytest.raises(ConnectionLost) as lost:
            await client.send("x")
    assert not lost.value.sent


async def test_closing_twice_and_before_connecting_is_safe(
    mb_broker: RunningBroker, scheme: str
) -> None:
    client = make(scheme)
    with anyio.fail_after(5):
        await client.close()
        await client.connect(mb_broker.url_of(scheme))
        await client.close()
        await client.close()


async def test_a_callback_may_close_its_client(mb_broker: RunningBroker, scheme: str) -> None:
    client = make(scheme)
    closed = anyio.Event()

    async def close(text: str) -> None:
        await client.close()
        closed.set()

    client.on_message(close)
    with anyio.fail_after(3):
        await client.connect(mb_broker.url_of(scheme))
        await closed.wait()
        await client.close()


async def test_what_was_sent_before_closing_arrives(mb_broker: RunningBroker, scheme: str) -> None:
    with anyio.fail_after(5):
        async with (
            MessageBrokerClient(mb_broker.url) as listener,
            listener.subscribe("a.b") as events,
        ):
            async with await connected(mb_broker, scheme) as client:
                for number in range(100):
                    await client.send(f"publish:a.b:1.0.0\n{number}")
            await until(lambda: events.queued == 100)


async def test_who_sends_to_a_deaf_server_waits_and_can_be_cancelled() -> None:
    client = TCPSocketClient()
    with anyio.fail_after(5):
        # The system accepts connections for it, and resets them in the end.
        async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
            socket = listener.listeners[0]
            await client.connect("127.0.0.1", socket.extra(SocketAttribute.local_port))
            sent = 0
            with anyio.move_on_after(0.2):
                while True:
                    await client.send("x" * 10_000)
                    sent += 1
            assert sent < 2_000
        await client.close()


# Callbacks


@pytest.mark.parametrize("doomed", ["tcp", "ws"], indirect=True)
async def test_callbacks_come_in_the_order_of_events(doomed: Any) -> None:
    calls: list[str] = []
    client = make("tcp" if doomed.url.startswith("tcp") else "ws")

    async def slowly(text: str) -> None:
        for _ in range(5):
            await anyio.lowlevel.checkpoint()
        calls.append(text)

    client.on_message(slowly)
    client.on_connect(lambda: calls.append("connect"))
    client.on_disconnect(lambda: calls.append("disconnect"))
    with anyio.fail_after(5):
        await client.connect(doomed.url)
        await until(lambda: GREETING in calls)
        await doomed.kill()
        await until(lambda: "disconnect" in calls)
        await client.close()
    assert calls == ["connect", GREETING, "disconnect"]


async def test_messages_come_in_order_to_plain_and_async_handlers(
    start_tcp_server: Start,
) -> None:
    plain: list[str] = []
    waited: list[str] = []

    async def waiting(text: str) -> None:
        await anyio.lowlevel.checkpoint()
        waited.append(text)

    async with start_tcp_server() as server:
        client = TCPSocketClient()
        client.on_message(plain.append)
        client.on_message(waiting)
        with anyio.fail_after(5):
            await client.connect("127.0.0.1", server.port)
            await server.connected.wait()
            await server.send(*(str(number).encode() for number in range(100)))
            await until(lambda: len(waited) == 101)
            await client.close()
    assert plain == waited == [GREETING, *map(str, range(100))]


async def test_messages_before_the_first_handler_wait_for_it(start_tcp_server: Start) -> None:
    """As the greeting, which may come before `connect` returns."""
    first: list[str] = []
    second: list[str] = []
    async with start_tcp_server() as server:
        client = TCPSocketClient()
        with anyio.fail_after(5):
            await client.connect("127.0.0.1", server.port)
            await server.connected.wait()
            await server.send(b"one", b"two")
            with anyio.move_on_after(0.05):  # long enough for them to come
                await anyio.sleep_forever()
            client.on_message(first.append)
            client.on_message(second.append)
            await server.send(b"three")
            await until(lambda: "three" in second)
            await client.close()
    assert first == second == [GREETING, "one", "two", "three"]


async def test_only_so_many_messages_wait_for_a_handler() -> None:
    got: list[str] = []
    client = TCPSocketClient()
    await client._process_incoming_data(
        b"".join(client._frame_message(str(number)) for number in range(1_500))
    )
    client.on_message(got.append)
    await client._process_incoming_data(client._frame_message("last"))
    assert got == [*map(str, range(500, 1_500)), "last"]


async def test_a_failing_handler_stops_no_other(
    mb_broker: RunningBroker, scheme: str, caplog: pytest.LogCaptureFixture
) -> None:
    got: list[str] = []
    errors: list[Exception] = []

    def fail(text: str) -> None:
        raise ValueError("mine")

    client = make(scheme)
    client.on_message(fail)
    client.on_message(got.append)
    client.on_error(errors.append)
    with anyio.fail_after(5):
        await client.connect(mb_broker.url_of(scheme))
        await client.send("request:system.heartbeat:1.0.0\n{}")
        await until(lambda: len(got) == len(errors) == 2)
        await client.close()
    assert [str(error) for error in errors] == ["mine", "mine"]


async def test_a_broken_connection_is_told_to_on_error_and_on_disconnect(
    start_tcp_server: Start, caplog: pytest.LogCaptureFixture
) -> None:
    errors: list[Exception] = []
    calls: list[str] = []
    async with start_tcp_server() as server:
        client = TCPSocketClient()
        client.on_error(errors.append)
        client.on_disconnect(lambda: calls.append("disconnect"))
        with anyio.fail_after(5):
            await client.connect("127.0.0.1", server.port)
            await server.connected.wait()
            await server.reset()
            await until(lambda: calls)
            await client.close()
    assert [type(error) for error in errors] == [ConnectionLost]
    assert calls == ["disconnect"]


async def test_a_message_that_is_no_text_is_told_to_on_error(start_tcp_server: Start) -> None:
    got: list[str] = []
    errors: list[Exception] = []
    async with start_tcp_server() as server:
        client = TCPSocketClient()
        client.on_message(got.append)
        client.on_error(errors.append)
        with anyio.fail_after(5):
            await client.connect("127.0.0.1", server.port)
            await server.connected.wait()
            await server.send(b"\xff\xfe", b"text")
            await until(lambda: "text" in got)
            await client.close()
    assert [type(error) for error in errors] == [RemoteProtocolError]
    assert got == [GREETING, "text"]


async def test_answers_larger_than_what_may_be_sent_are_received(start_tcp_server: Start) -> None:
    """The lists of a broker's services grow with it: the limit is on what is sent."""
    got: list[str] = []
    async with start_tcp_server() as server:
        client = TCPSocketClient(max_payload=100)
        client.on_message(got.append)
        with anyio.fail_after(5):
            await client.connect("127.0.0.1", server.port)
            await server.connected.wait()
            await server.send(b"x" * 1_000_000)
            await until(lambda: len(got) == 2)
            await client.close()
    assert len(got[1]) == 1_000_000
