"""The Broker on real links: where it listens, how it ends, and what it does in time."""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import trustme

from mb_broker import Broker
from mb_core import ConnectError, LocalProtocolError, PluginError, Plugins
from mb_core.hookspecs import hookimpl
from mb_core.plugins import installed_plugins
from mb_core.url import URL, parse_url
from mb_testing import until

pytestmark = pytest.mark.anyio

Connect = Callable[..., Awaitable[Any]]
Reports = Callable[[], list[str]]

ID = "123e4567-e89b-42d3-a456-426614174000"
HEARTBEAT = b"request:system.heartbeat:1.0.0\n{}"
EVERYWHERE = ["tcp://127.0.0.1:0", "ws://127.0.0.1:0", "memory://"]
STREAMS = ["tcp://127.0.0.1:0", "ws://127.0.0.1:0"]


def port_of(url: str) -> int:
    port = parse_url(url).port
    assert port
    return port


def is_free(port: int) -> bool:
    """Nobody listens on the port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def id_of(message: bytes) -> str:
    return message.partition(b"\n")[0].decode().split(":")[3]


# Where it listens


async def test_without_urls_it_listens_in_memory_under_a_new_name(connect: Connect) -> None:
    async with Broker() as broker, Broker() as other:
        assert broker.url.startswith("memory://")
        assert broker.urls == [broker.url]
        assert broker.url != other.url
        client = await connect(broker.url)
        await client.is_served()
        assert (broker.connections, other.connections) == (1, 0)


async def test_it_listens_on_several_urls_as_one_broker(connect: Connect) -> None:
    async with Broker(*EVERYWHERE, "memory://beside-it") as broker:
        assert [parse_url(url).scheme for url in broker.urls] == ["tcp", "ws", "memory", "memory"]
        assert broker.url == broker.urls[0] == broker.url_of("tcp")
        assert broker.url_of("ws") == broker.urls[1]
        assert broker.urls[3] == "memory://beside-it"
        clients = [await connect(url) for url in broker.urls]
        assert broker.connections == 4
        for client in clients:
            await client.subscribe("a.b")
        clients[1].send("publish:a.b:1.0.0\n{}")
        assert len({await client.receive() for client in clients}) == 1


@pytest.mark.parametrize("scheme", ["tls", "TCP", "tc", ""])
async def test_a_scheme_that_it_does_not_listen_on(scheme: str) -> None:
    async with Broker("tcp://127.0.0.1:0") as broker:
        with pytest.raises(LookupError) as error:
            broker.url_of(scheme)
    assert str(error.value) == f"this broker listens on {broker.url}, not on {scheme}://"


@pytest.mark.parametrize("host", STREAMS)
async def test_port_0_asks_for_a_free_one(host: str, connect: Connect) -> None:
    async with Broker(host, host) as broker:
        assert 0 not in map(port_of, broker.urls)
        assert broker.urls[0] != broker.urls[1]
        for url in broker.urls:
            await (await connect(url)).is_served()


@pytest.mark.parametrize("scheme", ["tcp", "ws"])
async def test_a_url_without_a_host_listens_on_this_machine_alone(
    scheme: str, connect: Connect
) -> None:
    async with Broker(f"{scheme}://:0") as broker:
        assert broker.url.startswith(f"{scheme}://127.0.0.1:")
        await connect(broker.url)


async def test_a_port_that_is_given_is_used(free_port: int, connect: Connect) -> None:
    async with Broker(f"tcp://127.0.0.1:{free_port}") as broker:
        assert broker.url == f"tcp://127.0.0.1:{free_port}"
        await (await connect(broker.url)).is_served()


async def test_localhost_means_all_of_its_addresses(connect: Connect) -> None:
    found = socket.getaddrinfo("localhost", None, type=socket.SOCK_STREAM)
    hosts = {address[0] for *_, address in found}
    async with Broker("tcp://localhost:0") as broker:
        for host in hosts:
            url = URL("tcp", str(host), port_of(broker.url), "")
            await (await connect(str(url))).is_served()


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


async def test_a_url_keeps_its_path() -> None:
    async with Broker("ws://127.0.0.1:0/mb?x=1") as broker:
        assert broker.url == f"ws://127.0.0.1:{port_of(broker.url)}/mb?x=1"


@pytest.mark.parametrize("path", ["", "/", "/any/path?x=1"])
async def test_any_path_is_served(path: str, connect: Connect) -> None:
    async with Broker("ws://127.0.0.1:0") as broker:
        await (await connect(broker.url + path)).is_served()


# Where it can't listen


@pytest.mark.parametrize("url", ["localhost:8081", "tcp:8081", "tcp://h:port", "tcp://h:99999", ""])
async def test_what_is_no_url_is_refused_when_it_is_given(url: str) -> None:
    with pytest.raises(ConnectError, match="invalid URL"):
        Broker(url)


@pytest.mark.parametrize("host", STREAMS)
async def test_a_port_that_is_taken(host: str) -> None:
    async with Broker(host) as broker:
        port = port_of(broker.url)
        with pytest.raises(ConnectError, match=f"can't listen on 127.0.0.1:{port}: .*in use"):
            await Broker(broker.url).__aenter__()


async def test_a_name_that_is_taken() -> None:
    async with Broker() as broker:
        with pytest.raises(ConnectError, match=f"can't listen on {broker.url}: another broker"):
            await Broker(broker.url).__aenter__()


async def test_a_scheme_that_nobody_speaks() -> None:
    with pytest.raises(PluginError, match="no installed plugin speaks carrier-pigeon://"):
        await Broker("carrier-pigeon://roof").__aenter__()


async def test_a_scheme_that_needs_a_package() -> None:
    with pytest.raises(PluginError, match="tcp:// needs the package mb-tcp"):
        await Broker("tcp://127.0.0.1:0", plugins=Plugins()).__aenter__()


@pytest.mark.parametrize("scheme", ["tls", "wss"])
async def test_tls_needs_a_certificate(scheme: str) -> None:
    with pytest.raises(ConnectError, match=rf"{scheme}://127.0.0.1:0 needs an ssl_context"):
        await Broker(f"{scheme}://127.0.0.1:0").__aenter__()


@pytest.mark.parametrize("scheme", ["tls", "wss"])
async def test_with_a_certificate_it_speaks_tls_beside_plain(scheme: str, connect: Connect) -> None:
    authority = trustme.CA()
    server, trusting = (
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH),
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
    )
    authority.issue_cert("127.0.0.1").configure_cert(server)
    authority.configure_trust(trusting)
    async with Broker(f"{scheme}://127.0.0.1:0", "tcp://127.0.0.1:0", ssl_context=server) as broker:
        with anyio.fail_after(5):
            secure = await connect(broker.url, ssl_context=trusting, server_hostname="127.0.0.1")
            plain = await connect(broker.url_of("tcp"))
            await secure.subscribe("a.b")
            plain.send("publish:a.b:1.0.0\n{}")
            assert (await secure.receive()).startswith(b"publish:a.b:1.0.0:")
            await secure.close()


async def test_entering_that_fails_halfway_leaves_nothing(free_port: int, connect: Connect) -> None:
    async with Broker("tcp://127.0.0.1:0") as other:
        urls = [f"tcp://127.0.0.1:{free_port}", "memory://halfway", other.url]
        broker = Broker(*urls)
        with pytest.raises(ConnectError, match="in use"):
            await broker.__aenter__()
        assert broker.urls == []
        assert is_free(free_port)
        with pytest.raises(ConnectError, match="no broker in this process listens"):
            await connect("memory://halfway")
    async with broker:  # what was in its way is gone
        assert broker.urls == urls
        await (await connect("memory://halfway")).is_served()


class Strange:
    """A transport of somebody else's, beside two of ours."""

    scheme = "strange"

    @hookimpl
    def mb_register_transports(self) -> list[Any]:
        return [self, *(installed_plugins().transport(name) for name in ("tcp", "memory"))]

    async def connect(self, *args: Any, **options: Any) -> Any:
        raise AssertionError("nobody connects to it")


