"""Clients that authenticate with a token, on each connection."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from mb_broker import Broker
from mb_broker.access import token_digest
from mb_core import (
    ConnectError,
    LocalProtocolError,
    Message,
    MessageBrokerClient,
    Plugins,
    UnauthorizedError,
    hookimpl,
)
from mb_testing import until

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("leaves_nothing")]

URLS = ["memory://", "tcp://127.0.0.1:0", "ws://127.0.0.1:0"]
schemes = pytest.mark.parametrize("scheme", ["memory", "tcp", "ws"])


@pytest.fixture
def access(tmp_path: Path) -> Callable[[str], Path]:
    """Write an access file in which the user `station` has this token."""

    def write(token: str) -> Path:
        path = tmp_path / "access.toml"
        path.write_text(
            '[roles.all]\npublish = ["#"]\nsubscribe = ["#"]\nrequest = ["#"]\nrespond = ["#"]\n'
            f'[[users]]\nname = "station"\ntoken_sha256 = "{token_digest(token)}"\n'
            'roles = ["all"]\n'
        )
        path.chmod(0o600)
        return path

    return write


@asynccontextmanager
async def serving(access: Any, *urls: str) -> AsyncIterator[Broker]:
    with anyio.fail_after(10):
        async with Broker(*(urls or URLS), access=access("mb_good")) as broker:
            yield broker


def lose_all(broker: Broker) -> None:
    """Break all connections of the broker."""
    for connection in list(broker._connections.by_service.values()):
        connection.link.abort()


@schemes
async def test_a_client_with_a_token_is_that_user(scheme: str, access: Any) -> None:
    async with serving(access) as broker:
        client = MessageBrokerClient(broker.url_of(scheme), token="mb_good")
        assert client.user is None
        async with client:
            assert client.user == "station"
            await client.subscribe("a.b", action="request", handler=lambda message: 5)
            assert (await client.request("a.b", {})).payload == 5


@schemes
async def test_a_rejected_token_is_final(scheme: str, access: Any) -> None:
    async with serving(access) as broker:
        url = broker.url_of(scheme)
        client = MessageBrokerClient(url, token="mb_secret", retry_connect=True)
        with pytest.raises(ConnectError, match="refused authentication: UNAUTH") as caught:
            await client.connect()
        assert caught.value.final
        assert isinstance(caught.value.__cause__, UnauthorizedError)
        assert str(caught.value) == (
            f"{url} refused authentication: UNAUTHORIZED: the token is invalid; "
            "pass the token of one of the broker's users as token=..."
        )
        assert "mb_secret" not in str(caught.value)
        await until(lambda: broker.connections == 0)


async def test_too_many_connections_of_a_user_are_worth_another_attempt(access: Any) -> None:
    def one_connection(token: str) -> Path:
        path: Path = access(token)
        path.write_text(path.read_text() + "max_connections = 1\n")
        return path

    async with serving(one_connection) as broker:
        async with MessageBrokerClient(broker.url, token="mb_good"):
            second = MessageBrokerClient(broker.url, token="mb_good")
            with pytest.raises(ConnectError, match="already has 1 connection") as caught:
                await second.connect()
            assert not caught.value.final
            assert "token=" not in str(caught.value)
        async with MessageBrokerClient(broker.url, token="mb_good") as client:
            assert client.user == "station"


def plain() -> str:
    return "mb_good"


async def slow() -> str:
    await anyio.lowlevel.checkpoint()
    return "mb_good"


@pytest.mark.parametrize("function", [plain, slow])
async def test_a_function_is_called_for_each_connection(function: Any, access: Any) -> None:
    calls = []

    async def token() -> str:
        calls.append(None)
        result = function()
        return result if isinstance(result, str) else await result

    handled = []
    async with (
        serving(access) as broker,
        MessageBrokerClient(broker.url_of("tcp"), token=token) as client,
    ):
        await client.subscribe("a.b", handler=lambda message: handled.append(message.payload))
        assert len(calls) == 1
        lose_all(broker)
        await until(lambda: len(calls) == 2)
        await client.wait_connected()
        assert client.user == "station"
        await client.publish("a.b", 7, confirm=True)
        await until(lambda: handled == [7])


async def test_a_token_that_was_revoked_is_tried_again_until_there_is_a_valid_one(
    access: Any, caplog: pytest.LogCaptureFixture
) -> None:
    tokens = ["mb_good", "mb_old", "mb_old", "mb_good"]

    async with (
        serving(access) as broker,
        MessageBrokerClient(
            broker.url_of("tcp"), token=lambda: tokens.pop(0), backoff_min=10
        ) as client,
    ):
        lose_all(broker)
        await until(lambda: not tokens)
        await client.wait_connected()
        assert client.user == "station"
        assert caplog.text.count("could not connect, will try again") == 2


@pytest.mark.parametrize(
    ("returned", "text"),
    [
        (None, "returned an object of type NoneType"),
        (b"mb_good", "returned an object of type bytes"),
        ("", "returned an empty string"),
        ("mb_good\n", "returned a string with characters that can't be printed"),
    ],
)
async def test_a_function_that_returns_something_else(
    returned: Any, text: str, access: Any
) -> None:
    def fetch() -> Any:
        return returned

    async with serving(access) as broker:
        with pytest.raises(ConnectError, match=f"the function .*fetch, .* {text}") as caught:
            await MessageBrokerClient(broker.url, token=fetch).connect()
        assert caught.value.final


async def test_a_function_that_fails_may_succeed_at_the_next_attempt(access: Any) -> None:
    outcomes: list[Any] = [OSError("no vault"), "mb_good"]

    def fetch() -> str:
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return str(outcome)

    async with serving(access) as broker:
        with pytest.raises(ConnectError, match=r"fetch, which .* failed: no vault") as caught:
            await MessageBrokerClient(broker.url, token=fetch).connect()
        assert not caught.value.final
        assert isinstance(caught.value.__cause__, OSError)
        outcomes.insert(0, OSError("no vault"))
        async with MessageBrokerClient(
            broker.url, token=fetch, retry_connect=True, backoff_min=10
        ) as client:
            assert client.user == "station"


async def test_a_function_that_takes_too_long_is_cancelled(access: Any) -> None:
    cancelled = []

    async def fetch() -> str:
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            cancelled.append(None)
            raise
        return ""

    async with serving(access) as broker:
        client = MessageBrokerClient(broker.url, token=fetch, connect_timeout=50)
        with pytest.raises(ConnectError, match=r"fetch, which .* took longer than 0\.05 s"):
            await client.connect()
        assert cancelled == [None]
        assert broker.connections == 0


async def test_cancelling_while_the_function_waits_leaves_nothing_behind(access: Any) -> None:
    waiting = anyio.Event()

    async def fetch() -> str:
        waiting.set()
        await anyio.sleep_forever()
        return ""

    async with serving(access) as broker:
        client = MessageBrokerClient(broker.url, token=fetch)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.connect)
            await waiting.wait()
            tasks.cancel_scope.cancel()
        assert not client.connected
        assert client.user is None
        assert broker.connections == 0


def fetch_from_vault(password: str) -> str:
    raise OSError("no vault")


class Vault:
    def __init__(self, password: str) -> None:
        self.password = password

    def __repr__(self) -> str:
        return f"Vault({self.password!r})"

    def __call__(self) -> str:
        raise OSError("no vault")


@pytest.mark.parametrize(
    ("source", "name"),
    [(partial(fetch_from_vault, "s3cret"), "fetch_from_vault"), (Vault("s3cret"), "Vault")],
)
async def test_what_is_bound_to_the_function_is_not_shown(source: Any, name: str) -> None:
    client = MessageBrokerClient("memory://nobody", token=source)
    with pytest.raises(ConnectError, match=f"the function {name}, which") as caught:
        await client.connect()
    assert "s3cret" not in str(caught.value) + repr(client) + repr(client._options)


async def test_a_broker_without_access_control_needs_no_token(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with anyio.fail_after(10):
        async with (
            Broker("tcp://127.0.0.1:0") as broker,
            MessageBrokerClient(broker.url, token="mb_secret") as client,
        ):
            assert client.user is None
            lose_all(broker)
            await until(lambda: not client.connected)
            await client.wait_connected()
            expected = f"{broker.url} has no access control: the token was not needed"
    assert [text for text in caplog.messages if "token" in text] == [expected]


@pytest.mark.parametrize(
    ("token", "text"),
    [
        ("", "invalid token: it is empty"),
        ("mb_secret\n", "invalid token: it has characters that can't be printed"),
        (5, "invalid token 5: expected a string, a function that returns one, or None"),
        (b"mb_secret", "invalid token of type bytes: expected a string"),
        (["mb_secret"], "invalid token of type list: expected a string"),
    ],
)
async def test_an_invalid_token_is_refused_at_once(token: Any, text: str) -> None:
    with pytest.raises(LocalProtocolError) as caught:
        MessageBrokerClient("memory://x", token=token)
    assert str(caught.value).startswith(text)
    assert "secret" not in str(caught.value)


async def test_a_token_is_shown_nowhere(access: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    sent: list[Message] = []

    class Watching:
        @hookimpl
        def mb_message_sending(self, message: Message) -> None:
            sent.append(message)

    plugins = Plugins(entry_points(group="mb.transports"))
    plugins.register(Watching(), "watching")
    async with serving(access) as broker:
        url = broker.url_of("tcp")
        async with MessageBrokerClient(url, token="mb_good", plugins=plugins) as client:
            assert client._supervisor is not None
            shown = [repr(client), repr(client._options), str(vars(client)), caplog.text]
    assert "system.authenticate" in [message.topic for message in sent]
    shown += [repr(message) + str(message.payload) for message in sent]
    assert not [text for text in shown if "mb_good" in text]
