"""Subscriptions that the broker ends, because the user's roles have changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from mb_broker import Broker
from mb_broker.access import token_digest
from mb_core import ForbiddenError, Message, MessageBrokerClient, NoRouteFoundError
from mb_testing import until

Write = Callable[[str], Path]
EVERYTHING = 'publish = ["#"]\nrequest = ["#"]\nsubscribe = ["#"]\nrespond = ["#"]\n'
EVERYTHING += 'system = ["log"]\n'
LESS = 'publish = ["#"]\nrequest = ["#"]\nsubscribe = ["b"]\nrespond = ["b"]\n'

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("leaves_nothing")]


@pytest.fixture
def access(tmp_path: Path) -> Write:
    """Write an access file in which the role of the user `station` is this."""

    def write(role: str) -> Path:
        path = tmp_path / "access.toml"
        path.write_text(
            f'[roles.one]\n{role}[[users]]\nname = "station"\nroles = ["one"]\n'
            f'token_sha256 = "{token_digest("mb_station")}"\n'
        )
        path.chmod(0o600)
        return path

    return write


@pytest.mark.parametrize("scheme", ["memory", "tcp", "ws"])
async def test_what_consumes_it_gets_the_error_and_others_go_on(scheme: str, access: Write) -> None:
    errors: list[Any] = []
    got: list[Any] = []

    async def take(message: Message) -> None:
        got.append(message.payload)

    urls = ["memory://", "tcp://127.0.0.1:0", "ws://127.0.0.1:0"]
    with anyio.fail_after(10):
        async with (
            Broker(*urls, access=access(EVERYTHING)) as broker,
            MessageBrokerClient(broker.url_of(scheme), token="mb_station") as client,
        ):
            client.on_error(errors.append)
            iterated = await client.subscribe("a.#")
            handled = await client.subscribe("A.x", handler=take)
            answering = await client.subscribe("c", action="request", handler=take)
            log = await client.subscribe("system.log")
            kept = await client.subscribe("b", handler=take)
            await client.publish("a.x", 1, confirm=True)
            access(LESS)
            broker.reload_access()
            await until(lambda: len(errors) == 4)
            assert {(type(error), error.details["topic"]) for error in errors} == {
                (ForbiddenError, topic) for topic in ("a.#", "a.x", "c", "system.log")
            }
            assert [message.payload async for message in _until_error(iterated)] == [1]
            for subscription in (iterated, log):
                with pytest.raises(ForbiddenError, match="may not subscribe to"):
                    await anext(subscription)
            await client.publish("b", 2, confirm=True)
            await until(lambda: got == [1, 2])
            with pytest.raises(NoRouteFoundError):
                await client.request("c", {})
            for subscription in (iterated, handled, answering, log, kept):
                await subscription.unsubscribe()


async def _until_error(subscription: Any) -> Any:
    try:
        async for message in subscription:
            yield message
    except ForbiddenError:
        return


async def test_it_is_not_restored_and_can_be_made_again_when_it_is_allowed(access: Write) -> None:
    errors: list[BaseException] = []
    got: list[Any] = []
    with anyio.fail_after(10):
        async with (
            Broker("tcp://127.0.0.1:0", access=access(EVERYTHING)) as broker,
            MessageBrokerClient(broker.url, token="mb_station", backoff_min=10) as client,
        ):
            client.on_error(errors.append)
            await client.subscribe("a", handler=lambda message: None)
            access(LESS)
            broker.reload_access()
            await until(lambda: len(errors) == 1)
            again = anyio.Event()
            client.on_connect(again.set)
            for connection in list(broker._connections.by_service.values()):
                connection.link.abort()
            await again.wait()
            assert len(errors) == 1
            with pytest.raises(ForbiddenError):
                await client.subscribe("a", handler=lambda message: None)
            access(EVERYTHING)
            broker.reload_access()
            await client.subscribe("a", handler=lambda message: got.append(message.payload))
            await client.publish("a", 1, confirm=True)
            await until(lambda: got == [1])
            assert len(errors) == 1
