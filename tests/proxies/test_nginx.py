"""Brokers behind nginx, with the configuration that docs/nginx.md shows."""

from __future__ import annotations

import functools
import http.client
import json
import re
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urljoin

import anyio
import anyio.to_thread
import pytest

import mb_sync
from mb_broker.access import token_digest
from mb_broker.ports import reserved_port
from mb_client import ConnectError, MessageBrokerClient, UnauthorizedError

from .conftest import Certificate
from .processes import HOST, BrokerProcess, documented, program, proxy, replaced

pytestmark = pytest.mark.anyio

# Milliseconds: how soon a client is back, and that none of it waits for heartbeats.
FAST: dict[str, Any] = {"backoff_min": 10, "backoff_max": 100}
# What nginx's time limit for idle connections is in the server for it, in seconds.
IDLE = 2
ROLES = '[roles.all]\npublish = ["#"]\nsubscribe = ["#"]\nrequest = ["#"]\nrespond = ["#"]\n'
# Lets in only clients that present this token with their handshake.
BEARER = 'if ($http_authorization != "Bearer mb_station") { return 401; }'


class Nginx(NamedTuple):
    """Its ports, by what is served there."""

    host: int  # a host of its own, within TLS
    path: int  # the path /mb/
    idle: int  # the same path, and connections may be idle for IDLE
    wrong: (
        int  # /closed is closed, /plain does not pass on the Upgrade headers, /token asks for one
    )
    # There, /user adds the token of a user, and /own expects a client's.

    def url(self, port: int, path: str = "/mb/") -> str:
        return f"ws://{HOST}:{port}{path}"


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerProcess]:
    log = tmp_path_factory.mktemp("broker") / "log"
    with BrokerProcess(log, ["ws"], "--origins", "https://mb.example") as process:
        yield process


@pytest.fixture(scope="module")
def restricted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerProcess]:
    """A broker that has the users `page` and `station`, and no anonymous clients."""
    folder = tmp_path_factory.mktemp("restricted")
    users = "".join(
        f'[[users]]\nname = "{name}"\ntoken_sha256 = "{token_digest(f"mb_{name}")}"\n'
        'roles = ["all"]\n'
        for name in ("page", "station")
    )
    access = folder / "access.toml"
    access.write_text(ROLES + users)
    access.chmod(0o600)
    with BrokerProcess(folder / "log", ["ws"], "--access", str(access)) as process:
        yield process


@pytest.fixture(scope="module")
def nginx(
    broker: BrokerProcess,
    restricted: BrokerProcess,
    certificate: Certificate,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Nginx]:
    found = program("nginx")
    folder = tmp_path_factory.mktemp("nginx")
    with reserved_port() as a, reserved_port() as b, reserved_port() as c, reserved_port() as d:
        ports = Nginx(a, b, c, d)
        (folder / "nginx.conf").write_text(
            configuration(broker, restricted, certificate, ports, folder)
        )
        command = [found, "-p", str(folder), "-c", "nginx.conf", "-e", "stderr"]
        with proxy(command, ports, folder / "log"):
            yield ports


