"""WebSocketClient and TCPSocketClient: invalid messages, and framing."""

from __future__ import annotations

import itertools
import logging
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mb_broker import RunningBroker
from mb_core import (
    LocalProtocolError,
    MessageTooLarge,
    PluginError,
    Plugins,
    RemoteProtocolError,
    TCPSocketClient,
    hookimpl,
)

from .raw_clients import connected, make, scheme
from .watching import Start

__all__ = ["scheme"]

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("leaves_nothing")]
LIMIT = 16_384 + 367


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
