"""Custom codecs: payloads that are not JSON, on both sides, and mistakes."""

from __future__ import annotations

import pickle
from ast import literal_eval
from typing import Any

import anyio
import pytest

from mb_core import (
    LocalProtocolError,
    Message,
    MessageBrokerClient,
    MessageTooLarge,
    PluginError,
    Plugins,
    RemoteProtocolError,
    ResponseError,
    hookimpl,
    installed_plugins,
)

from .scripted import SUCCESS
from .watching import Watch

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("leaves_nothing")]


class Repr:
    """Writes payloads as Python does, and reads them; `kind` converts."""

    name = "repr"

    def encode(self, payload: Any) -> bytes:
        return repr(payload).encode()

    def decode(self, data: bytes, kind: Any) -> Any:
        value = literal_eval(data.decode())
        return value if kind is Any else kind(value)


class Registered:
    """Repr as a plugin, beside the transports that are installed."""

    @hookimpl
    def mb_register_codecs(self) -> list[Repr]:
        return [Repr()]

    @hookimpl
    def mb_register_transports(self) -> list[Any]:
        return [installed_plugins().transport(scheme) for scheme in ("memory", "tcp", "ws")]


@pytest.fixture
def plugins() -> Plugins:
    plugins = Plugins()
    plugins.register(Registered(), "registered")
    return plugins


# What JSON does not know.
PAYLOAD = {"city": ("Oslo", b"\xff"), 3: {1, 2}}


@pytest.mark.parametrize("codec", ["repr", Repr()], ids=["by name", "as an object"])
async def test_both_sides_speak_it(url: str, codec: Any, plugins: Plugins) -> None:
    asked: list[Any] = []

    def answer(message: Message) -> Any:
        asked.append(message.payload)
        return {"answer": message.payload}

    with anyio.fail_after(10):
        async with (
            MessageBrokerClient(url, codec=codec, plugins=plugins) as service,
            MessageBrokerClient(url, codec=codec, plugins=plugins) as client,
        ):
            await service.subscribe("echo", action="request", handler=answer)
            response = await client.request("echo", PAYLOAD)
            async with client.subscribe("events") as events:
                await service.publish("events", PAYLOAD, confirm=True)
                event = await anext(events)
    assert asked == [PAYLOAD]
    assert response.payload == {"answer": PAYLOAD}
    assert event.payload == PAYLOAD
    assert event.raw_payload == repr(PAYLOAD).encode()
    assert event.decode(list) == [*PAYLOAD]


async def test_what_the_broker_is_told_stays_json(scripted: Any) -> None:
    scripted.answers["System.Heartbeat"] = SUCCESS
    with anyio.fail_after(10):
        async with MessageBrokerClient(scripted.url, codec=Repr()) as client:
            await client.register_service("Repr", "speaks it")
            await client.subscribe("events")
            heartbeat = await client.request("system.heartbeat", {"really": True})
            other_case = await client.request("System.Heartbeat", {"really": True})
            await client.publish("System.Log", {"really": True})
            await client.publish("events", {"really": True})
            connection = await scripted.connection(1)
            log = await connection.wait_for(b"publish:System.Log")
            event = await connection.wait_for(b"publish:events")
    assert heartbeat.payload == other_case.payload == {"status": "success"}
    for message in (*connection.starting(b"request:"), log):
        assert b'{"' in message
        assert b"'" not in message
    assert event.endswith(b"\n{'really': True}")


async def test_errors_are_json_whatever_the_codec_is(url: str) -> None:
    def fail(message: Message) -> None:
        raise ResponseError("no such city", code="NO_CITY", details={"really": True})

    with anyio.fail_after(10):
        async with MessageBrokerClient(url, codec=Repr()) as client:
            await client.subscribe("weather", action="request", handler=fail)
            with pytest.raises(ResponseError, match="no such city") as raised:
                await client.request("weather", PAYLOAD)
    assert (raised.value.code, raised.value.details) == ("NO_CITY", {"really": True})


