"""Users whose connections say who they are: by a client certificate, or by a header."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
import trustme
from websockets.sync.client import connect as open_websocket

import mb_sync
from mb_broker import Broker
from mb_broker.access import token_digest
from mb_client import (
    ConnectError,
    ForbiddenError,
    InvalidRequestError,
    MessageBrokerClient,
    NoRouteFoundError,
    UnauthorizedError,
)

pytestmark = pytest.mark.anyio
secure = pytest.mark.parametrize("scheme", ["tls", "wss"])

CA = trustme.CA()
FILE = f"""
[roles.reader]
subscribe = ["weather.#"]
[roles.weather]
publish = ["weather.#"]
[[users]]
name = "billing"
certificate = "DNS:Billing.example"
roles = ["reader"]
[[users]]
name = "wildcard"
certificate = "DNS:*.wild.example"
roles = ["reader"]
[[users]]
name = "named"
certificate = "CN=Just A Name"
roles = ["reader"]
[[users]]
name = "station"
token_sha256 = "{token_digest("mb_station")}"
roles = ["weather"]
max_connections = 1
"""


def server_context() -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    CA.issue_cert("127.0.0.1").configure_cert(context)
    CA.configure_trust(context)
    context.verify_mode = ssl.CERT_OPTIONAL
    return context


def client_context(
    *names: str, common_name: str | None = None, ca: trustme.CA = CA
) -> ssl.SSLContext:
    """Return the settings of a client whose certificate has these names, if there are any."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    CA.configure_trust(context)
    if names:
        ca.issue_cert(*names, common_name=common_name).configure_cert(context)
    return context


@pytest.fixture
def access(tmp_path: Path) -> Path:
    path = tmp_path / "access.toml"
    path.write_text(FILE)
    path.chmod(0o600)
    return path


@pytest.fixture
async def broker(access: Path) -> AsyncIterator[Broker]:
    urls = ("tls://127.0.0.1:0", "wss://127.0.0.1:0", "ws://127.0.0.1:0")
    with anyio.fail_after(30):
        async with Broker(*urls, ssl_context=server_context(), access=access) as broker:
            yield broker


async def user_of(client: Any) -> Any:
    return (await client.request("system.authenticate", {})).payload


@secure
@pytest.mark.parametrize(
    ("names", "common_name", "user"),
    [
        (["billing.example"], None, "billing"),
        (["other.example", "BILLING.example"], "Just A Name", "billing"),
        (["other.example"], "Just A Name", "named"),
        (["*.wild.example"], None, "wildcard"),
    ],
)
async def test_a_certificate_is_a_user(
    scheme: str, names: list[str], common_name: str | None, user: str, broker: Broker
) -> None:
    context = client_context(*names, common_name=common_name)
    async with MessageBrokerClient(broker.url_of(scheme), ssl_context=context) as client:
        assert await user_of(client) == {"status": "success", "user": user}
        async with client.subscribe("weather.#"):
            pass
        with pytest.raises(ForbiddenError):
            await client.publish("weather.oslo", 1, confirm=True)


@secure
@pytest.mark.parametrize(
    "names", [[], ["other.example"], ["a.wild.example"], ["*.example"], ["billing.example.evil"]]
)
async def test_a_certificate_of_no_user_is_nobody(
    scheme: str, names: list[str], broker: Broker
) -> None:
    context = client_context(*names, common_name="just a name" if names else None)
    async with MessageBrokerClient(broker.url_of(scheme), ssl_context=context) as client:
        with pytest.raises(InvalidRequestError, match="a token is required"):
            await user_of(client)
        with pytest.raises(UnauthorizedError):
            await client.subscribe("weather.#")


@secure
async def test_a_token_counts_more_than_the_certificate(scheme: str, broker: Broker) -> None:
    url, context = broker.url_of(scheme), client_context("billing.example")
    async with MessageBrokerClient(url, ssl_context=context, token="mb_station") as client:
        assert client.user == "station"
        with pytest.raises(NoRouteFoundError):  # it may
            await client.publish("weather.oslo", 1, confirm=True)
    with pytest.raises(ConnectError, match="refused authentication: UNAUTHORIZED"):
        await MessageBrokerClient(url, ssl_context=context, token="mb_wrong").connect()


@secure
async def test_a_certificate_of_another_ca_does_not_connect(scheme: str, broker: Broker) -> None:
    context = client_context("billing.example", ca=trustme.CA())
    with pytest.raises(ConnectError, match="does not trust the CA of the client certificate"):
        await MessageBrokerClient(broker.url_of(scheme), ssl_context=context).connect()
    assert broker.connections == 0


@secure
async def test_the_blocking_client_is_the_certificates_user_too(
    scheme: str, broker: Broker
) -> None:
    def run() -> Any:
        context = client_context("billing.example")
        with mb_sync.MessageBrokerClient(broker.url_of(scheme), ssl_context=context) as client:
            return client.request("system.authenticate", {}).payload

    assert await anyio.to_thread.run_sync(run) == {"status": "success", "user": "billing"}


def ask_over_websocket(url: str, authorization: str) -> Any:
    """Return what the broker answers to a WebSocket client that some proxy has identified."""
    identifier = "123e4567-e89b-42d3-a456-426614174000"
    with open_websocket(url, additional_headers={"Authorization": authorization}) as websocket:
        websocket.recv()  # the greeting
        websocket.send(f"request:system.authenticate:1.0.0:{identifier}\n{{}}")
        return json.loads(str(websocket.recv()).partition("\n")[2])


@pytest.mark.parametrize(
    ("header", "user"),
    [("Bearer mb_station", "station"), ("bearer mb_station", "station"), ("Basic eDp5", None)],
)
async def test_a_header_of_the_handshake_says_who_the_client_is(
    header: str, user: str | None, broker: Broker
) -> None:
    answer = await anyio.to_thread.run_sync(ask_over_websocket, broker.url_of("ws"), header)
    assert answer.get("user") == user
    assert answer.get("status") == ("success" if user else None)


async def test_a_wrong_token_in_the_header_is_logged_without_it(
    broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    answer = await anyio.to_thread.run_sync(
        ask_over_websocket, broker.url_of("ws"), "Bearer mb_wrong"
    )
    assert answer["error"]["code"] == "INVALID_REQUEST"
    assert "the token is invalid (in the Authorization header of a connection)" in caplog.text
    assert "mb_wrong" not in caplog.text


async def test_a_client_sends_its_token_with_the_handshake_and_counts_once(
    broker: Broker,
) -> None:
    async with MessageBrokerClient(broker.url_of("ws"), token="mb_station") as client:
        assert client.user == "station"
        with pytest.raises(ConnectError, match=r"already has 1 connection \(max_connections\)"):
            await MessageBrokerClient(broker.url_of("ws"), token="mb_station").connect()
