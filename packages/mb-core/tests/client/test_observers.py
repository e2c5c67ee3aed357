"""Observers: what plugins are notified of, and that they never disturb a client."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from mb_core import (
    URL,
    ConnectError,
    ConnectionLost,
    Message,
    MessageBrokerClient,
    NoRouteFoundError,
    PluginError,
    Plugins,
    RequestTimeoutError,
    hookimpl,
    installed_plugins,
)
from mb_core.client.callbacks import Callbacks, Handlers
from mb_core.client.observers import Observers
from mb_core.codec import JSON
from mb_core.plugins import Observer
from mb_core.transport import Transport
from mb_testing import until

from .gone_broker import QUICK
from .watching import Watch

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("leaves_nothing")]


class Recorder:
    """An observer that writes down all that it hears: the hooks and their arguments."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, dict[str, Any]]] = []

    @hookimpl
    def mb_connected(self, client: object, url: URL, peer: str, again: bool) -> None:
        self._note("connected", client=client, url=url, peer=peer, again=again)

    @hookimpl
    def mb_disconnected(self, client: object, error: Exception | None) -> None:
        self._note("disconnected", client=client, error=error)

    @hookimpl
    def mb_reconnecting(self, client: object, delay: float, error: Exception | None) -> None:
        self._note("reconnecting", client=client, delay=delay, error=error)

    @hookimpl
    def mb_message_sending(self, client: object, message: Message) -> None:
        self._note("sending", client=client, message=message)

    @hookimpl
    def mb_message_received(self, client: object, message: Message) -> None:
        self._note("received", client=client, message=message)

    @hookimpl
    def mb_request_finished(
        self, client: object, topic: str, duration: float, outcome: object
    ) -> None:
        self._note("finished", client=client, topic=topic, duration=duration, outcome=outcome)

    def _note(self, hook: str, **arguments: Any) -> None:
        self.heard.append((hook, arguments))

    def of(self, hook: str) -> list[dict[str, Any]]:
        return [arguments for name, arguments in self.heard if name == hook]

    def messages(self, hook: str, topic: str) -> list[Message]:
        """The messages of this topic that were "sending" or "received"."""
        return [each["message"] for each in self.of(hook) if each["message"].topic == topic]


class Transports:
    """The installed ones, for a set of plugins of the test's own."""

    @hookimpl
    def mb_register_transports(self) -> list[Transport]:
        return [installed_plugins().transport(scheme) for scheme in ("memory", "tcp", "ws")]


def observing(**observers: object) -> Plugins:
    """Plugins with these observers, and no others."""
    plugins = Plugins()
    plugins.register(Transports(), "transports")
    for name, observer in observers.items():
        plugins.register(observer, name)
    return plugins


# What they hear


async def test_the_end_of_a_client_that_was_dropped(url: str) -> None:
    recorder = Recorder()

    async def forget() -> None:
        client = MessageBrokerClient(url, plugins=observing(recorder=recorder))
        await client.connect()
        recorder.heard.clear()  # what was heard refers to the client

    async def drop() -> None:
        await forget()
        await anyio.lowlevel.checkpoint()
        gc.collect()

    with pytest.warns(ResourceWarning, match="unclosed client"):
        await drop()
    with anyio.fail_after(5):
        await until(lambda: recorder.of("disconnected"))
    [end] = recorder.of("disconnected")
    assert isinstance(end["client"], MessageBrokerClient)
    assert end["error"] is None
    await anyio.wait_all_tasks_blocked()


