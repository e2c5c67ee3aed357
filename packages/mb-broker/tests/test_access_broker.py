"""A broker with an access file, over every transport: clients without a token get nothing."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import anyio
import pytest

from mb_broker import Broker
from mb_broker.access import token_digest
from mb_client import ForbiddenError, MessageBrokerClient, UnauthorizedError
from mb_testing import until

from .conftest import RawClient
from .limited import framed, port_of, tls_contexts, urls

pytestmark = pytest.mark.anyio
kinds = pytest.mark.parametrize("scheme", ["memory", "tcp", "ws", "tls"])
SERVER, CLIENT = tls_contexts()

Connect = Callable[..., Awaitable[RawClient]]
FILE = f"""
[roles.weather]
respond = ["weather.current"]
publish = ["weather.#"]
[roles.reader]
subscribe = ["weather.#"]
request = ["weather.#"]
[[users]]
name = "station"
token_sha256 = "{token_digest("mb_station")}"
roles = ["weather"]
[[users]]
name = "billing"
token_sha256 = "{token_digest("mb_billing")}"
roles = ["reader"]
"""


@pytest.fixture
def access(tmp_path: Path) -> Path:
    path = tmp_path / "access.toml"
    path.write_text(FILE)
    path.chmod(0o600)
    return path


@pytest.fixture
async def broker(access: Path) -> AsyncIterator[Broker]:
    with anyio.fail_after(20):
        async with Broker(
            *urls(), "tls://127.0.0.1:0", ssl_context=SERVER, access=access, handshake_timeout=500
        ) as broker:
            yield broker


@pytest.fixture
def join(broker: Broker, connect: Connect) -> Connect:
    """Connect over a scheme, as a user if there is a name."""

    async def join(scheme: str, name: str = "") -> RawClient:
        tls = {"ssl_context": CLIENT, "server_hostname": "127.0.0.1"} if scheme == "tls" else {}
        client = await connect(broker.url_of(scheme), **tls)
        return await authenticate(client, name) if name else client

    return join


async def authenticate(client: RawClient, name: str) -> RawClient:
    answer = await client.ask("authenticate", {"token": f"mb_{name}"})
    assert answer == {"status": "success", "user": name}
    return client


@kinds
async def test_users_reach_each_other_and_others_reach_nobody(scheme: str, join: Connect) -> None:
    station, billing = await join(scheme, "station"), await join(scheme, "billing")
    await billing.subscribe("weather.#")
    await station.subscribe("weather.current", "request")
    stranger = await join(scheme)
    stranger.send("publish:weather.oslo:1.0.0\n1")
    error = json.loads((await stranger.receive()).partition(b"\n")[2])["error"]
    assert error["code"] == "UNAUTHORIZED"
    answer = await stranger.ask("topic.subscribe", {"action": "publish", "topic": "#"})
    assert answer["error"]["code"] == "UNAUTHORIZED"
    station.send("publish:weather.oslo:1.0.0\n2")
    assert (await billing.receive()).endswith(b"\n2")
    assert not stranger.inbox


@kinds
async def test_a_stranger_is_disconnected_in_time_and_others_stay(
    scheme: str, join: Connect, broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    station, stranger = await join(scheme, "station"), await join(scheme)
    await stranger.lost.wait()
    assert "did not authenticate within 500 ms (handshake_timeout): rejected" in caplog.text
    await station.is_served()
    assert broker.connections == 1


@kinds
async def test_the_third_wrong_token_gets_its_answer_and_ends_the_connection(
    scheme: str, join: Connect
) -> None:
    client = await join(scheme)
    for _ in range(3):
        answer = await client.ask("authenticate", {"token": "mb_wrong"})
        assert answer["error"]["code"] == "UNAUTHORIZED"
        assert answer["error"]["message"] == "the token is invalid"
    await client.lost.wait()
    assert client.error is None


async def test_a_flood_of_wrong_tokens_delays_nobody(join: Connect, broker: Broker) -> None:
    station = await join("tcp", "station")
    wrong = b'request:system.authenticate:1.0.0\n{"token": "mb_wrong"}'
    for _ in range(20):
        flooder = await join("tcp")
        flooder.send(*[wrong] * 1_000)
        await station.is_served()
        await flooder.lost.wait()
    await until(lambda: broker.connections == 1)


async def test_connections_that_are_not_closed_by_their_clients_keep_nobody_out(
    access: Path,
) -> None:
    wrong = framed(*[b'request:system.authenticate:1.0.0\n{"token": "mb_wrong"}'] * 3)
    limits = {"max_handshakes": 3, "max_connections": 10, "close_timeout": 60_000}
    async with AsyncExitStack() as stack:
        stack.enter_context(anyio.fail_after(10))
        broker = await stack.enter_async_context(Broker(*urls(), access=access, **limits))
        for _ in range(30):
            stream = await anyio.connect_tcp("127.0.0.1", port_of(broker, "tcp"))
            await stack.enter_async_context(stream)
            await stream.send(wrong)  # it neither reads the answers nor closes its side
            await until(lambda: broker.connections <= 2 * limits["max_handshakes"])
        async with MessageBrokerClient(broker.url_of("tcp"), token="mb_station") as client:
            assert client.user == "station"
        await broker.abort()


async def test_clients_get_errors_of_the_right_type(broker: Broker) -> None:
    async with MessageBrokerClient(broker.url) as client:
        with pytest.raises(UnauthorizedError, match="authenticate first"):
            await client.publish("weather.oslo", 1, confirm=True)
        await client.request("system.authenticate", {"token": "mb_billing"})
        await client.subscribe("weather.+", handler=print)
        with pytest.raises(ForbiddenError) as caught:
            await client.publish("weather.oslo", 1, confirm=True)
        details = {"action": "publish", "topic": "weather.oslo", "user": "billing"}
        assert caught.value.details == details
        with pytest.raises(ForbiddenError, match="may not subscribe to #"):
            await client.subscribe("#", handler=print)


@pytest.mark.parametrize("payload", [{"token": 1}, ["token"], "token", None])
async def test_nonsense_instead_of_a_token_is_refused(
    payload: Any, join: Connect, broker: Broker
) -> None:
    answer = await (await join("memory")).ask("authenticate", payload)
    assert answer["error"]["code"] == "INVALID_REQUEST"
    assert broker.connections == 1
