"""From a URL to a connection: TLS as it has to be, and third-party transports."""

from __future__ import annotations

import errno
import ssl
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import anyio
import pytest

from mb_broker import Broker, RunningBroker, running
from mb_core import (
    URL,
    ConnectError,
    Limits,
    MessageBrokerClient,
    PluginError,
    Plugins,
    RemoteProtocolError,
    TCPSocketClient,
    WebSocketClient,
    WireTransport,
    hookimpl,
)
from mb_core.plugins import registry

from .watching import Start

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("leaves_nothing")]


GREETING = "publish:system.initialize:1.0.0\n{}"


# TLS


@pytest.fixture(params=["tls", "wss"])
def secure(request: pytest.FixtureRequest) -> str:
    scheme: str = request.param
    return scheme


async def connect(url: str, **options: Any) -> None:
    """With each client that speaks the URL: connect, hear the broker, close."""
    raw = WebSocketClient(**options) if url.startswith("ws") else TCPSocketClient(**options)
    greeted = anyio.Event()
    raw.on_message(lambda text: greeted.set() if text == GREETING else None)
    await raw.connect(url)
    await greeted.wait()
    await raw.close()
    async with MessageBrokerClient(url, **options) as client:
        await client.request("system.heartbeat", {})


async def refused(url: str, **options: Any) -> list[ConnectError]:
    """The errors of all clients that speak the URL; nothing but a ConnectError will do."""
    raw = WebSocketClient(**options) if url.startswith("ws") else TCPSocketClient(**options)
    errors: list[ConnectError] = []
    for call in (lambda: raw.connect(url), MessageBrokerClient(url, **options).connect):
        with pytest.raises(ConnectError) as raised:
            await call()
        errors.append(raised.value)
    return errors


@pytest.fixture
def secure_broker(certificates: Any, secure: str) -> Iterator[Broker]:
    context = certificates.server("localhost", "127.0.0.1")
    with running(f"{secure}://127.0.0.1:0", ssl_context=context) as broker:
        yield broker


async def test_a_certificate_that_the_context_trusts_is_accepted(
    secure_broker: Broker, certificates: Any
) -> None:
    with anyio.fail_after(5):
        await connect(secure_broker.url, ssl_context=certificates.client())


async def test_host_and_port_with_use_tls_are_encrypted(
    secure_broker: Broker, certificates: Any, secure: str
) -> None:
    kind = WebSocketClient if secure == "wss" else TCPSocketClient
    client = kind(ssl_context=certificates.client())
    greeted = anyio.Event()
    client.on_message(lambda text: greeted.set())
    with anyio.fail_after(5):
        await client.connect("127.0.0.1", int(secure_broker.url.rpartition(":")[2]), use_tls=True)
        await greeted.wait()
        await client.close()


async def test_a_certificate_that_nobody_trusts_is_refused_with_the_remedy(
    secure_broker: Broker,
) -> None:
    with anyio.fail_after(5):
        for error in await refused(secure_broker.url):
            assert "not trusted" in str(error)
            assert "ssl_context" in str(error)


async def test_a_certificate_for_another_name_is_refused(secure: str, certificates: Any) -> None:
    with (
        anyio.fail_after(5),
        running(f"{secure}://127.0.0.1:0", ssl_context=certificates.server("else.example")) as it,
    ):
        for error in await refused(it.url, ssl_context=certificates.client()):
            assert "mismatch" in str(error)