async def test_connections_and_their_ends(broker: Any) -> None:
    recorder = Recorder()
    with anyio.fail_after(10):
        client = MessageBrokerClient(broker.url, plugins=observing(recorder=recorder), **QUICK)
        watch = Watch(client)
        async with client:
            await broker.kill()
            await watch.disconnects(1)
            await broker.start()
            await watch.connects(2)
    moves = [each for each in recorder.heard if each[0] in ("connected", "disconnected")]
    first, lost, second, closed = moves
    assert first[0] == second[0] == "connected"
    for connected, again in ((first[1], False), (second[1], True)):
        assert connected["client"] is client
        assert str(connected["url"]) == broker.url
        assert isinstance(connected["peer"], str)
        assert connected["again"] is again
    assert (lost[0], closed) == (
        "disconnected",
        ("disconnected", {"client": client, "error": None}),
    )
    tries = recorder.of("reconnecting")
    assert all(each["client"] is client and each["delay"] >= 0 for each in tries)
    # What came before a try is its reason: first the loss, then each try that has failed.
    assert tries[0]["error"] is lost[1]["error"]
    assert all(isinstance(each["error"], ConnectError) for each in tries[1:])


async def test_a_connection_that_breaks_says_why(start_tcp_server: Any) -> None:
    recorder = Recorder()
    with anyio.fail_after(10):
        async with start_tcp_server() as server:
            client = MessageBrokerClient(
                server.url, plugins=observing(recorder=recorder), drain_timeout=0, **QUICK
            )
            watch = Watch(client)
            async with client:
                await server.reset()
                await watch.connects(2)
    lost, closed = recorder.of("disconnected")
    assert isinstance(lost["error"], ConnectionLost)
    assert recorder.of("reconnecting")[0]["error"] is lost["error"]
    assert closed["error"] is None


async def test_a_first_connection_that_is_tried_again() -> None:
    recorder = Recorder()
    client = MessageBrokerClient(
        "memory://nobody",
        plugins=observing(recorder=recorder),
        retry_connect=True,
        backoff_min=1,
        backoff_max=2,
    )
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.connect)
            await until(lambda: len(recorder.heard) >= 3)
            tasks.cancel_scope.cancel()
    assert {hook for hook, _ in recorder.heard} == {"reconnecting"}
    for arguments in recorder.of("reconnecting"):
        assert 0 <= arguments["delay"] <= 0.002
        assert isinstance(arguments["error"], ConnectError)


async def test_messages_both_ways(url: str) -> None:
    recorder = Recorder()
    with anyio.fail_after(10):
        async with MessageBrokerClient(url, plugins=observing(recorder=recorder)) as client:
            async with client.subscribe("events") as events:
                await client.publish("events", {"n": 1})
                arrived = await anext(events)
            await client.subscribe("echo", action="request", handler=lambda m: m.payload)
            answer = await client.request("echo", {"n": 2})
    assert all(arguments["client"] is client for _, arguments in recorder.heard)
    for hook in ("sending", "received"):
        [event] = recorder.messages(hook, "events")
        assert (event.action.value, event.payload) == ("publish", {"n": 1})
        # The request and its answer, each sent and received by this client.
        request, response = recorder.messages(hook, "echo")
        assert (request.action.value, response.action.value) == ("request", "response")
        assert request.payload == response.payload == {"n": 2}
        # What the client itself has to say to the broker, and the other way round.
        assert recorder.messages(hook, "system.topic.subscribe")
    assert recorder.messages("received", "system.initialize")
    # It has a message of its own: what it does to it is not done to the client's.
    assert arrived is not recorder.messages("received", "events")[0]
    assert answer.raw_payload == recorder.messages("received", "echo")[1].raw_payload


async def test_a_message_is_heard_of_before_it_is_handled(url: str) -> None:
    recorder = Recorder()
    before: list[int] = []
    handled = anyio.Event()

    def handle(message: Message) -> None:
        before.append(len(recorder.messages("received", "events")))
        handled.set()

    with anyio.fail_after(10):
        async with MessageBrokerClient(url, plugins=observing(recorder=recorder)) as client:
            await client.subscribe("events", handler=handle)
            await client.publish("events", None)
            await handled.wait()
    assert before == [1]


