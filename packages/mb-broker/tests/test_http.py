"""What a broker serves over HTTP: the page, health and metrics, as a browser and curl ask."""

from __future__ import annotations

import contextlib
import itertools
import json
import socket
import ssl
import struct
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import anyio.abc
import pytest
import trustme
from anyio.streams.tls import TLSStream
from prometheus_client.parser import text_string_to_metric_families

from mb_broker import Broker, Router
from mb_broker.http import broker_pages
from mb_testing import until

from .http_requests import UPGRADE, fetch

pytestmark = pytest.mark.anyio
Connect = Callable[..., Awaitable[Any]]


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


async def test_metrics_that_many_ask_for_at_once_are_made_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 0.0
    made = 0

    def slow(metrics: Any) -> bytes:
        nonlocal made, now
        made += 1
        now += 0.001
        return b"made %d" % made

    monkeypatch.setattr("mb_broker.http.prometheus_text", slow)
    monkeypatch.setattr("mb_broker.http.time.perf_counter", lambda: now)
    get = broker_pages(Router(), lambda: 0.0, with_page=False, with_metrics=True)

    def body() -> bytes:
        page = get("/metrics")
        assert page is not None
        return page.body

    assert {body() for _ in range(100)} == {b"made 1"}
    now += 0.008
    assert body() == b"made 1"
    now += 0.002
    assert {body() for _ in range(100)} == {b"made 2"}


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
        ({"metrics": False}, {"/": 200, "/health": 404, "/metrics": 404}),
        ({"page": False}, {"/": 404, "/health": 200, "/metrics": 200}),
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


async def failed(client: Any) -> int:
    """How many connections have failed, by the broker's metrics."""
    count: int = (await client.ask("metrics", {}))["metrics"]["connection.failed.total"]
    return count


async def test_a_request_for_a_page_is_never_a_failed_connection(
    connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    with anyio.fail_after(5):
        async with Broker("ws://127.0.0.1:0") as broker:
            client = await connect(broker.url)
            for method in ("GET", "HEAD", "OPTIONS", "DELETE"):
                for path in ("/", "/health", "/metrics", "/nothing"):
                    answer = await fetch(broker.url, path, method=method)
                    known = {"GET": 200, "HEAD": 200, "OPTIONS": 204, "DELETE": 405}[method]
                    assert answer.status == (404 if path == "/nothing" else known)
            assert await failed(client) == 0
            assert broker.connections == 1
    # Only the client itself has connected, and ended.
    ends = [text.split()[-1] for text in caplog.messages if "127.0.0.1" in text]
    assert ends == ["connected", "disconnected"]


async def test_a_request_that_can_not_be_read_is_a_failed_connection_with_the_reason_in_the_log(
    connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    with anyio.fail_after(5):
        async with Broker("ws://127.0.0.1:0") as broker:
            client = await connect(broker.url)
            assert (await fetch(broker.url, "/health", "Content-Length: 5")).status == 400
            assert await failed(client) == 1
            (text,) = caplog.messages
            assert text.startswith("127.0.0.1:")
            assert text.endswith(" refused: invalid HTTP request: unsupported request body")


@pytest.mark.parametrize(
    ("stage", "how"),
    [
        *itertools.product(["tcp", "ws", "tls", "wss", "ws open"], ["end", "reset"]),
        *itertools.product(["tls shaken", "wss shaken", "wss open"], ["end", "reset", "TLS end"]),
    ],
)
async def test_a_probe_that_leaves_without_a_byte_is_a_debug_entry(
    stage: str, how: str, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    """A load balancer's probe opens the connection, perhaps completes its handshake, and goes."""
    scheme, _, done = stage.partition(" ")
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("localhost").configure_cert(server)
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    caplog.set_level("DEBUG", "mb_broker")
    urls = f"{scheme}://127.0.0.1:0", "ws://127.0.0.1:0"
    with anyio.fail_after(5):
        async with Broker(*urls, ssl_context=server) as broker:
            client = await connect(broker.url_of("ws"))
            port = int(broker.urls[0].rstrip("/").rpartition(":")[2])
            plain = await anyio.connect_tcp("127.0.0.1", port)
            name = "{}:{}".format(*plain.extra(anyio.abc.SocketAttribute.local_address))
            stream: anyio.abc.ByteStream = plain
            if done and scheme != "ws":
                stream = await TLSStream.wrap(
                    plain,
                    server_side=False,
                    ssl_context=trusting,
                    standard_compatible=how == "TLS end",
                )
            if done == "open":
                await stream.send(f"GET / HTTP/1.1\r\nHost: localhost\r\n{UPGRADE}\r\n".encode())
            if done == "open" or stage in ("tcp", "tls shaken"):
                await stream.receive(1)  # what else there is to read is left unread
            if how == "reset":
                raw = plain.extra(anyio.abc.SocketAttribute.raw_socket)
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            with contextlib.suppress(anyio.BrokenResourceError, ssl.SSLError):
                await stream.aclose()
            await plain.aclose()
            await until(lambda: any(name in text for text in caplog.messages))
            assert await failed(client) == 0
    (record,) = [record for record in caplog.records if name in record.message]
    assert record.levelname == "DEBUG"
    assert " left without a " in record.message


async def test_a_full_broker_still_tells_its_health(connect: Connect) -> None:
    with anyio.fail_after(5):
        async with Broker("ws://127.0.0.1:0", max_connections=1) as broker:
            await connect(broker.url)
            assert json.loads((await fetch(broker.url, "/health")).body)["connections"] == 1


async def test_pages_are_served_behind_tls(connect: Connect) -> None:
    authority = trustme.CA()
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(server)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
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
