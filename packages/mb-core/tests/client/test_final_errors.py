"""Which errors of connecting are final: of certificates, of logins, and of arguments."""

from __future__ import annotations

import re
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import anyio.abc
import pytest
import trustme

from mb_broker import RunningBroker, running
from mb_core import ConnectError, MessageBrokerClient

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("leaves_nothing")]

TOMORROW = datetime.now(UTC) + timedelta(days=1)
YESTERDAY = datetime.now(UTC) - timedelta(days=1)
LOAD = r"load (one|another) with ssl_context\.load_cert_chain\("


@pytest.fixture(params=["tls", "wss"])
def secure(request: pytest.FixtureRequest) -> str:
    scheme: str = request.param
    return scheme


@pytest.fixture(params=["TLSv1_2", "TLSv1_3"])
def trusting(request: pytest.FixtureRequest, certificates: Any) -> ssl.SSLContext:
    """A client's settings that trust the tests' authority, for each version of TLS."""
    context: ssl.SSLContext = certificates.client()
    context.minimum_version = context.maximum_version = ssl.TLSVersion[request.param]
    return context


@pytest.fixture(scope="module")
def strangers() -> trustme.CA:
    """An authority that nobody trusts."""
    return trustme.CA()


def certified(ca: trustme.CA, *names: str, **times: Any) -> ssl.SSLContext:
    """A server's settings with a certificate of `ca`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert(*(names or ("127.0.0.1",)), **times).configure_cert(context)
    return context


def asking(certificates: Any) -> ssl.SSLContext:
    """A server's settings with which clients have to show a certificate."""
    context = certified(certificates.authority)
    context.verify_mode = ssl.CERT_REQUIRED
    certificates.authority.configure_trust(context)
    return context


async def refusal(url: str, **options: Any) -> ConnectError:
    """The error of a client that does not connect."""
    with anyio.fail_after(5), pytest.raises(ConnectError) as raised:
        await MessageBrokerClient(url, **options).connect()
    return raised.value


async def final_refusal(url: str, text: str, **options: Any) -> None:
    error = await refusal(url, **options)
    assert re.search(text, str(error)), str(error)
    assert error.final


# The broker's certificate


async def test_an_authority_that_is_not_trusted_is_final_and_has_its_remedy(
    secure: str, trusting: ssl.SSLContext, strangers: trustme.CA
) -> None:
    with running(f"{secure}://127.0.0.1:0", ssl_context=certified(strangers)) as broker:
        text = (
            r"not trusted: .*pass ssl_context=ssl\.create_default_context\(cafile=.*SSL_CERT_FILE"
        )
        await final_refusal(broker.url, text, ssl_context=trusting)
        await final_refusal(broker.url, text)  # nor by the default settings


@pytest.mark.parametrize(
    ("names", "times", "text"),
    [
        (["else.example"], {}, r"mismatch, .*'127\.0\.0\.1'.*the host in the URL must be one"),
        ([], {"not_after": YESTERDAY}, "certificate has expired .*another certificate.*clock"),
        ([], {"not_before": TOMORROW}, "certificate is not yet valid .*clock"),
    ],
    ids=["another host", "expired", "not yet valid"],
)
async def test_a_certificate_that_is_not_valid_is_final_and_has_its_remedy(
    secure: str,
    trusting: ssl.SSLContext,
    certificates: Any,
    names: list[str],
    times: dict[str, Any],
    text: str,
) -> None:
    context = certified(certificates.authority, *names, **times)
    with running(f"{secure}://127.0.0.1:0", ssl_context=context) as broker:
        await final_refusal(broker.url, f"not trusted: .*{text}", ssl_context=trusting)


# The client's certificate


async def test_a_client_certificate_that_is_missing_is_final_and_asked_for(
    secure: str, trusting: ssl.SSLContext, certificates: Any
) -> None:
    with running(f"{secure}://127.0.0.1:0", ssl_context=asking(certificates)) as broker:
        text = rf"the server asks for a client certificate: {LOAD}"
        await final_refusal(broker.url, text, ssl_context=trusting)
        certificates.authority.issue_cert("a.client").configure_cert(trusting)
        async with MessageBrokerClient(broker.url, ssl_context=trusting) as client:
            await client.request("system.heartbeat", {})


async def test_a_client_certificate_of_an_unknown_authority_is_final(
    secure: str, trusting: ssl.SSLContext, certificates: Any, strangers: trustme.CA
) -> None:
    strangers.issue_cert("a.client").configure_cert(trusting)
    with running(f"{secure}://127.0.0.1:0", ssl_context=asking(certificates)) as broker:
        text = rf"the server does not trust the CA of the client certificate: {LOAD}"
        await final_refusal(broker.url, text, ssl_context=trusting)