async def test_requests_end_with_their_answer_their_error_or_nothing(url: str) -> None:
    recorder = Recorder()
    asked = anyio.Event()

    async def never(message: Message) -> None:
        asked.set()
        await anyio.sleep_forever()

    plugins = observing(recorder=recorder)
    with anyio.fail_after(10):
        async with MessageBrokerClient(url, plugins=plugins, drain_timeout=0) as client:
            await client.subscribe("echo", action="request", handler=lambda m: m.payload)
            await client.subscribe("never", action="request", handler=never, concurrency=2)
            await client.subscribe("events", handler=lambda m: None)
            answer = await client.request("echo", 1)
            await client.publish("events", 1, confirm=True)
            with pytest.raises(NoRouteFoundError) as no_route:
                await client.request("nobody", 2)
            with pytest.raises(RequestTimeoutError) as timeout:
                await client.request("never", 3, timeout=20)
            asked = anyio.Event()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(client.request, "never", 4)
                await asked.wait()
                tasks.cancel_scope.cancel()
    finished = recorder.of("finished")
    own = [each for each in finished if not each["topic"].startswith("system.")]
    confirmed = own.pop(1)
    assert (confirmed["topic"], type(confirmed["outcome"])) == ("events", Message)
    echoed = own.pop(0)
    assert (echoed["topic"], echoed["outcome"].request_id) == ("echo", answer.request_id)
    assert [(each["topic"], each["outcome"]) for each in own] == [
        ("nobody", no_route.value),
        ("never", timeout.value),
        ("never", None),
    ]
    assert all(each["client"] is client for each in finished)
    assert all(0 <= each["duration"] < 10 for each in finished)
    assert own[1]["duration"] >= 0.02
    assert "system.topic.subscribe" in {each["topic"] for each in finished}


async def test_several_observers_of_several_clients_hear_each_of_its_own(url: str) -> None:
    one, two = Recorder(), Recorder()
    both = observing(one=one, two=two)
    with anyio.fail_after(10):
        async with (
            MessageBrokerClient(url, plugins=both) as first,
            MessageBrokerClient(url, plugins=both) as second,
            MessageBrokerClient(url, plugins=observing()),
        ):
            await first.request("system.heartbeat", {})
    assert [each["client"] for each in one.of("connected")] == [first, second]
    assert [hook for hook, _ in one.heard] == [hook for hook, _ in two.heard]
    assert {id(each["client"]) for each in one.of("finished")} == {id(first)}


async def test_an_observer_hears_of_clients_that_connect_after_it_was_registered(url: str) -> None:
    recorder, plugins = Recorder(), observing()
    with anyio.fail_after(10):
        async with MessageBrokerClient(url, plugins=plugins) as before:
            later = MessageBrokerClient(url, plugins=plugins)
            plugins.register(recorder, "recorder")
            async with later:
                await before.request("system.heartbeat", {})
                await later.request("system.heartbeat", {})
    assert {id(arguments["client"]) for _, arguments in recorder.heard} == {id(later)}


async def test_what_an_observer_changes_in_a_payload_nobody_else_sees(url: str) -> None:
    seen: list[Any] = []

    class Masking:
        @hookimpl
        def mb_message_received(self, message: Message) -> None:
            self._mask(message)

        @hookimpl
        def mb_request_finished(self, outcome: Any, topic: str) -> None:
            if topic == "echo":
                self._mask(outcome)

        def _mask(self, message: Message) -> None:
            if "card" in message.payload:
                seen.append(message.payload.pop("card"))

    plugins = observing(one=Masking(), other=Masking())
    with anyio.fail_after(5):
        async with MessageBrokerClient(url, plugins=plugins) as client:
            await client.subscribe("echo", action="request", handler=lambda m: m.payload)
            answer = await client.request("echo", {"card": 4242})
    assert answer.payload == {"card": 4242}
    assert seen == [4242] * 6  # two observers, of the request, its answer, and the outcome


