"""Where a Broker listens, where it can't, and transports that fail."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
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

from .broker_messages import EVERYWHERE, STREAMS, Connect, port_of

pytestmark = pytest.mark.anyio
Reports = Callable[[], list[str]]


def is_free(port: int) -> bool:
    """Nobody listens on the port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


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
        with pytest.raises(LocalProtocolError, match="entered only once"):
            await broker.__aenter__()
    with pytest.raises(LocalProtocolError, match="entered only once"):
        await broker.__aenter__()


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
        "internal error: dropping the link to somebody",
        "internal error: can't stop listening on ('here', 0)",
    }
