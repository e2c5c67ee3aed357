"""The blocking client authenticates as the async one does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from mb_broker import RunningBroker, running
from mb_broker.access import token_digest
from mb_core import ConnectError, ForbiddenError
from mb_sync import MessageBrokerClient


def plain() -> str:
    return "mb_station"


async def slow() -> str:
    await anyio.lowlevel.checkpoint()
    return "mb_station"


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[RunningBroker]:
    path = tmp_path / "access.toml"
    path.write_text(
        '[roles.weather]\nrespond = ["weather.+"]\nrequest = ["weather.+"]\n[[users]]\n'
        f'name = "station"\ntoken_sha256 = "{token_digest("mb_station")}"\nroles = ["weather"]\n'
    )
    path.chmod(0o600)
    with running("tcp://127.0.0.1:0", access=path) as broker:
        yield broker


@pytest.mark.parametrize("token", ["mb_station", plain, slow])
def test_a_client_is_the_user_of_its_token(token: Any, broker: RunningBroker) -> None:
    with MessageBrokerClient(broker.url, token=token) as client:
        assert client.user == "station"
        client.subscribe("weather.now", action="request", handler=lambda message: 21)
        assert client.request("weather.now", {}).payload == 21
        with pytest.raises(ForbiddenError, match=r"'station' may not publish to weather.now"):
            client.publish("weather.now", 1, confirm=True)


def test_a_wrong_token_is_a_connect_error(broker: RunningBroker) -> None:
    client = MessageBrokerClient(broker.url, token="mb_secret")
    with pytest.raises(ConnectError, match="refused authentication") as caught:
        client.connect()
    assert caught.value.final
    assert "mb_secret" not in str(caught.value)
    assert client.user is None


def test_a_subscription_that_the_broker_ends_raises_where_its_messages_are_read(
    broker: RunningBroker, tmp_path: Path
) -> None:
    errors: list[Exception] = []
    with MessageBrokerClient(broker.url, token="mb_station") as client:
        client.on_error(errors.append)
        subscription = client.subscribe("weather.now", action="request")
        path = tmp_path / "access.toml"
        path.write_text(path.read_text().replace("respond = ", "publish = "))
        broker.reload_access()
        with pytest.raises(ForbiddenError, match="may not respond to requests for weather"):
            next(iter(subscription))
    assert [type(error) for error in errors] == [ForbiddenError]