async def test_a_message_remembers_its_codec_when_it_is_pickled(url: str) -> None:
    with anyio.fail_after(10):
        async with (
            MessageBrokerClient(url, codec=Repr()) as client,
            client.subscribe("events") as events,
        ):
            await client.publish("events", PAYLOAD)
            event = await anext(events)
    assert pickle.loads(pickle.dumps(event)).payload == PAYLOAD


# Mistakes


async def test_an_unknown_codec_is_refused_at_once() -> None:
    with pytest.raises(PluginError, match=r"no installed plugin has the codec 'repr'"):
        MessageBrokerClient("tcp://localhost", codec="repr")


class Writing:
    """A codec that writes what the test chooses."""

    name = "writing"

    def __init__(self, written: Any) -> None:
        self._written = written

    def encode(self, payload: Any) -> bytes:
        if isinstance(self._written, Exception):
            raise self._written
        return self._written  # type: ignore[no-any-return]

    def decode(self, data: bytes, kind: Any) -> Any:
        raise AssertionError("nothing is received here")


@pytest.mark.parametrize(
    ("written", "kind", "text"),
    [
        (ZeroDivisionError("by what?"), LocalProtocolError, "can't be written as writing: by what"),
        ("text", LocalProtocolError, "the codec 'writing' wrote str, not bytes"),
        (None, LocalProtocolError, "the codec 'writing' wrote NoneType, not bytes"),
        (b"two\nlines", LocalProtocolError, "the payload contains a line break"),
        (b"\xff", LocalProtocolError, "the payload is not valid UTF-8"),
        (b"x" * 20_000, MessageTooLarge, "the payload has 20000 bytes, the limit is 16384"),
    ],
)
async def test_what_can_t_be_sent_is_the_caller_s_error(
    written: Any, kind: type[Exception], text: str, url: str
) -> None:
    with anyio.fail_after(10):
        async with MessageBrokerClient(url, codec=Writing(written)) as client:
            with pytest.raises(kind, match=text):
                await client.publish("events", {})
            with pytest.raises(kind, match=text):
                await client.request("echo", {})
            assert client.stats().pending == 0
            # The connection, and what is JSON on it, goes on.
            await client.request("system.heartbeat", {})


async def test_what_can_t_be_read_is_the_other_side_s_error(url: str) -> None:
    handled: list[Any] = []
    with anyio.fail_after(10):
        async with (
            MessageBrokerClient(url) as json,
            MessageBrokerClient(url, codec=Repr()) as client,
        ):
            watch = Watch(client)
            await client.subscribe("events", handler=lambda m: handled.append(m.payload))
            await json.subscribe("echo", action="request", handler=lambda m: [True])
            await json.publish("events", True)  # no Python
            await json.publish("events", 7)  # both
            await watch.error(RemoteProtocolError)
            answer = await client.request("echo", 1)
            with pytest.raises(
                RemoteProtocolError, match="can't be read by the codec 'repr': "
            ) as e:
                _ = answer.payload
    assert "begins '[true]'" in str(e.value)
    assert handled == [7]


async def test_a_handler_s_answer_that_can_t_be_written_is_an_error_for_both(url: str) -> None:
    class Half(Repr):
        def encode(self, payload: Any) -> bytes:
            if payload == "unspeakable":
                raise ValueError("not that")
            return super().encode(payload)

    with anyio.fail_after(10):
        async with MessageBrokerClient(url, codec=Half()) as client:
            watch = Watch(client)
            await client.subscribe("echo", action="request", handler=lambda m: "unspeakable")
            with pytest.raises(ResponseError) as raised:
                await client.request("echo", 1)
            error = await watch.error(LocalProtocolError)
    assert raised.value.code == "INTERNAL_ERROR"
    assert "can't be written as repr: not that" in str(error)
