"""Handlers that let an error about their own service's user escape."""

from __future__ import annotations

import pytest

from mb_core import (
    ForbiddenError,
    InternalError,
    Message,
    MessageBrokerClient,
    ResponseError,
    ServiceUnavailableError,
)
from mb_testing import until

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("leaves_nothing")]


@pytest.mark.parametrize(
    "error",
    [
        ForbiddenError("x", details={"action": "request", "topic": "b", "user": "secret-user"}),
        ServiceUnavailableError("x", details={"user": "secret-user", "max_rate": 5}),
    ],
)
async def test_what_the_services_own_user_may_not_do_is_not_passed_on(
    error: ResponseError, client: MessageBrokerClient
) -> None:
    """The name of the user is not for those who send requests."""
    noticed: list[BaseException] = []
    client.on_error(noticed.append)

    def handle(message: Message) -> None:
        raise error

    await client.subscribe("echo", action="request", handler=handle)
    with pytest.raises(InternalError) as raised:
        await client.request("echo", {})
    assert "secret-user" not in f"{raised.value} {raised.value.details}"
    await until(lambda: noticed == [error])


async def test_a_services_own_decision_is_passed_on(client: MessageBrokerClient) -> None:
    def handle(message: Message) -> None:
        raise ForbiddenError("not yours", details={"user": "ada"})

    await client.subscribe("echo", action="request", handler=handle)
    with pytest.raises(ForbiddenError) as raised:
        await client.request("echo", {})
    assert raised.value.details == {"user": "ada"}
