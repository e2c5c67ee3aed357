"""WebSocketClient and TCPSocketClient: whole messages as text, as the specification has them."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from anyio.abc import SocketAttribute
from hypothesis import given, settings
from hypothesis import strategies as st

from mb_broker import Broker, RunningBroker
from mb_core import (
    ConnectError,
    ConnectionLost,
    LocalProtocolError,
    MessageBrokerClient,
    MessageHeader,
    MessageTooLarge,
    PluginError,
    Plugins,
    RemoteProtocolError,
    TCPSocketClient,
    WebSocketClient,
    create_message,
    hookimpl,
    parse_message,
)
from mb_testing import until

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("leaves_nothing")]

Start = Callable[..., AbstractAsyncContextManager[Any]]
RawClient = TCPSocketClient | WebSocketClient

GREETING = "publish:system.initialize:1.0.0\n{}"
LIMIT = 16_384 + 367


@pytest.fixture(params=["tcp", "ws"])
def scheme(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def make(scheme: str, **options: Any) -> RawClient:
    return TCPSocketClient(**options) if scheme == "tcp" else WebSocketClient(**options)


async def connected(broker: Broker, scheme: str, **options: Any) -> RawClient:
    client = make(scheme, **options)
    await client.connect("127.0.0.1", int(broker.url_of(scheme).rpartition(":")[2]))
    return client


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
            with pytest.raises(LocalProtocolError, match="connected already"):
                await client.connect(mb_broker.url_of(scheme))
            await client.send("request:system.heartbeat:1.0.0\n{}")
        with pytest.raises(LocalProtocolError, match="connected already"):
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


# What can't be sent


async def test_a_message_may_have_the_limit_and_not_a_byte_more(
    start_tcp_server: Start,
) -> None:
    async with start_tcp_server() as server:
        client = TCPSocketClient()
        with anyio.fail_after(5):
            await client.connect("127.0.0.1", server.port)
            await client.send("ü" * (LIMIT // 2) + "x" * (LIMIT % 2))
            with pytest.raises(MessageTooLarge) as refused:
                await client.send("ü" * (LIMIT // 2) + "xx")
            await client.close()
            await server.disconnected.wait()
        assert [len(message) for message in server.messages] == [LIMIT]
    assert (refused.value.size, refused.value.limit) == (LIMIT + 1, LIMIT)


@pytest.mark.parametrize("message", ["\ud800", b"bytes", None, 1], ids=repr)
async def test_what_is_no_text_is_refused(
    mb_broker: RunningBroker, scheme: str, message: Any
) -> None:
    with anyio.fail_after(5):
        async with await connected(mb_broker, scheme) as client:
            with pytest.raises(LocalProtocolError):
                await client.send(message)
            await client.send("request:system.heartbeat:1.0.0\n{}")


@pytest.mark.parametrize(
    "options",
    [{"connect_timeout": 0}, {"connect_timeout": "1"}, {"max_payload": 0}, {"max_payload": 1.5}],
    ids=str,
)
async def test_bad_options_are_refused(scheme: str, options: dict[str, Any]) -> None:
    with pytest.raises(LocalProtocolError, match="invalid"):
        make(scheme, **options)


# Framing


def frame(message: str) -> bytes:
    encoded = message.encode()
    return len(encoded).to_bytes(4) + encoded


@given(message=st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=200))
def test_a_frame_is_a_length_and_the_text(message: str) -> None:
    assert TCPSocketClient()._frame_message(message) == frame(message)


async def test_a_frame_has_its_limit() -> None:
    client = TCPSocketClient(max_payload=100)
    assert len(client._frame_message("x" * 467)) == 471
    with pytest.raises(MessageTooLarge):
        client._frame_message("x" * 468)


async def test_incoming_data_is_cut_into_messages_however_it_is_split() -> None:
    messages = ["", "a", "grüße 😀", "x" * 300, "publish:a.b:1.0.0\n{}"]
    data = b"".join(map(frame, messages))
    for size in (1, 2, 3, 5, 7, 64, 200, len(data)):
        got: list[str] = []
        client = TCPSocketClient()
        client.on_message(got.append)
        for start in range(0, len(data), size):
            await client._process_incoming_data(data[start : start + size])
        assert got == messages


@settings(max_examples=60, deadline=None)
@given(
    messages=st.lists(st.text(alphabet="aü😀\n", max_size=20), max_size=8),
    cuts=st.lists(st.integers(0, 400), max_size=12),
)
def test_any_split_gives_the_same_messages(messages: list[str], cuts: list[int]) -> None:
    data = b"".join(map(frame, messages))
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    got: list[str] = []
    client = TCPSocketClient()
    client.on_message(got.append)
    for start, stop in itertools.pairwise(places):
        with pytest.raises(StopIteration):  # it waits for nothing but handlers that do
            client._process_incoming_data(data[start:stop]).send(None)
    assert got == messages


async def test_incoming_data_is_given_to_async_handlers_too() -> None:
    got: list[str] = []

    async def handler(text: str) -> None:
        await anyio.lowlevel.checkpoint()
        got.append(text)

    client = TCPSocketClient()
    client.on_message(handler)
    await client._process_incoming_data(frame("one") + frame("two"))
    assert got == ["one", "two"]


async def test_an_announced_length_above_the_limit_is_an_error_for_good() -> None:
    got: list[str] = []
    client = TCPSocketClient()
    client.on_message(got.append)
    with pytest.raises(MessageTooLarge) as raised:
        await client._process_incoming_data(frame("before") + b"\x7f\xff\xff\xff")
    assert raised.value.size == 0x7FFFFFFF
    with pytest.raises(MessageTooLarge):
        await client._process_incoming_data(frame("after"))
    assert got == ["before"]


async def test_garbage_is_named_as_what_it_may_be() -> None:
    with pytest.raises(RemoteProtocolError, match="speaks HTTP, which is for the ports of ws://"):
        await TCPSocketClient()._process_incoming_data(b"GET / HTTP/1.1\r\n\r\n")


async def test_incoming_data_that_is_no_text_is_told_to_on_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    got: list[str] = []
    errors: list[Exception] = []
    client = TCPSocketClient()
    client.on_message(got.append)
    client.on_error(errors.append)
    await client._process_incoming_data(b"\0\0\0\1\xff" + frame("text"))
    assert got == ["text"]
    assert [type(error) for error in errors] == [RemoteProtocolError]
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


async def test_framing_needs_the_transport_that_does_it() -> None:
    with pytest.raises(PluginError, match="pip install mb-tcp"):
        TCPSocketClient(plugins=Plugins())._frame_message("x")


async def test_a_transport_that_is_no_byte_stream_frames_nothing() -> None:
    class Transport:
        scheme = "tcp"

        async def connect(self, *args: Any, **options: Any) -> Any: ...
        async def listen(self, *args: Any, **options: Any) -> Any: ...

    class Plugin:
        @hookimpl
        def mb_register_transports(self) -> list[Any]:
            return [Transport()]

    plugins = Plugins()
    plugins.register(Plugin(), "a stranger's")
    with pytest.raises(PluginError, match="not a byte stream"):
        TCPSocketClient(plugins=plugins)._frame_message("x")