def configuration(
    broker: BrokerProcess,
    restricted: BrokerProcess,
    certificate: Certificate,
    ports: Nginx,
    folder: Path,
) -> str:
    """What docs/nginx.md shows, with addresses and files of this test."""
    address = {"127.0.0.1:8080": f"{HOST}:{broker.ports['ws']}"}
    host, path = (replaced(block, address) for block in documented("nginx"))
    host = replaced(
        host,
        {
            "listen 443 ssl": f"listen {HOST}:{ports.host} ssl",
            "/etc/nginx/mb.example.pem": str(certificate.chain),
            "/etc/nginx/mb.example.key": str(certificate.key),
        },
    )
    idle = replaced(path, {"proxy_read_timeout 90s": f"proxy_read_timeout {IDLE}s"})
    plain = replaced(
        path,
        {
            "/mb/": "/plain/",
            "    proxy_set_header Upgrade $http_upgrade;\n": "",
            "    proxy_set_header Connection upgrade;\n": "",
        },
    )
    check, added = documented("text")
    token = replaced(path, {"/mb/": "/token/", "    proxy_pass": f"    {check}    proxy_pass"})
    added = replaced(added, {"mb_put-the-token-of-a-user-here": "mb_page"})
    user = replaced(path, {"/mb/": "/user/", "    proxy_pass": f"    {added}    proxy_pass"})
    user = replaced(user, {f"{HOST}:{broker.ports['ws']}": f"{HOST}:{restricted.ports['ws']}"})
    own = replaced(path, {f"{HOST}:{broker.ports['ws']}": f"{HOST}:{restricted.ports['ws']}"})
    own = replaced(own, {"/mb/": "/own/", "    proxy_pass": f"    {BEARER}    proxy_pass"})
    temporary = "".join(
        f"{name}_temp_path {folder}/{name};\n"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    wrong = f"{plain} {token} {user} {own} location /closed {{ return 503; }}"
    return f"""
        daemon off;
        worker_processes 1;
        pid {folder}/pid;
        events {{ worker_connections 256; }}
        http {{
            access_log off;
            proxy_max_temp_file_size 0;
            {temporary}
            {host}
            server {{ listen {HOST}:{ports.path}; {path} }}
            server {{ listen {HOST}:{ports.idle}; {idle} }}
            server {{ listen {HOST}:{ports.wrong}; {wrong} }}
        }}
    """


class Page(NamedTuple):
    status: int
    location: str | None
    body: bytes


Fetch = Callable[..., Awaitable[Page]]


@pytest.fixture
def fetch(nginx: Nginx, certificate: Certificate) -> Fetch:
    """Get a path through nginx, as a browser that was given a public name."""

    def get(path: str, *, host: str, secure: bool) -> Page:
        connection = (
            http.client.HTTPSConnection(HOST, nginx.host, timeout=10, context=certificate.trusting)
            if secure
            else http.client.HTTPConnection(HOST, nginx.path, timeout=10)
        )
        try:
            connection.request("GET", path, headers={"Host": host})
            response = connection.getresponse()
            return Page(response.status, response.getheader("Location"), response.read())
        finally:
            connection.close()

    async def fetch(path: str, *, host: str = "mb.example", secure: bool = False) -> Page:
        return await anyio.to_thread.run_sync(lambda: get(path, host=host, secure=secure))

    return fetch


async def talk(client: MessageBrokerClient) -> None:
    """A request and its answer, and a publication, as long as they may be."""
    long = "x" * 16_000
    subscription = await client.subscribe("echo.it", action="request", handler=lambda m: m.payload)
    assert (await client.request("echo.it", {"n": long})).payload == {"n": long}
    async with client.subscribe("news.#") as news:
        await client.publish("news.today", {"n": long})
        assert (await anext(news)).payload == {"n": long}
    await subscription.unsubscribe()


async def test_a_host_of_its_own_with_tls_that_nginx_ends(
    nginx: Nginx, certificate: Certificate
) -> None:
    url = f"wss://{HOST}:{nginx.host}"
    with anyio.fail_after(20):
        async with MessageBrokerClient(url, ssl_context=certificate.trusting) as client:
            await talk(client)


async def test_a_path_of_its_own(nginx: Nginx) -> None:
    with anyio.fail_after(20):
        async with MessageBrokerClient(nginx.url(nginx.path)) as client:
            await talk(client)


@pytest.mark.parametrize("secure", [False, True], ids=["path", "host"])
async def test_the_pages(secure: bool, fetch: Fetch) -> None:
    prefix = "" if secure else "/mb"
    page = await fetch(f"{prefix}/", secure=secure)
    assert (page.status, page.body[:15].lower()) == (200, b"<!doctype html>")
    names = re.findall(r'(?:src|href)="([^"#:]+)"', page.body.decode())
    assert {name.rpartition(".")[2] for name in names} == {"css", "js"}
    for name in names:
        assert (await fetch(urljoin(f"{prefix}/", name), secure=secure)).status == 200
    health = await fetch(f"{prefix}/health", secure=secure)
    assert (health.status, json.loads(health.body)["status"]) == (200, "ok")
    metrics = await fetch(f"{prefix}/metrics", secure=secure)
    assert metrics.status == 200
    assert b"mb_connection_active" in metrics.body


async def test_without_the_slash_at_the_end_nginx_redirects_to_the_page(fetch: Fetch) -> None:
    answer = await fetch("/mb")
    assert answer.status == 301
    assert answer.location is not None
    assert answer.location.endswith("/mb/")


async def test_names_and_sites_that_are_not_origins_are_refused(nginx: Nginx, fetch: Fetch) -> None:
    assert (await fetch("/mb/", host="other.example")).status == 403
    handshake = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Host": "mb.example",
    }

    def status(origin: str) -> int:
        connection = http.client.HTTPConnection(HOST, nginx.path, timeout=10)
        try:
            connection.request("GET", "/mb/", headers={**handshake, "Origin": origin})
            return connection.getresponse().status
        finally:
            connection.close()

    assert await anyio.to_thread.run_sync(status, "https://mb.example") == 101
    assert await anyio.to_thread.run_sync(status, "https://evil.example") == 403


async def test_a_client_comes_back_after_nginx_has_closed_its_idle_connection(
    nginx: Nginx,
) -> None:
    lost, back = anyio.Event(), anyio.Event()
    with anyio.fail_after(30):
        async with MessageBrokerClient(nginx.url(nginx.idle), **FAST) as client:
            client.on_disconnect(lost.set)
            subscription = await client.subscribe("idle.news")
            client.on_connect(lambda: back.set() if lost.is_set() else None)
            await lost.wait()
            await back.wait()
            await client.publish("idle.news", {"n": 1}, confirm=True)
            assert (await anext(subscription)).payload == {"n": 1}


async def test_heartbeats_keep_an_idle_connection(nginx: Nginx) -> None:
    interval = 200
    with anyio.fail_after(30):
        async with MessageBrokerClient(
            nginx.url(nginx.idle), heartbeat_interval=interval, **FAST
        ) as client:
            lost = anyio.Event()
            client.on_disconnect(lost.set)
            with anyio.move_on_after(IDLE + 0.5):
                await lost.wait()
            assert not lost.is_set()
            assert client.stats().reconnects == 0


