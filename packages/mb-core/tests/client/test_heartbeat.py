"""A connection whose other side has gone without a word, and one whose has not."""

from __future__ import annotations

import time
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from mb_broker import RunningBroker
from mb_core import ConnectionLost, MessageBrokerClient, Plugins, hookimpl, installed_plugins
from mb_core.link import Accept, Link
from mb_core.url import URL, parse_url
from mb_testing import until

from .gone_broker import QUICK, Outcome
from .scripted import VIRTUAL_TIME, ScriptedBroker
from .watching import Watch

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("leaves_nothing")]

in_memory = pytest.mark.parametrize("scripted", ["memory"], indirect=True)
ASKED = b"request:system.heartbeat:"


@VIRTUAL_TIME
async def test_a_silent_broker_is_given_up_within_three_intervals_and_replaced(
    scripted: ScriptedBroker,
) -> None:
    with anyio.fail_after(5):
        async with (
            MessageBrokerClient(scripted.url, **QUICK, heartbeat_interval=400) as client,
            anyio.create_task_group() as tasks,
        ):
            watch = Watch(client)
            events = await client.subscribe("a")
            scripted.answers["system.heartbeat"] = None
            silent = scripted.connections[0]
            begun = anyio.current_time()
            request = Outcome(tasks, lambda: client.request("never.answered", {}))
            lost = await request.lost()
            assert 0.79 <= anyio.current_time() - begun < 1.3
            assert lost.sent
            assert "no reply to the heartbeat" in str(lost)
            assert len(silent.starting(ASKED)) == 1
            await silent.lost.wait()
            await watch.connects(1)
            scripted.connections[1].send(b"publish:a:1.0.0\n1")
            assert (await anext(events)).payload == 1
    assert watch.moves == ["disconnect", "connect", "disconnect"]


@VIRTUAL_TIME
async def test_without_reconnecting_a_silent_broker_is_the_end_and_says_why(
    scripted: ScriptedBroker,
) -> None:
    scripted.answers["system.heartbeat"] = None
    options: dict[str, Any] = {"reconnect": False, "heartbeat_interval": 50, "close_timeout": 200}
    with anyio.fail_after(5):
        async with MessageBrokerClient(scripted.url, **options) as client:
            with pytest.raises(
                ConnectionLost, match=r"no reply to the heartbeat.*heartbeat_interval"
            ):
                await client.run()


@VIRTUAL_TIME
async def test_a_broker_that_answers_nothing_but_the_question_is_kept(
    scripted: ScriptedBroker,
) -> None:
    with anyio.fail_after(5):
        async with MessageBrokerClient(scripted.url, **QUICK, heartbeat_interval=40) as client:
            await scripted.connections[0].wait_for(ASKED, 6)
            assert client.connected
            assert client.stats().pending == 0
            assert client.stats().latency is None
            assert client.stats().reconnects == 0
    assert len(scripted.connections) == 1


@VIRTUAL_TIME
async def test_any_message_is_a_sign_of_life(scripted: ScriptedBroker) -> None:
    scripted.answers["system.heartbeat"] = None
    with anyio.fail_after(5):
        async with MessageBrokerClient(scripted.url, **QUICK, heartbeat_interval=100) as client:
            begun = anyio.current_time()
            while anyio.current_time() - begun < 0.8:
                scripted.connections[0].send(b"publish:nobody.listens:1.0.0\n{}")
                with anyio.move_on_after(0.02):
                    await client.run()
            assert client.stats().reconnects == 0
    assert len(scripted.connections) == 1


class SlowLink:
    """Passes all on to another Link, but for how far it has come, which the test says."""

    def __init__(self, link: Link) -> None:
        self.inner = link
        self.progress = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


class OldLink(SlowLink):
    """As Links were before they had to say how far they have come."""

    def __init__(self, link: Link) -> None:
        self.inner = link

    def __getattr__(self, name: str) -> Any:
        if name == "progress":
            raise AttributeError(name)
        return super().__getattr__(name)


class SlowTransport:
    """A transport of somebody else's; its Links are the test's."""

    scheme = "slow"

    def __init__(self, url: str, make: type[SlowLink]) -> None:
        self._url = parse_url(url)
        self._make = make
        self.links: list[SlowLink] = []

    async def connect(self, url: URL, accept: Accept, **settings: Any) -> Any:
        def keep(link: Link) -> Any:
            self.links.append(self._make(link))
            return accept(self.links[-1])  # type: ignore[arg-type]

        inner: Any = installed_plugins().transport("memory")
        await inner.connect(self._url, keep, **settings)
        return self.links[-1]

    async def listen(self, *args: Any, **settings: Any) -> Any:
        raise NotImplementedError

    @hookimpl
    def mb_register_transports(self) -> list[SlowTransport]:
        return [self]

    @property
    def plugins(self) -> Plugins:
        plugins = Plugins()
        plugins.register(self, "slow")
        return plugins


