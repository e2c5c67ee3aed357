"""A broker that trusts an identity provider: users come and go with their tokens."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from mb_broker import Broker
from mb_client import (
    ConnectError,
    ForbiddenError,
    LocalProtocolError,
    MessageBrokerClient,
    NoRouteFoundError,
    UnauthorizedError,
)
from mb_testing import VirtualClock

from .identity_provider import AUDIENCE, ISSUER, Provider, sign

backends = pytest.mark.parametrize("backend", ["asyncio", "trio"])

FILE = f"""
[roles.reader]
subscribe = ["weather.#"]
[roles.weather]
publish = ["weather.#"]
[authenticators.jwt]
issuer = "{ISSUER}"
audience = "{AUDIENCE}"
algorithms = ["ES256"]
jwks_file = "jwks.json"
"""
ROLES = 'roles_claim = "realm_access.roles"\n'


@pytest.fixture
def provider(tmp_path: Path) -> Provider:
    return Provider(tmp_path / "jwks.json")


@pytest.fixture
def access(tmp_path: Path) -> Callable[[str], Path]:
    """Write an access file that ends with some text."""

    def write(more: str = ROLES) -> Path:
        path = tmp_path / "access.toml"
        path.write_text(FILE + more)
        path.chmod(0o600)
        return path

    return write


Write = Callable[..., Path]


@pytest.mark.anyio
async def test_roles_come_from_the_token(provider: Provider, access: Write) -> None:
    async with (
        Broker(access=access()) as broker,
        MessageBrokerClient(broker.url, token=provider.token("ada", "reader", "other")) as reader,
        MessageBrokerClient(broker.url, token=provider.token("oslo", "weather")) as station,
        reader.subscribe("weather.#") as events,
    ):
        assert (reader.user, station.user) == ("ada", "oslo")
        await station.publish("weather.oslo", 3, confirm=True)
        assert (await anext(events)).payload == 3
        with pytest.raises(ForbiddenError) as caught:
            await reader.publish("weather.oslo", 4, confirm=True)
        assert caught.value.details["user"] == "ada"


@pytest.mark.anyio
async def test_without_roles_in_tokens_the_access_file_lists_the_users(
    provider: Provider, access: Write
) -> None:
    path = access('[[users]]\nname = "oslo"\nroles = ["weather"]\n')
    async with Broker(access=path) as broker:
        async with MessageBrokerClient(broker.url, token=provider.token("oslo")) as station:
            with pytest.raises(NoRouteFoundError):  # it may publish
                await station.publish("weather.oslo", 3, confirm=True)
        stranger = MessageBrokerClient(broker.url, token=provider.token("ada", "weather"))
        text = "this broker does not know the user of the token"
        with pytest.raises(ConnectError, match=text) as caught:
            await stranger.connect()
        assert isinstance(caught.value.__cause__, UnauthorizedError)


@pytest.mark.anyio
async def test_the_client_is_told_what_is_wrong_and_nothing_shows_the_token(
    provider: Provider, access: Write, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    expired, forged = provider.token("ada", seconds=-60), sign(headers={"kid": "first"})
    async with Broker(access=access()) as broker:
        for token, text in (
            (expired, "the token has expired"),
            (forged, "the token's signature is invalid"),
        ):
            with pytest.raises(ConnectError, match=text) as caught:
                await MessageBrokerClient(broker.url, token=token).connect()
            assert token not in repr(caught.value)
    assert "the token has expired" in caplog.text
    assert expired not in caplog.text
    assert forged not in caplog.text
    assert "ada" not in caplog.text


@backends
def test_a_client_comes_back_with_a_new_token_when_the_first_has_expired(
    backend: str, provider: Provider, access: Write, virtual_clock: VirtualClock
) -> None:
    issued: list[float] = []

    def token() -> str:
        issued.append(anyio.current_time())
        return provider.token("ada", "reader", seconds=300)

    async def main() -> None:
        async with (
            Broker(access=access()) as broker,
            MessageBrokerClient(broker.url, token=token) as reader,
            MessageBrokerClient(
                broker.url, token=provider.token("oslo", "weather", seconds=10_000)
            ) as station,
            reader.subscribe("weather.#") as events,
        ):
            lost = anyio.Event()
            reader.on_disconnect(lost.set)
            back = anyio.Event()
            reader.on_connect(back.set)
            await lost.wait()
            # with the leeway of 10 s
            assert anyio.current_time() == pytest.approx(310, abs=2)
            await back.wait()
            assert reader.user == "ada"
            await station.publish("weather.oslo", 3, confirm=True)
            assert (await anext(events)).payload == 3

    virtual_clock.run(main, backend=backend)
    assert len(issued) == 2


@pytest.mark.anyio
async def test_keys_are_rotated_while_the_broker_runs(provider: Provider, access: Write) -> None:
    lost = anyio.Event()
    async with (
        Broker(access=access()) as broker,
        MessageBrokerClient(broker.url, token=lambda: provider.token("ada", "reader")) as reader,
    ):
        first = provider.token("ada", "reader")
        reader.on_disconnect(lost.set)
        back = anyio.Event()
        reader.on_connect(back.set)
        # The new key is published, and with it the one that has signed the tokens in use.
        provider.rotate("second", keep=True)
        with pytest.raises(ConnectError, match="a key that this broker does not know"):
            await MessageBrokerClient(broker.url, token=provider.token("ada", "reader")).connect()
        broker.reload_access()
        async with MessageBrokerClient(broker.url, token=provider.token("ada", "reader")) as other:
            assert other.user == "ada"
        async with MessageBrokerClient(broker.url, token=first) as other:
            assert other.user == "ada"
        await reader.request("system.heartbeat", {})
        assert not lost.is_set()
        # The first key is withdrawn: its tokens are not accepted any more.
        provider.rotate("third")
        broker.reload_access()
        with anyio.fail_after(10):
            await lost.wait()
            await back.wait()
        with pytest.raises(ConnectError, match="a key that this broker does not know"):
            await MessageBrokerClient(broker.url, token=first).connect()


@pytest.mark.anyio
async def test_keys_that_can_not_be_read_change_nothing(provider: Provider, access: Write) -> None:
    async with Broker(access=access()) as broker:
        provider.path.write_text('{"keys":[')
        with pytest.raises(LocalProtocolError, match="is not a JWKS"):
            broker.reload_access()
        async with MessageBrokerClient(broker.url, token=provider.token("ada", "reader")) as reader:
            assert reader.user == "ada"


@pytest.mark.anyio
async def test_limits_apply_to_users_of_the_provider(provider: Provider, access: Write) -> None:
    path = access(ROLES + "max_connections = 1\n")
    async with (
        Broker(access=path) as broker,
        MessageBrokerClient(broker.url, token=provider.token("ada")),
        MessageBrokerClient(broker.url, token=provider.token("eve")),
    ):
        third = MessageBrokerClient(broker.url, token=provider.token("ada"))
        with pytest.raises(ConnectError, match="already has 1 connection"):
            await third.connect()