@pytest.mark.parametrize("front_end", ["async", "sync"])
async def test_a_client_goes_on_trying_while_nginx_answers_for_a_broker_that_is_down(
    front_end: str, nginx: Nginx, broker: BrokerProcess
) -> None:
    url = nginx.url(nginx.path)
    with anyio.fail_after(60):
        async with MessageBrokerClient(url, **FAST) as client:
            lost = anyio.Event()
            client.on_disconnect(lost.set)
            subscription = await client.subscribe("up.again")
            await anyio.to_thread.run_sync(broker.stop)
            try:
                await lost.wait()
                connect = MessageBrokerClient(url).connect
                if front_end == "sync":
                    other = mb_sync.MessageBrokerClient(url)
                    connect = functools.partial(anyio.to_thread.run_sync, other.connect)
                with pytest.raises(ConnectError) as caught:
                    await connect()
                text = str(caught.value)
                assert url in text
                assert "HTTP status 502 (a proxy in between can't reach the broker)" in text
                assert "<" not in text, "nginx's page is for browsers"
                assert not caught.value.final
            finally:
                await anyio.to_thread.run_sync(broker.start)
            await client.publish("up.again", {"n": 1}, confirm=True)
            assert (await anext(subscription)).payload == {"n": 1}


async def test_a_broker_that_is_closed_for_maintenance(nginx: Nginx) -> None:
    url = nginx.url(nginx.wrong, "/closed")
    with anyio.fail_after(20), pytest.raises(ConnectError) as caught:
        await MessageBrokerClient(url).connect()
    assert url in str(caught.value)
    assert "HTTP status 503" in str(caught.value)
    assert not caught.value.final


async def test_a_token_in_the_url(nginx: Nginx) -> None:
    url = nginx.url(nginx.wrong, "/token/")
    with anyio.fail_after(20):
        async with MessageBrokerClient(f"{url}?token=put-a-long-random-text-here") as client:
            await talk(client)
        for wrong in (url, f"{url}?token=a-guess"):
            with pytest.raises(ConnectError, match="HTTP status 401") as caught:
                await MessageBrokerClient(wrong, retry_connect=True).connect()
            assert caught.value.final


async def test_upgrade_headers_that_nginx_does_not_pass_on(
    nginx: Nginx, broker: BrokerProcess
) -> None:
    url = nginx.url(nginx.wrong, "/plain/")
    with anyio.fail_after(20):
        async with (
            MessageBrokerClient(broker.url("ws")) as follower,
            follower.follow_log(["warn"]) as entries,
        ):
            with pytest.raises(ConnectError, match="HTTP status 426"):
                await MessageBrokerClient(url).connect()
            entry = (await anext(entries)).payload
            assert "does a proxy in between drop it?" in entry["message"]


async def test_nginx_adds_the_token_of_a_user(nginx: Nginx, restricted: BrokerProcess) -> None:
    url = nginx.url(nginx.wrong, "/user/")
    with anyio.fail_after(20):
        async with MessageBrokerClient(url) as client:
            who = await client.request("system.authenticate", {})
            assert who.payload == {"status": "success", "user": "page"}
            await talk(client)
        async with MessageBrokerClient(url, token="mb_station") as client:
            assert client.user == "station"
        async with MessageBrokerClient(restricted.url("ws")) as client:
            with pytest.raises(UnauthorizedError):
                await talk(client)
    assert "mb_page" not in restricted.log


BROWSER = """
const socket = new WebSocket(process.argv[1]);
socket.onerror = (event) => { console.log("error", event.message); process.exit(1); };
let told = 0;
socket.onmessage = ({ data }) => {
  if (!told++) {
    socket.send("request:system.authenticate:1.0.0:123e4567-e89b-42d3-a456-426614174000\\n{}");
  } else {
    console.log(data.split("\\n")[1]);
    process.exit(0);
  }
};
"""


async def test_a_browsers_websocket_is_the_user_whose_token_nginx_adds(nginx: Nginx) -> None:
    node = program("node")
    url = nginx.url(nginx.wrong, "/user/")
    with anyio.fail_after(20):
        done = await anyio.run_process(
            [node, "--experimental-websocket", "-e", BROWSER, url], check=False
        )
    assert json.loads(done.stdout) == {"status": "success", "user": "page"}, done.stderr


async def test_nginx_checks_the_token_of_a_client(nginx: Nginx) -> None:
    url = nginx.url(nginx.wrong, "/own/")
    with anyio.fail_after(20):
        async with MessageBrokerClient(url, token="mb_station") as client:
            assert client.user == "station"
        for token, hint in ((None, "pass a token"), ("mb_page", "does not accept the token")):
            with pytest.raises(ConnectError, match=f"HTTP status 401 .*{hint}") as caught:
                await MessageBrokerClient(url, token=token).connect()
            assert caught.value.final
            assert "mb_page" not in str(caught.value)
