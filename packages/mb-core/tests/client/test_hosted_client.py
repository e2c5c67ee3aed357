"""A client that another front end hosts: what it may replace, and what it is notified of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import pytest

from mb_core import LocalProtocolError, Message
from mb_core.hosted_client import Callbacks, Host, HostedClient, MessageQueue, Runner, Supervisor

pytestmark = pytest.mark.anyio


class Queue(MessageQueue):
    pass


class RecordingHost(Host):
    """Writes down what it is asked."""

    queue_type = Queue
    unclosed_remedy = "'finish()'"

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.posted = 0

    def post(self, function: Callable[[], object]) -> object:
        self.posted += 1
        return function()

    def check_handler(self, handler: Any, name: str = "handler") -> None:
        super().check_handler(handler, name)
        self.calls.append(f"check {name}")

    def wrap_callback(self, handler: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any) -> Any:
            self.calls.append("callback")
            return handler(*args)

        return wrapped

    def make_runner(
        self,
        queue: MessageQueue,
        handler: Callable[[Message], Any],
        topic: str,
        concurrency: int,
        callbacks: Callbacks,
    ) -> Runner:
        self.calls.append(f"runner of {type(queue).__name__}")
        return super().make_runner(queue, handler, topic, concurrency, callbacks)

    def connecting(self, supervisor: Supervisor) -> None:
        self.calls.append("connecting")

    def dropped(self) -> None:
        self.calls.append("dropped")


async def test_a_host_replaces_what_differs(url: str) -> None:
    host = RecordingHost()
    client = HostedClient(host, url)
    connected = anyio.Event()
    client.on_connect(connected.set)
    with anyio.fail_after(5):
        async with client:
            await connected.wait()
            async with client.subscribe("a.b", action="request", handler=lambda message: 1):
                assert (await client.request("a.b", 1)).payload == 1
            with pytest.raises(LocalProtocolError):
                client.subscribe("a.b", handler=5)  # type: ignore[arg-type]
    assert host.calls == [
        "check on_connect handler",
        "connecting",
        "callback",
        "check handler",
        "runner of Queue",
    ]
    assert host.posted


async def test_a_hosted_client_that_was_reset_connects_again(url: str) -> None:
    client = HostedClient(Host(), url)
    with anyio.fail_after(5):
        await client.connect()
        await client.reset()
        assert client.gave_up
        client.gave_up = False
        await client.connect()
        await client.shut_down(drain=True)


async def test_a_host_is_notified_of_a_client_that_was_dropped(url: str) -> None:
    host = RecordingHost()
    client = HostedClient(host, url)
    await client.connect()
    with pytest.warns(ResourceWarning, match=r"'finish\(\)'"):
        del client
    assert host.calls == ["connecting", "dropped"]