class Slow(Strange):
    """It takes its time to listen."""

    def __init__(self) -> None:
        self.begun = anyio.Event()

    async def listen(self, *args: Any, **options: Any) -> Any:
        self.begun.set()
        await anyio.sleep_forever()


class Rotten(Strange):
    """Its listener can't be closed, and what it accepts can't send."""

    address = ("here", 0)
    accept: Callable[[Any], Any]

    async def listen(self, url: Any, accept: Callable[[Any], Any], **options: Any) -> Rotten:
        self.accept = accept
        return self

    async def close(self) -> None:
        raise ValueError("rotten")


class RottenLink:
    peer = "somebody"
    handler: Any
    aborted = False

    def send_many(self, messages: list[bytes]) -> None:
        raise KeyError("rotten")

    def abort(self) -> None:
        self.aborted = True


async def test_entering_that_is_cancelled_leaves_nothing(free_port: int, connect: Connect) -> None:
    plugins, slow = Plugins(), Slow()
    plugins.register(slow, "slow")
    urls = [f"tcp://127.0.0.1:{free_port}", "memory://halfway", "strange://"]
    broker = Broker(*urls, plugins=plugins)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(broker.__aenter__)
        with anyio.fail_after(5):
            await slow.begun.wait()
        halfway = [await connect(url) for url in urls[:2]]
        tasks.cancel_scope.cancel()
    with anyio.fail_after(5):
        for client in halfway:
            await client.lost.wait()
    assert broker.connections == 0
    await until(lambda: is_free(free_port))
    with pytest.raises(ConnectError):
        await connect("memory://halfway")


