"""What a broker serves over HTTP: the page, health and metrics, as a browser and curl ask."""

from __future__ import annotations

import json
import ssl
import sys
import time
from collections.abc import Awaitable, Callable
from http.client import HTTPResponse
from io import BytesIO
from typing import Any

import anyio
import pytest
import trustme
from prometheus_client.parser import text_string_to_metric_families

from mb_broker import Broker, Router
from mb_broker.site import allowed_origins, broker_pages
from mb_core import LocalProtocolError

pytestmark = pytest.mark.anyio

Connect = Callable[..., Awaitable[Any]]
Until = Callable[[Callable[[], bool]], Awaitable[None]]

UPGRADE = (
    "Upgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
)


class Answer:
    """An answer over HTTP."""

    def __init__(self, data: bytes) -> None:
        socket: Any = type("Socket", (), {"makefile": lambda *_: BytesIO(data)})()
        response = HTTPResponse(socket)
        response.begin()
        self.status = response.status
        self.headers = response.headers
        self.body = response.read()


async def fetch(
    url: str, path: str, *headers: str, context: ssl.SSLContext | None = None
) -> Answer:
    """GET `path` from a broker's WebSocket port, up to the end of the connection."""
    host, _, port = url.partition("://")[2].strip("/").rpartition(":")
    received = b""
    async with await anyio.connect_tcp(
        host.strip("[]"),
        int(port),
        ssl_context=context,
        tls_hostname="localhost" if context is not None else None,
    ) as stream:
        lines = [f"GET {path} HTTP/1.1", f"Host: {host}:{port}", *headers]
        await stream.send("".join(f"{line}\r\n" for line in [*lines, ""]).encode())
        try:
            while True:
                received += await stream.receive()
        except anyio.EndOfStream:
            return Answer(received)


# Pages, without I/O


def test_each_page_can_be_switched_off() -> None:
    router = Router()
    for with_page in (True, False):
        for with_metrics in (True, False):
            get = broker_pages(
                router, time.monotonic, with_page=with_page, with_metrics=with_metrics
            )
            assert (get("/") is not None) is with_page
            assert (get("/health") is not None) is with_metrics
            assert (get("/metrics") is not None) is with_metrics
            assert get("/other") is get("") is get("/page") is None


def test_health_says_ok_and_how_many_are_connected() -> None:
    router = Router()
    router.connect(0.0)
    get = broker_pages(router, time.monotonic, with_page=False, with_metrics=True)
    healthy = get("/health")
    assert healthy is not None
    assert (healthy.status, healthy.content_type) == (200, "application/json")
    assert json.loads(healthy.body) == {"status": "ok", "connections": 1}


def test_without_its_library_metrics_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    monkeypatch.setitem(sys.modules, "prometheus_client.core", None)
    get = broker_pages(Router(), time.monotonic, with_page=True, with_metrics=True)
    page = get("/metrics")
    assert page is not None
    assert page.status == 501
    assert page.body == b"metrics need prometheus-client: pip install 'mb-broker[server]'\n"
    assert (get("/health"), get("/")) != (None, None)


# Of a broker


async def test_health_is_for_load_balancers(connect: Connect) -> None:
    with anyio.fail_after(5):
        async with Broker("ws://127.0.0.1:0") as broker:
            await connect(broker.url)
            answer = await fetch(broker.url, "/health")
            assert answer.status == 200
            assert answer.headers["Content-Type"] == "application/json"
            assert json.loads(answer.body) == {"status": "ok", "connections": 1}


async def test_metrics_are_for_prometheus(connect: Connect) -> None:
    with anyio.fail_after(5):
        async with Broker("ws://127.0.0.1:0") as broker:
            client = await connect(broker.url)
            await client.is_served()
            answer = await fetch(broker.url, "/metrics")
            assert answer.status == 200
            assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
            families = {
                family.name: family
                for family in text_string_to_metric_families(answer.body.decode())
            }
            (count,) = families["mb_router_request_count"].samples
            assert (count.name, count.value) == ("mb_router_request_count_total", 1)
            assert "mb_process_memory_bytes" in families


async def test_the_metrics_have_the_same_series_whoever_connects(connect: Connect) -> None:
    def series(text: bytes) -> set[str]:
        lines = text.decode().splitlines()
        return {line.rpartition(" ")[0] for line in lines if not line.startswith("#")}

    with anyio.fail_after(5):
        async with Broker("ws://127.0.0.1:0") as broker:
            before = series((await fetch(broker.url, "/metrics")).body)
            clients = [await connect(broker.url) for _ in range(3)]
            await clients[0].ask("service.register", {"name": "Weather", "description": "x"})
            assert series((await fetch(broker.url, "/metrics")).body) == before
            # The protocol's own metrics do have them.
            (listed, *_) = (await clients[0].ask("service.list", {}))["services"]
            metrics = (await clients[0].ask("metrics", {}))["metrics"]
            assert f"registry.service.{{serviceid:{listed['id']}}}.uptime" in metrics


async def test_the_page_has_its_policy() -> None:
    with anyio.fail_after(5):
        async with Broker("ws://127.0.0.1:0") as broker:
            answer = await fetch(broker.url, "/")
            assert answer.status == 200
            assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
            assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
            assert b"<!doctype html>" in answer.body.lower()