@VIRTUAL_TIME
@in_memory
async def test_a_message_that_takes_long_is_no_silence_whichever_way_it_goes(
    scripted: ScriptedBroker,
) -> None:
    transport = SlowTransport(scripted.url, SlowLink)
    scripted.answers["system.heartbeat"] = None
    options: dict[str, Any] = {"heartbeat_interval": 1000, "reconnect": False}
    with anyio.fail_after(60):
        async with MessageBrokerClient("slow://x", plugins=transport.plugins, **options) as client:
            for _ in range(20):
                await anyio.sleep(1.4)
                transport.links[0].progress += 1
            assert client.connected
            stuck = anyio.current_time()
            with pytest.raises(ConnectionLost, match="no reply to the heartbeat"):
                await client.run()
            assert 2 <= anyio.current_time() - stuck <= 3


@VIRTUAL_TIME
@in_memory
async def test_a_link_that_does_not_say_how_far_it_has_come_lives_by_whole_messages(
    scripted: ScriptedBroker,
) -> None:
    transport = SlowTransport(scripted.url, OldLink)
    options: dict[str, Any] = {"heartbeat_interval": 1000, "reconnect": False}
    with anyio.fail_after(60):
        async with MessageBrokerClient("slow://x", plugins=transport.plugins, **options) as client:
            await scripted.connections[0].wait_for(ASKED, 6)
            assert client.connected
            scripted.answers["system.heartbeat"] = None
            with pytest.raises(ConnectionLost, match="no reply to the heartbeat"):
                await client.run()


@VIRTUAL_TIME
async def test_a_new_connection_has_its_time_from_its_restore_on(scripted: ScriptedBroker) -> None:
    """What the one before owed is not the new one's debt."""
    with anyio.fail_after(5):
        async with MessageBrokerClient(scripted.url, **QUICK, heartbeat_interval=60) as client:
            watch = Watch(client)
            for number in range(1, 4):
                scripted.answers["system.heartbeat"] = None
                await scripted.connections[-1].wait_for(
                    ASKED, len(scripted.connections[-1].starting(ASKED)) + 1
                )
                scripted.answers["system.heartbeat"] = b"{}"
                await scripted.connections[-1].drop()
                await watch.connects(number)
                await scripted.connections[-1].wait_for(ASKED, 2)
            assert client.stats().reconnects == 3


@VIRTUAL_TIME
async def test_without_an_interval_nobody_is_asked(scripted: ScriptedBroker) -> None:
    async with MessageBrokerClient(scripted.url, **QUICK, heartbeat_interval=None) as client:
        assert client._supervisor is not None
        assert client._supervisor.session.next_deadline() is None
    async with MessageBrokerClient(scripted.url, **QUICK) as client:
        assert client._supervisor is not None
        due = client._supervisor.session.next_deadline()
        assert due is not None
        assert 14 < due - anyio.current_time() <= 15


# On a busy machine the broker's thread needs some of that time to answer.
@pytest.mark.parametrize("blocked", [0.45, 0.9], ids=["a bit too long", "far too long"])
async def test_a_program_that_blocks_its_loop_does_not_lose_a_broker_that_is_alive(
    url: str, blocked: float
) -> None:
    """The broker is in a thread of its own: it has answered, and nobody was there to hear."""
    with anyio.fail_after(10):
        async with MessageBrokerClient(url, **QUICK, heartbeat_interval=400) as client:
            asked = client.stats().messages_sent
            await until(lambda: client.stats().messages_sent > asked)
            time.sleep(blocked)  # noqa: ASYNC251 - a blocked loop is the matter
            await client.request("system.heartbeat", {})
            assert client.stats().reconnects == 0


async def test_a_broker_that_is_dead_is_found_though_the_loop_is_blocked_now_and_then(
    scripted: ScriptedBroker,
) -> None:
    scripted.answers["system.heartbeat"] = None
    with anyio.fail_after(5):
        async with MessageBrokerClient(scripted.url, **QUICK, heartbeat_interval=100) as client:
            watch = Watch(client)
            for _ in range(2):
                time.sleep(0.3)  # noqa: ASYNC251
                await anyio.lowlevel.checkpoint()
            await watch.disconnects(1)


async def test_the_brokers_question_is_answered_while_the_connection_is_restored(
    scripted: ScriptedBroker, mb_broker: RunningBroker
) -> None:
    with anyio.fail_after(5):
        async with MessageBrokerClient(scripted.url, **QUICK) as client:
            await client.subscribe("a")
            scripted.answers["system.topic.subscribe"] = None
            await scripted.connections[0].drop()
            connection = await scripted.connection(2)
            await connection.wait_for(b"request:system.topic.subscribe")
            connection.send(b"request:system.heartbeat:1.0.0\n{}")
            await connection.wait_for(b"response:system.heartbeat:")
            assert not client.connected
