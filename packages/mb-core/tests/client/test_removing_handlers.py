"""What `on_*` methods return: it removes the handler, and serves as a decorator."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from mb_core import MessageBrokerClient, Registration

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("leaves_nothing")]


class Heard(list[Any]):
    """Takes messages, and can be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self._changed = anyio.Event()

    def __call__(self, header: Any, payload: Any) -> None:
        self.append(payload)
        self._changed.set()

    async def until(self, expected: list[Any]) -> None:
        with anyio.fail_after(5):
            while self != expected:
                self._changed = anyio.Event()
                await self._changed.wait()


async def test_a_handler_that_was_removed_hears_no_more(client: MessageBrokerClient) -> None:
    first, second = Heard(), Heard()
    remove = client.on_message(first)
    client.on_message(second)
    await client.subscribe("a.b")
    await client.publish("a.b", 1, confirm=True)
    await first.until([1])
    remove()
    remove()  # does nothing
    await client.publish("a.b", 2, confirm=True)
    await second.until([1, 2])
    assert first == [1]


async def test_what_waits_when_the_last_handler_is_removed_is_the_next_one_s(
    client: MessageBrokerClient,
) -> None:
    began, proceed, next_one = anyio.Event(), anyio.Event(), Heard()

    async def slow(header: Any, payload: Any) -> None:
        began.set()
        await proceed.wait()

    registration = client.on_message(slow)
    subscription = await client.subscribe("a.b")
    for number in range(3):
        await client.publish("a.b", number, confirm=True)
    await began.wait()
    registration.remove()
    assert subscription.queued == 2
    proceed.set()
    client.on_message(next_one)
    await client.publish("a.b", 3, confirm=True)
    await next_one.until([1, 2, 3])


async def test_without_a_handler_the_subscription_can_be_iterated(
    client: MessageBrokerClient,
) -> None:
    client.on_message(lambda header, payload: None).remove()
    remove = client.on_message(lambda header, payload: None)
    async with client.subscribe("a.b") as events:
        remove()
        await client.publish("a.b", 1)
        with anyio.fail_after(5):
            assert (await anext(events)).payload == 1


async def test_events_that_wait_for_a_removed_handler_are_dropped(
    client: MessageBrokerClient,
) -> None:
    errors: list[Exception] = []
    other = anyio.Event()
    remove = client.on_error(errors.append)
    client.on_error(lambda error: other.set())
    client._callbacks.report(ValueError("oh no"), "a test reports")
    remove()
    with anyio.fail_after(5):
        await other.wait()
    assert errors == []


async def test_equal_handlers_are_removed_one_by_one(client: MessageBrokerClient) -> None:
    heard = Heard()
    registrations = [client.on_message(heard) for _ in range(3)]
    registrations[1].remove()
    await client.subscribe("a.b")
    await client.publish("a.b", 1, confirm=True)
    await heard.until([1, 1])
    registrations[2].remove()
    await client.publish("a.b", 2, confirm=True)
    await heard.until([1, 1, 2])


async def test_a_method_serves_as_a_decorator(client: MessageBrokerClient) -> None:
    calls: list[Any] = []

    @client.on_disconnect
    @client.on_connect
    def changed() -> None:
        calls.append("changed")

    @client.on_error
    def failed(error: Exception) -> str:
        return f"noticed {error}"

    assert isinstance(failed, Registration)
    assert failed(ValueError("it")) == "noticed it"
    assert repr(failed).endswith("failed>")
    failed.remove()
    assert repr(failed).endswith("failed (removed)>")
    # The outer one has the function, not what the inner one returned: a call removes nothing.
    changed.handler()
    assert calls == ["changed"]
    assert [len(client._callbacks.connect), len(client._callbacks.disconnect)] == [1, 1]


async def test_nothing_is_kept_of_handlers_that_come_and_go(client: MessageBrokerClient) -> None:
    workers = client._handlers.workers
    for _ in range(50):
        other = anyio.Event()
        registration = client.on_error(lambda error, done=other: done.set())  # type: ignore[misc]
        client._callbacks.report(ValueError("oh no"), "a test reports")
        with anyio.fail_after(5):
            await other.wait()
        await anyio.wait_all_tasks_blocked()
        registration.remove()
    assert not workers