async def test_it_is_entered_once() -> None:
    async with Broker() as broker:
        with pytest.raises(LocalProtocolError, match="entered once"):
            await broker.__aenter__()
    with pytest.raises(LocalProtocolError, match="entered once"):
        await broker.__aenter__()


# How it ends


@pytest.mark.parametrize("host", EVERYWHERE)
async def test_leaving_ends_all_connections(host: str, connect: Connect) -> None:
    with anyio.fail_after(5):
        async with Broker(host) as broker:
            clients = [await connect(broker.url) for _ in range(3)]
            for client in clients:
                await client.subscribe("a.b", "request")
        for client in clients:
            await client.lost.wait()
            assert client.error is None
    assert broker.connections == 0
    with pytest.raises(ConnectError):
        await connect(broker.url)


@pytest.mark.parametrize("host", STREAMS)
async def test_the_port_is_free_afterwards(host: str, connect: Connect) -> None:
    async with Broker(host) as broker:
        client = await connect(broker.url)
    await client.lost.wait()
    async with Broker(broker.url) as successor:
        assert successor.url == broker.url


@pytest.mark.parametrize("host", EVERYWHERE)
async def test_what_was_sent_before_leaving_arrives(host: str, connect: Connect) -> None:
    with anyio.fail_after(5):
        async with Broker(host) as broker:
            receiver, sender = await connect(broker.url), await connect(broker.url)
            await receiver.subscribe("a.b")
            sender.send(*[f"publish:a.b:1.0.0\n{'x' * 16_000}"] * 50)
            await sender.is_served()
        await receiver.lost.wait()
    assert len(receiver.inbox) == 50