async def test_the_name_in_the_url_is_verified_where_the_address_is_changed(
    secure_broker: Broker, certificates: Any, secure: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = secure_broker.url.rpartition(":")[2]
    monkeypatch.setenv(
        "MB_CONNECT_TO", f"localhost:1=127.0.0.1:{port},other.example:1=127.0.0.1:{port}"
    )
    with anyio.fail_after(5):
        await connect(f"{secure}://localhost:1", ssl_context=certificates.client())
        for error in await refused(
            f"{secure}://other.example:1", ssl_context=certificates.client()
        ):
            assert "mismatch" in str(error)


async def test_an_expired_certificate_is_refused(secure: str, certificates: Any) -> None:
    context = certificates.server("127.0.0.1", expired=True)
    with (
        anyio.fail_after(5),
        running(f"{secure}://127.0.0.1:0", ssl_context=context) as broker,
    ):
        for error in await refused(broker.url, ssl_context=certificates.client()):
            assert "expired" in str(error)


async def test_a_plain_port_is_no_tls_port(mb_broker: RunningBroker, secure: str) -> None:
    plain = mb_broker.url_of("ws" if secure == "wss" else "tcp")
    with anyio.fail_after(5):
        for error in await refused(f"{secure}://127.0.0.1:{plain.rpartition(':')[2]}"):
            assert "is this a TLS port?" in str(error)


async def test_a_tls_port_is_no_plain_port(secure_broker: Broker, secure: str) -> None:
    plain = "ws" if secure == "wss" else "tcp"
    client = MessageBrokerClient(
        secure_broker.url.replace(secure, plain, 1), connect_timeout=1000, close_timeout=100
    )
    with anyio.fail_after(5), pytest.raises(ConnectError):
        await client.connect()


async def test_tls_older_than_1_2_is_refused(secure: str, certificates: Any) -> None:
    context = certificates.server("127.0.0.1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            context.minimum_version = ssl.TLSVersion.TLSv1_1
            context.maximum_version = ssl.TLSVersion.TLSv1_1
            context.set_ciphers("ALL:@SECLEVEL=0")
        except (ValueError, ssl.SSLError):
            pytest.skip("this OpenSSL speaks no TLS 1.1")
    with (
        anyio.fail_after(5),
        running(f"{secure}://127.0.0.1:0", ssl_context=context) as broker,
    ):
        for error in await refused(broker.url):
            assert "not trusted" not in str(error)
            assert "no TLS with" in str(error)


async def test_a_tls_handshake_without_an_answer_is_refused_in_time(
    start_tcp_server: Start, certificates: Any, secure: str
) -> None:
    async with start_tcp_server(greeting=None) as server:
        client = MessageBrokerClient(
            f"{secure}://127.0.0.1:{server.port}",
            connect_timeout=200,
            # The default settings take a while to load, which may be all the time there is.
            ssl_context=certificates.client(),
        )
        with anyio.fail_after(5):
            with pytest.raises(ConnectError, match=r"did not accept the connection within 0\.2 s"):
                await client.connect()
            await server.disconnected.wait()


async def test_without_a_thread_the_default_ssl_context_is_made_at_once(
    secure: str, monkeypatch: pytest.MonkeyPatch, free_port: int
) -> None:
    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    monkeypatch.setattr("trio._core._thread_cache.THREAD_CACHE._idle_workers", {})
    for error in await refused(f"{secure}://127.0.0.1:{free_port}"):
        assert "nobody listens" in str(error)


async def test_an_ssl_context_for_what_is_not_encrypted_is_refused(
    mb_broker: RunningBroker, certificates: Any
) -> None:
    """Who gives one believes to be safe."""
    for scheme in ("memory", "tcp", "ws"):
        client = MessageBrokerClient(mb_broker.url_of(scheme), ssl_context=certificates.client())
        with pytest.raises(ConnectError, match="an ssl_context was given"):
            await client.connect()


# Third-party transports


@dataclass
class StrangeTransport:
    """A transport that is not a byte stream, and whose connecting fails in a way of its own."""

    error: Exception
    scheme: str = "strange"

    async def connect(self, *args: Any, **options: Any) -> Any:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._fail)

    async def _fail(self) -> None:
        raise self.error

    async def listen(self, *args: Any, **options: Any) -> Any:
        raise NotImplementedError


def plugins_with(transport: Any) -> Plugins:
    class Plugin:
        @hookimpl
        def mb_register_transports(self) -> list[Any]:
            return [transport]

    plugins = Plugins()
    plugins.register(Plugin(), "a stranger's")
    return plugins


async def test_a_group_that_a_transport_raises_does_not_reach_the_user() -> None:
    plugins = plugins_with(StrangeTransport(ValueError("no carrier")))
    client = MessageBrokerClient("strange://host", plugins=plugins)
    with anyio.fail_after(5), pytest.raises(PluginError, match=r"strange://.*failed") as raised:
        await client.connect()
    assert isinstance(raised.value.__cause__, ExceptionGroup)


async def test_a_group_of_errors_of_the_network_may_be_tried_again() -> None:
    plugins = plugins_with(StrangeTransport(OSError("no carrier")))
    client = MessageBrokerClient("strange://host", plugins=plugins)
    with anyio.fail_after(5), pytest.raises(ConnectError, match="can't connect to strange") as no:
        await client.connect()
    assert not no.value.final
    assert isinstance(no.value.__cause__, ExceptionGroup)


@pytest.mark.parametrize(
    "error", [ConnectionRefusedError(111, "refused"), TimeoutError("too late"), OSError()]
)
async def test_an_error_of_the_system_may_be_tried_again(error: OSError) -> None:
    def build(url: URL, limits: Limits) -> Any:
        raise error

    def server(limits: Limits) -> Any: ...

    transport = WireTransport("strange", build, server, default_port=1)
    client = MessageBrokerClient("strange://host", plugins=plugins_with(transport))
    with anyio.fail_after(5), pytest.raises(ConnectError) as raised:
        await client.connect()
    assert not raised.value.final
    assert raised.value.__cause__ is error


@pytest.mark.parametrize(
    "error", [ValueError("bad"), RemoteProtocolError("nonsense"), ConnectError("refused")]
)
async def test_a_transport_that_breaks_its_contract_is_a_plugin_error(error: Exception) -> None:
    def build(url: URL, limits: Limits) -> Any:
        raise error

    def server(limits: Limits) -> Any: ...

    transport = WireTransport("strange", build, server, default_port=1)
    client = MessageBrokerClient("strange://host", plugins=plugins_with(transport))
    expected = type(error) if isinstance(error, ConnectError) else PluginError
    with anyio.fail_after(5), pytest.raises(expected) as raised:
        await client.connect()
    if expected is PluginError:
        assert "the transport of strange:// failed at strange://host" in str(raised.value)
        assert raised.value.__cause__ is error


@pytest.mark.parametrize("url", ["ws://", "tcp://:1", "ws:///path", "http//x", "tcp://u:p@h:1"])
async def test_a_url_that_leads_nowhere_is_a_connect_error(url: str) -> None:
    with anyio.fail_after(5), pytest.raises(ConnectError):
        await MessageBrokerClient(url).connect()


# What is installed


@pytest.mark.parametrize(
    "make",
    [
        lambda: MessageBrokerClient("tcp://127.0.0.1:1").connect(),
        lambda: TCPSocketClient().connect("127.0.0.1", 1),
    ],
    ids=["MessageBrokerClient", "TCPSocketClient"],
)
async def test_what_is_installed_and_can_not_be_read_is_a_connect_error(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused() -> Any:
        raise OSError(errno.EMFILE, "Too many open files", "/site-packages/METADATA")

    monkeypatch.setattr(metadata, "entry_points", refused)
    monkeypatch.setattr(registry, "_found", {})
    with pytest.raises(ConnectError, match="can't read the installed plugins") as caught:
        await make()
    assert not caught.value.final