async def test_a_hook_takes_the_arguments_that_it_needs(url: str) -> None:
    heard: list[Any] = []

    class Picky:
        @hookimpl
        def mb_connected(self) -> None:
            heard.append("connected")

        @hookimpl
        def mb_request_finished(self, outcome: Any, topic: str) -> None:
            heard.append((topic, outcome.payload))

    with anyio.fail_after(10):
        async with MessageBrokerClient(url, plugins=observing(picky=Picky())) as client:
            await client.request("system.heartbeat", {})
    assert heard == ["connected", ("system.heartbeat", {"status": "success"})]


# They disturb nobody


def raising(error: BaseException) -> Callable[..., None]:
    def hook(self: object) -> None:
        raise error

    return hook


@pytest.mark.parametrize("error", [RuntimeError("broken"), SystemExit("broken"), RuntimeError()])
async def test_one_that_raises_is_reported_once_and_stops_nobody(
    url: str, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    hooks = (
        *("mb_connected", "mb_disconnected", "mb_message_sending", "mb_message_received"),
        "mb_request_finished",
    )
    broken = type("Broken", (), {hook: hookimpl(raising(error)) for hook in hooks})()
    recorder = Recorder()
    client = MessageBrokerClient(url, plugins=observing(broken=broken, recorder=recorder))
    watch = Watch(client)
    with anyio.fail_after(10):
        async with client:
            await client.subscribe("echo", action="request", handler=lambda m: m.payload)
            for number in range(20):
                assert (await client.request("echo", number)).payload == number
    assert len(recorder.messages("received", "echo")) == 40
    assert [hook for hook, _ in recorder.heard][-1] == "disconnected"
    told = [each for each in watch.errors if isinstance(each, PluginError)]
    text = str(error) or "RuntimeError"
    # Each hook once a second: this takes less than one.
    assert sorted({str(each) for each in told}) == [
        f"the plugin broken failed in {hook}: {text}" for hook in sorted(hooks)
    ]
    assert all(each.__cause__ is error for each in told)
    records = [record for record in caplog.records if "an observer failed" in record.getMessage()]
    assert {record.levelno for record in records} == {logging.ERROR}
    assert len(records) == len(told) < 20


async def test_one_that_takes_its_time_delays_and_loses_nothing(url: str) -> None:
    class Slow:
        @hookimpl
        def mb_message_received(self, message: Message) -> None:
            sum(range(20_000))

    with anyio.fail_after(30):
        async with (
            MessageBrokerClient(url) as other,
            MessageBrokerClient(url, plugins=observing(slow=Slow())) as client,
            client.subscribe("events") as events,
        ):
            for number in range(200):
                await other.publish("events", number)
            assert [(await anext(events)).payload for _ in range(200)] == list(range(200))


async def test_what_is_no_message_is_not_heard_of(scripted: Any) -> None:
    recorder = Recorder()
    with anyio.fail_after(10):
        client = MessageBrokerClient(scripted.url, plugins=observing(recorder=recorder), **QUICK)
        watch = Watch(client)
        async with client:
            connection = await scripted.connection(1)
            connection.send(b"what?\n{}")
            await watch.error(Exception)
    assert {each["message"].topic for each in recorder.of("received")} <= {
        "system.initialize",
        "system.heartbeat",
    }


# What they cost


async def test_without_observers_nothing_stands_between_client_and_link(url: str) -> None:
    async with MessageBrokerClient(url, plugins=observing()) as client:
        assert client._supervisor is not None
        connection = client._supervisor.connection
        assert connection._observers is None
        assert connection._send == connection.link.send
        assert connection.link._handler is connection  # type: ignore[attr-defined]


def test_who_does_not_listen_to_messages_is_not_between_them() -> None:
    hooks: dict[str, Any] = {"mb_connected": lambda **arguments: None}
    observers = Observers(
        [Observer("acme", hooks)], MessageBrokerClient(), Callbacks(Handlers()), JSON
    )
    handler: Any = object()

    def send(data: bytes) -> None: ...

    assert observers.watch_sending(send) is send
    assert observers.watch_receiving(handler) is handler