@pytest.mark.parametrize("host", EVERYWHERE)
async def test_leaving_waits_for_answers_to_requests_in_flight(host: str, connect: Connect) -> None:
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks, Broker(host) as broker:
            responder, requester = await connect(broker.url), await connect(broker.url)
            await responder.subscribe("a.b", "request")
            requester.send(f"request:a.b:1.0.0:{ID}\n1")
            request_id = id_of(await responder.receive())

            async def answer() -> None:
                # It runs when the block has been left: another request is refused.
                requester.send("request:a.b:1.0.0\n2")
                assert b"SERVICE_UNAVAILABLE" in await requester.receive()
                responder.send(f"response:a.b:1.0.0:{request_id}\n3")

            tasks.start_soon(answer)
        assert await requester.receive() == f"response:a.b:1.0.0:{ID}\n3".encode()
        await requester.lost.wait()


@pytest.mark.parametrize("host", EVERYWHERE)
async def test_a_drain_accepts_nobody(host: str, connect: Connect) -> None:
    with anyio.fail_after(5):
        async with Broker(host) as broker:
            client = await connect(broker.url)
            await broker.drain()
            with pytest.raises(ConnectError):
                await connect(broker.url)
            await client.is_served()


async def test_a_drain_has_a_time_limit(connect: Connect, caplog: pytest.LogCaptureFixture) -> None:
    with anyio.fail_after(4):
        async with Broker(drain_timeout=50) as broker:
            responder, requester = await connect(broker.url), await connect(broker.url)
            await responder.subscribe("a.b", "request")
            requester.send(f"request:a.b:1.0.0:{ID}\n1")
            await responder.receive()
        await requester.lost.wait()
    assert "gave up on 1 request in flight" in caplog.text


async def test_drains_may_overlap(connect: Connect) -> None:
    with anyio.fail_after(4):
        async with Broker() as broker:
            responder = await connect(broker.url)
            await responder.subscribe("a.b", "request")
            responder.send(f"request:a.b:1.0.0:{ID}\n1")
            request_id = id_of(await responder.receive())
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(broker.drain)
                tasks.start_soon(broker.drain)
                await anyio.wait_all_tasks_blocked()
                responder.send(f"response:a.b:1.0.0:{request_id}\n2")
            await broker.drain()


async def test_a_responder_that_leaves_ends_the_drain(connect: Connect) -> None:
    with anyio.fail_after(4):
        async with Broker() as broker:
            responder, requester = await connect(broker.url), await connect(broker.url)
            await responder.subscribe("a.b", "request")
            requester.send(f"request:a.b:1.0.0:{ID}\n1")
            await responder.receive()
            responder.link.close()
        assert b"SERVICE_UNAVAILABLE" in await requester.receive()


@pytest.mark.parametrize("host", EVERYWHERE)
async def test_leaving_by_an_error_waits_for_no_answers(host: str, connect: Connect) -> None:
    with anyio.fail_after(4):
        with pytest.raises(KeyError, match="mine"):  # noqa: PT012 -- the block is what is tested
            async with Broker(host) as broker:
                responder = await connect(broker.url)
                await responder.subscribe("a.b", "request")
                responder.send(f"request:a.b:1.0.0:{ID}\n1")
                await responder.receive()
                raise KeyError("mine")
        await responder.lost.wait()
    assert broker.connections == 0


@pytest.mark.parametrize("host", EVERYWHERE)
@pytest.mark.parametrize("when", ["in the block", "in the drain"])
async def test_leaving_that_is_cancelled_ends_everything(
    when: str, host: str, connect: Connect
) -> None:
    clients = []
    broker = Broker(host)

    async def serve(task_status: anyio.abc.TaskStatus[None]) -> None:
        async with broker:
            responder = await connect(broker.url)
            clients.append(responder)
            await responder.subscribe("a.b", "request")
            responder.send(f"request:a.b:1.0.0:{ID}\n1")
            await responder.receive()
            task_status.started()
            if when == "in the block":
                await anyio.sleep_forever()

    with anyio.fail_after(4):
        async with anyio.create_task_group() as tasks:
            await tasks.start(serve)
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
        await clients[0].lost.wait()
    assert broker.connections == 0
    if broker.url.startswith("tcp"):
        async with Broker(broker.url):
            pass


