"""Brokers behind HAProxy, with the configuration that docs/nginx.md shows, and its checks."""

from __future__ import annotations

import csv
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import anyio
import pytest

from mb_broker.ports import reserved_port
from mb_client import MessageBrokerClient

from .conftest import Certificate
from .processes import HOST, BrokerProcess, documented, program, proxy, replaced

pytestmark = pytest.mark.anyio

SCHEMES = ("tcp", "ws", "tls", "wss")
# Other usual checks, each of a server that nothing else goes to.
UPGRADE = (
    "http-check send meth GET uri / ver HTTP/1.1 hdr Host localhost"
    " hdr Connection upgrade hdr Upgrade websocket"
    " hdr Sec-WebSocket-Version 13 hdr Sec-WebSocket-Key dGhlIHNhbXBsZSBub25jZQ=="
)
CHECKS = [
    ("ws", "tcp", [], ""),
    ("tls", "tcp", [], ""),
    ("tls", "tcp", [], "check-ssl verify none"),
    ("wss", "tcp", [], ""),
    ("wss", "tcp", [], "check-ssl verify none"),
    ("ws", "http", ["option httpchk"], ""),
    ("ws", "http", ["option httpchk HEAD /health"], ""),
    ("wss", "http", ["option httpchk GET /health"], "check-ssl verify none"),
    ("ws", "http", ["option httpchk", UPGRADE, "http-check expect status 101"], ""),
    (
        "wss",
        "http",
        ["option httpchk", UPGRADE, "http-check expect status 101"],
        "check-ssl verify none",
    ),
]


class HAProxy(NamedTuple):
    tcp: int
    wss: int
    statistics: Path  # its socket

    def checks(self) -> dict[str, str]:
        """The outcome of the last check of each server."""
        with socket.socket(socket.AF_UNIX) as stream, stream.makefile("r") as answer:
            stream.connect(str(self.statistics))
            stream.sendall(b"show stat\n")
            rows = list(csv.DictReader(answer))
        return {row["# pxname"]: row["check_status"] for row in rows if row["svname"] == "broker"}


@pytest.fixture(scope="module")
def broker(
    certificate: Certificate, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[BrokerProcess]:
    log = tmp_path_factory.mktemp("broker") / "log"
    tls = ("--tls-cert", str(certificate.chain), "--tls-key", str(certificate.key))
    with BrokerProcess(log, SCHEMES, *tls) as process:
        yield process


@pytest.fixture(scope="module")
def haproxy(
    broker: BrokerProcess, certificate: Certificate, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[HAProxy]:
    found = program("haproxy")
    folder = tmp_path_factory.mktemp("haproxy")
    with reserved_port() as tcp, reserved_port() as wss:
        running = HAProxy(tcp, wss, folder / "socket")
        (folder / "cfg").write_text(configuration(broker, certificate, running))
        with proxy([found, "-db", "-f", str(folder / "cfg")], [tcp, wss], folder / "log"):
            yield running


def configuration(broker: BrokerProcess, certificate: Certificate, running: HAProxy) -> str:
    """What docs/nginx.md shows, with addresses and files of this test, and with more checks."""
    (shown,) = documented("haproxy")
    ports = broker.ports
    shown = replaced(
        shown,
        {
            "bind :8081": f"bind {HOST}:{running.tcp}",
            "bind :443": f"bind {HOST}:{running.wss}",
            "/etc/haproxy/mb.example.pem": str(certificate.both),
            "127.0.0.1:18081 check": f"{HOST}:{ports['tcp']} check inter 1s",
            "127.0.0.1:8080 check": f"{HOST}:{ports['ws']} check inter 1s",
        },
    )
    for number, (scheme, mode, lines, options) in enumerate(CHECKS):
        # HAProxy resets checks that take longer, also where it was this machine that was busy.
        shown += f"\nbackend check{number}\n    mode {mode}\n    timeout check 20s\n"
        shown += "".join(f"    {line}\n" for line in lines)
        shown += f"    server broker {HOST}:{ports[scheme]} check inter 1s {options}\n"
    return f"global\n    maxconn 100\n    stats socket {running.statistics}\n\n{shown}"


async def talk(client: MessageBrokerClient) -> None:
    """A request and its answer, and a publication, as long as they may be."""
    long = "x" * 16_000
    subscription = await client.subscribe("echo.it", action="request", handler=lambda m: m.payload)
    assert (await client.request("echo.it", {"n": long})).payload == {"n": long}
    async with client.subscribe("news.#") as news:
        await client.publish("news.today", {"n": long})
        assert (await anext(news)).payload == {"n": long}
    await subscription.unsubscribe()


async def test_tcp_that_is_passed_on_as_it_is(haproxy: HAProxy) -> None:
    with anyio.fail_after(20):
        async with MessageBrokerClient(f"tcp://{HOST}:{haproxy.tcp}") as client:
            await talk(client)


async def test_websocket_with_tls_that_haproxy_ends(
    haproxy: HAProxy, certificate: Certificate
) -> None:
    url = f"wss://{HOST}:{haproxy.wss}"
    with anyio.fail_after(20):
        async with MessageBrokerClient(url, ssl_context=certificate.trusting) as client:
            await talk(client)


async def test_checks_are_debug_entries_only(haproxy: HAProxy, broker: BrokerProcess) -> None:
    before = broker.log
    with anyio.fail_after(30):
        async with (
            MessageBrokerClient(broker.url("tcp")) as client,
            client.follow_log(["debug", "info", "warn", "error"]) as entries,
        ):
            checked = 0
            while checked < 2 * (2 + len(CHECKS)):
                entry = (await anext(entries)).payload
                assert entry["level"] == "debug", entry
                checked += " left without a " in entry["message"]
    checks = haproxy.checks()
    # A check that is under way has a star before the result of the last one.
    assert {each.lstrip("* ") for each in checks.values()} <= {"L4OK", "L6OK", "L7OK"}, checks
    # The client itself connects, subscribes and leaves.
    new = broker.log.removeprefix(before).splitlines()
    assert len(new) <= 3, new
    assert {line.split()[2] for line in new} <= {"INFO"}, new