@pytest.mark.parametrize(
    ("times", "text"),
    [
        ({"not_after": YESTERDAY}, "says that the client certificate has expired"),
        ({"not_before": TOMORROW}, "refuses the client certificate"),
    ],
    ids=["expired", "not yet valid"],
)
async def test_a_client_certificate_at_another_time_is_final(
    secure: str,
    trusting: ssl.SSLContext,
    certificates: Any,
    times: dict[str, Any],
    text: str,
) -> None:
    certificates.authority.issue_cert("a.client", **times).configure_cert(trusting)
    with running(f"{secure}://127.0.0.1:0", ssl_context=asking(certificates)) as broker:
        await final_refusal(broker.url, rf"the server {text}.*{LOAD}", ssl_context=trusting)


# Logins


@asynccontextmanager
async def http_server(status: int) -> AsyncIterator[str]:
    """A server that answers every request with `status`; gives its URL."""

    async def serve(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            request = b""
            while not request.endswith(b"\r\n\r\n"):
                request += await stream.receive()
            await stream.send(b"HTTP/1.1 %d No\r\nContent-Length: 0\r\n\r\n" % status)

    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(listener.serve, serve)
        yield f"ws://127.0.0.1:{listener.extra(anyio.abc.SocketAttribute.local_port)}"
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("status", "final"), [(401, True), (403, True), (407, True), (404, False), (503, False)]
)
async def test_a_handshake_that_is_refused_is_final_where_it_is_for_who_asks(
    status: int, final: bool
) -> None:
    async with http_server(status) as url:
        error = await refusal(url)
    assert f"HTTP status {status}" in str(error)
    assert error.final is final


# Arguments


@pytest.mark.parametrize("kind", ["memory", "tcp", "ws"])
async def test_tls_settings_for_a_url_without_tls_are_final(
    mb_broker: RunningBroker, trusting: ssl.SSLContext, kind: str
) -> None:
    await final_refusal(
        mb_broker.url_of(kind), "an ssl_context was given, but ", ssl_context=trusting
    )


async def test_tls_settings_with_which_there_is_no_tls_are_final(secure: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    await with_a_listener(secure, "no TLS with these settings", ssl_context=context)


async def with_a_listener(scheme: str, text: str, **options: Any) -> None:
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        await final_refusal(f"{scheme}://127.0.0.1:{port}", text, **options)


@pytest.mark.parametrize("url", ["tcp://:8081", "ws://", "tls://:1", "wss://"])
async def test_a_url_without_a_host_is_final(url: str) -> None:
    await final_refusal(url, "names no host")


async def test_a_rule_that_moves_a_connection_nowhere_is_final(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MB_CONNECT_TO", "localhost:1=")
    await final_refusal("tcp://localhost:1", "expected HOST:PORT=HOST:PORT")


@pytest.mark.parametrize(
    "arguments",
    [
        {"host": "tcp://h:1", "port": 1},
        {"host": "tcp://h:1", "use_tls": True},
        {"host": "localhost"},
        {"host": "a/b", "port": 1},
    ],
    ids=["URL and port", "URL and use_tls", "no port", "no host"],
)
async def test_arguments_that_make_no_url_are_final(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConnectError) as raised:
        await MessageBrokerClient().connect(**arguments)
    assert raised.value.final


# What may pass


async def test_a_port_on_which_nobody_listens_may_pass(secure: str, free_port: int) -> None:
    for scheme in (secure, "tcp", "ws"):
        error = await refusal(f"{scheme}://127.0.0.1:{free_port}")
        assert "nobody listens" in str(error)
        assert not error.final


async def test_a_port_without_tls_may_pass(mb_broker: RunningBroker, secure: str) -> None:
    plain = mb_broker.url_of("ws" if secure == "wss" else "tcp")
    error = await refusal(f"{secure}://127.0.0.1:{plain.rpartition(':')[2]}")
    assert "is this a TLS port?" in str(error)
    assert not error.final


async def test_a_host_that_is_unknown_may_pass() -> None:
    error = await refusal("tcp://no.such.host.invalid:8081")
    assert "unknown host" in str(error)
    assert not error.final


async def test_a_broker_that_says_nothing_may_pass(start_tcp_server: Any, secure: str) -> None:
    async with start_tcp_server(greeting=None) as server:
        for scheme in (secure, "tcp"):
            url = f"{scheme}://127.0.0.1:{server.port}"
            error = await refusal(url, connect_timeout=100, close_timeout=100)
            assert "within 0.1 s" in str(error)
            assert not error.final