@pytest.mark.parametrize("turns", range(8))
@pytest.mark.parametrize("host", STREAMS)
async def test_who_connects_while_it_ends_is_not_left_hanging(host: str, turns: int) -> None:
    async def read_to_the_end(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            with contextlib.suppress(anyio.EndOfStream, anyio.BrokenResourceError):
                while True:
                    await stream.receive()

    broker = Broker(host)
    with anyio.fail_after(4):
        async with anyio.create_task_group() as tasks, broker:
            stream = await anyio.connect_tcp("127.0.0.1", port_of(broker.url))
            tasks.start_soon(read_to_the_end, stream)
            for _ in range(turns):
                await anyio.lowlevel.checkpoint()
    assert broker.connections == 0


@pytest.mark.parametrize("turns", range(4))
async def test_who_connects_in_memory_while_it_ends_is_not_left_hanging(
    turns: int, connect: Connect
) -> None:
    with anyio.fail_after(4):
        async with Broker() as broker:
            client = await connect(broker.url, greeted=False)
            for _ in range(turns):
                await anyio.lowlevel.checkpoint()
        await client.lost.wait()
    assert broker.connections == 0


# Transports that fail


@pytest.fixture
def rotten() -> tuple[Rotten, Plugins]:
    plugins, transport = Plugins(), Rotten()
    plugins.register(transport, "rotten")
    return transport, plugins


async def test_a_listener_that_can_not_be_closed_does_not_keep_the_rest(
    rotten: tuple[Rotten, Plugins], connect: Connect, reports: Reports
) -> None:
    with anyio.fail_after(4):
        async with Broker("memory://beside", "strange://", plugins=rotten[1]) as broker:
            client = await connect(broker.url)
        await client.lost.wait()
    with pytest.raises(ConnectError):
        await connect("memory://beside")
    assert reports() == ["internal error: can't stop listening on ('here', 0)"]


async def test_a_link_that_can_not_send_does_not_keep_the_rest(
    rotten: tuple[Rotten, Plugins], connect: Connect, reports: Reports
) -> None:
    subscribe = b'request:system.topic.subscribe:1.0.0\n{"action":"publish","topic":"a.b"}'
    async with Broker("memory://", "strange://", plugins=rotten[1]) as broker:
        link = RottenLink()
        handler = rotten[0].accept(link)
        assert link.aborted
        handler.messages_received([subscribe])
        clients = [await connect(broker.url) for _ in range(2)]
        for client in clients:
            await client.subscribe("a.b")
        with anyio.fail_after(5):
            for number in range(2):
                clients[0].send(f"publish:a.b:1.0.0\n{number}")
                for client in clients:
                    assert (await client.receive()).endswith(f"\n{number}".encode())
        handler.link_lost(None)
    assert set(reports()) == {
        "internal error: the link to somebody is given up",
        "internal error: can't stop listening on ('here', 0)",
    }


# What happens in time


@pytest.mark.virtual_clock(patience=1)
async def test_who_sends_a_message_slowly_is_not_dropped_while_it_arrives() -> None:
    text = b"request:system.heartbeat:1.0.0:%b\n{}" % ID.encode()
    data = len(text).to_bytes(4) + text
    async with (
        Broker("tcp://127.0.0.1:0", heartbeat_after=1_000, drop_after=2_000) as broker,
        await anyio.connect_tcp("127.0.0.1", port_of(broker.url)) as stream,
    ):
        received = await stream.receive()
        for position in range(len(data)):
            await anyio.sleep(0.9)
            await stream.send(data[position : position + 1])
        while b"success" not in received:
            received += await stream.receive()
        assert received.count(HEARTBEAT) == 0
        gone = anyio.current_time()
        with contextlib.suppress(anyio.EndOfStream):
            while received := await stream.receive():
                pass
        assert 2 <= anyio.current_time() - gone <= 3


@pytest.mark.parametrize("host", EVERYWHERE)
async def test_a_client_that_never_says_anything_is_asked_and_dropped(
    host: str, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "mb_broker")
    async with Broker(host, heartbeat_after=40, drop_after=400) as broker:
        client = await connect(broker.url)
        with anyio.fail_after(5):
            assert await client.receive() == HEARTBEAT
            await client.lost.wait()
            await until(lambda: broker.connections == 0)
    assert client.error is None
    assert "was silent for too long: dropped" in caplog.text


async def test_a_client_that_answers_stays(connect: Connect) -> None:
    async with Broker(heartbeat_after=20, drop_after=2000) as broker:
        client = await connect(broker.url)
        with anyio.fail_after(5):
            for _ in range(4):
                assert await client.receive() == HEARTBEAT
                client.send("response:system.heartbeat:1.0.0\n{}")


@pytest.mark.parametrize("host", EVERYWHERE)
async def test_requests_time_out(host: str, connect: Connect) -> None:
    async with Broker(host, request_timeout=30) as broker:
        client = await connect(broker.url)
        await client.subscribe("a.b", "request")
        with anyio.fail_after(5):
            client.send(f"request:a.b:1.0.0:{ID}\n1", f"request:a.b:1.0.0:{ID}::90\n2")
            for _ in range(2):
                await client.receive()
            for _ in range(2):
                assert b'"TIMEOUT"' in await client.receive()


async def test_an_earlier_deadline_is_not_kept_waiting_by_a_later_one(connect: Connect) -> None:
    async with Broker() as broker:
        client = await connect(broker.url)
        await client.subscribe("a.b", "request")
        with anyio.fail_after(5):
            client.send(f"request:a.b:1.0.0:{ID}::60000\n1")
            await client.receive()
            client.send(f"request:a.b:1.0.0:{ID}::20\n2")
            await client.receive()
            assert b'"TIMEOUT"' in await client.receive()
        await client.close()


# Limits


@pytest.mark.parametrize("host", EVERYWHERE)
async def test_the_limit_of_a_payload_is_an_option(host: str, connect: Connect) -> None:
    async with Broker(host, max_payload=100) as broker:
        client, other = await connect(broker.url), await connect(broker.url)
        await client.subscribe("a.b")
        client.send(f"publish:a.b:1.0.0\n{'x' * 100}")
        assert (await client.receive()).endswith(b"x" * 100)
        client.send(f"publish:a.b:1.0.0:{ID}\n{'x' * 101}")
        assert b"MALFORMED_MESSAGE" in await client.receive()
        # The limit of a message: that of the payload and the longest header.
        client.send(f"publish:a.b:1.0.0\n{'x' * 449}")
        assert b"MALFORMED_MESSAGE" in await client.receive()
        client.send(f"publish:a.b:1.0.0\n{'x' * 450}")
        with anyio.fail_after(5):
            await client.lost.wait()
        await other.is_served()


async def test_who_does_not_read_holds_up_nobody_else(connect: Connect) -> None:
    async with Broker("tcp://127.0.0.1:0") as broker:
        async with await anyio.connect_tcp("127.0.0.1", port_of(broker.url)) as sleeper:
            message = b'request:system.topic.subscribe:1.0.0\n{"action":"publish","topic":"#"}'
            await sleeper.send(len(message).to_bytes(4) + message)
            receiver, sender = await connect(broker.url), await connect(broker.url)
            await receiver.subscribe("a.b")
            with anyio.fail_after(10):
                for number in range(500):
                    sender.send(f"publish:a.b:1.0.0\n{number:<16000}")
                    await sender.link.drain()
                for number in range(500):
                    assert int((await receiver.receive()).partition(b"\n")[2]) == number
        await receiver.is_served()