@pytest.mark.parametrize(
    ("options", "paths"),
    [
        ({"metrics": False}, {"/": 200, "/health": 426, "/metrics": 426}),
        ({"page": False}, {"/": 426, "/health": 200, "/metrics": 200}),
    ],
    ids=["metrics off", "page off"],
)
async def test_pages_are_off_with_an_option(
    options: dict[str, Any], paths: dict[str, int], connect: Connect
) -> None:
    with anyio.fail_after(5):
        async with Broker("ws://127.0.0.1:0", **options) as broker:
            assert {path: (await fetch(broker.url, path)).status for path in paths} == paths
            await (await connect(broker.url)).is_served()


async def test_a_page_is_no_failed_connection(
    connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    with anyio.fail_after(5):
        async with Broker("ws://127.0.0.1:0") as broker:
            client = await connect(broker.url)
            for path in ("/", "/health", "/metrics"):
                await fetch(broker.url, path)
            found = (await client.ask("metrics", {}))["metrics"]
            assert found["connection.failed.total"] == found["connection.rejected.total"] == 0
            assert broker.connections == 1
            assert caplog.messages == []


async def test_what_is_no_page_is_a_failed_connection_with_the_reason_in_the_log(
    connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    with anyio.fail_after(5):
        async with Broker("ws://127.0.0.1:0") as broker:
            client = await connect(broker.url)
            assert (await fetch(broker.url, "/nothing")).status == 426
            found = (await client.ask("metrics", {}))["metrics"]
            assert found["connection.failed.total"] == 1
            (text,) = caplog.messages
            assert text.startswith("127.0.0.1:")
            assert " refused: no WebSocket handshake: " in text


async def test_a_full_broker_still_tells_its_health(connect: Connect) -> None:
    with anyio.fail_after(5):
        async with Broker("ws://127.0.0.1:0", max_connections=1) as broker:
            await connect(broker.url)
            assert json.loads((await fetch(broker.url, "/health")).body)["connections"] == 1


async def test_pages_are_served_behind_tls(connect: Connect) -> None:
    authority = trustme.CA()
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    # An MB broker ends a stream without TLS's own farewell where the other side does.
    client.options |= getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)
    with anyio.fail_after(5):
        async with Broker("wss://127.0.0.1:0", ssl_context=server) as broker:
            answer = await fetch(broker.url, "/health", context=client)
            assert json.loads(answer.body)["status"] == "ok"


async def test_pages_are_served_over_ipv6() -> None:
    try:
        listener = await anyio.create_tcp_listener(local_host="::1")
    except OSError:
        pytest.skip("no IPv6 here")
    await listener.aclose()
    with anyio.fail_after(5):
        async with Broker("ws://[::1]:0") as broker:
            assert broker.url.startswith("ws://[::1]:")
            assert (await fetch(broker.url, "/metrics")).status == 200


# Browsers


@pytest.mark.parametrize("origin", ["https://any.example", "null", None])
async def test_a_page_of_any_origin_may_connect_by_default(origin: str | None) -> None:
    with anyio.fail_after(5):
        async with Broker("ws://127.0.0.1:0") as broker:
            assert await upgraded(broker, origin)


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("https://one.example", True),
        (None, True),
        ("https://evil.example", False),
        ("null", False),
    ],
)
async def test_with_a_list_only_pages_of_its_origins_may(
    origin: str | None, allowed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    origins = ["https://one.example", "https://two.example"]
    with anyio.fail_after(5):
        async with Broker("ws://127.0.0.1:0", origins=origins) as broker:
            assert await upgraded(broker, origin) is allowed
        refused = [text for text in caplog.messages if "Origin" in text]
        assert bool(refused) is not allowed


@pytest.mark.parametrize("origin", ["https://a.b/", "https://a.b/path", "a.b", "", "https://"])
def test_what_is_no_origin_is_refused(origin: str) -> None:
    with pytest.raises(LocalProtocolError, match="an origin is scheme://host"):
        Broker(origins=[origin])


def test_origins_are_compared_as_browsers_send_them() -> None:
    assert allowed_origins(["HTTPS://App.Example:8443"]) == {"https://app.example:8443"}
    assert allowed_origins([]) is None


async def upgraded(broker: Broker, origin: str | None) -> bool:
    """Whether a page of this origin gets a WebSocket, and on it the greeting in a text frame."""
    host, _, port = broker.url.partition("://")[2].strip("/").rpartition(":")
    async with await anyio.connect_tcp(host, int(port)) as stream:
        header = f"Origin: {origin}\r\n" if origin is not None else ""
        await stream.send(f"GET / HTTP/1.1\r\nHost: x\r\n{UPGRADE}{header}\r\n".encode())
        received = b""
        try:
            while not received.endswith(b"system.initialize:1.0.0\n{}"):
                received += await stream.receive()
        except anyio.EndOfStream:
            assert received.startswith(b"HTTP/1.1 403 ")
            return False
        greeting = b"publish:system.initialize:1.0.0\n{}"
        assert received.startswith(b"HTTP/1.1 101 ")
        assert received.endswith(b"\r\n\r\n\x81" + bytes([len(greeting)]) + greeting)
        return True
