"""`mb serve` in a process of its own, used and killed as from another terminal."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from websockets.exceptions import ConnectionClosedOK
from websockets.sync.client import connect

from mb_client import ConnectionLost, Message, MessageBrokerClient

pytestmark = pytest.mark.anyio


@contextmanager
def serving(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [
            sys.executable,
            "-m",
            "mb_tools",
            "serve",
            "--tcp-port",
            "0",
            "--ws-port",
            "0",
            *arguments,
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def urls(process: subprocess.Popen[str]) -> list[str]:
    assert process.stdout is not None
    return [process.stdout.readline().strip() for _ in range(2)]


async def test_prints_its_urls_one_a_line_and_serves_both() -> None:
    with anyio.fail_after(30), serving() as process:
        tcp, ws = urls(process)
        assert tcp.startswith("tcp://127.0.0.1:")
        assert ws.startswith("ws://127.0.0.1:")
        async with MessageBrokerClient(tcp) as service, MessageBrokerClient(ws) as client:
            await service.subscribe("echo", action="request", handler=lambda m: m.payload)
            assert (await client.request("echo", {"n": 1})).payload == {"n": 1}


async def test_listens_on_urls_alone_where_no_port_is_set(mb: Any) -> None:
    listen = ("--listen", "tcp://:0", "--listen", "ws://127.0.0.1:0,tcp://127.0.0.1:0")
    with anyio.fail_after(30), mb.started("serve", *listen) as process:
        printed = [process.stdout.readline().strip() for _ in range(3)]
        assert [url.partition(":")[0] for url in printed] == ["tcp", "ws", "tcp"]
        assert len({*printed}) == 3
        assert all(url.partition("://")[2].startswith("127.0.0.1:") for url in printed)
        assert not {"tcp://127.0.0.1:8081", "ws://127.0.0.1:8080"} & {*printed}
        for url in printed:
            async with MessageBrokerClient(url) as client:
                await client.request("system.heartbeat", {})
        process.send_signal(signal.SIGTERM)
        out, _ = await anyio.to_thread.run_sync(process.communicate)
        assert (process.returncode, out) == (0, "")


@pytest.mark.parametrize(
    ("url", "status", "told"),
    [
        (
            "/tmp/mb.sock",
            2,
            "--listen: invalid URL '/tmp/mb.sock': expected scheme://host:port, for ",
        ),
        ("", 2, "--listen is empty: expected a URL, for example tcp://127.0.0.1:8081"),
        ("tls://127.0.0.1:0", 2, "listen tls://127.0.0.1:0 needs tls_cert and tls_key"),
        (
            "amqp://127.0.0.1",
            3,
            "no installed plugin speaks amqp:// (installed: memory://, tcp://, ",
        ),
        ("tcp://192.0.2.1:0", 3, "can't listen on 192.0.2.1:0: "),
    ],
)
def test_a_url_that_can_t_be_listened_on_is_told(mb: Any, url: str, status: int, told: str) -> None:
    ended = mb("serve", "--open", "--listen", url)
    assert (ended.returncode, ended.stdout) == (status, "")
    assert ended.stderr.startswith(f"mb serve: {told}")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_ends_it_with_status_0(number: signal.Signals) -> None:
    with anyio.fail_after(30), serving() as process:
        tcp, _ = urls(process)
        async with MessageBrokerClient(tcp, reconnect=False) as client:
            process.send_signal(number)
            with pytest.raises(ConnectionLost):
                await client.run()
        out, err = await anyio.to_thread.run_sync(process.communicate)
        assert (process.returncode, out) == (0, "")
        *lines, ended = err.splitlines()
        (said,) = (line for line in lines if number.name in line)
        assert said.endswith(
            f"INFO {number.name}: no new connections; the requests in flight have 5000 ms "
            "(a second signal ends the broker at once)"
        )
        assert ended.endswith("INFO the broker has ended")


def test_a_client_is_told_why_the_connection_ends() -> None:
    with serving() as process:
        _, ws = urls(process)
        with connect(ws) as client:
            client.recv(10)  # the greeting: it is connected
            process.send_signal(signal.SIGTERM)
            with pytest.raises(ConnectionClosedOK) as caught:
                client.recv(10)
    assert caught.value.rcvd is not None
    assert caught.value.rcvd.reason == "the broker is shutting down"


async def test_requests_in_flight_are_answered_before_it_ends() -> None:
    with anyio.fail_after(30), serving() as process:
        tcp, ws = urls(process)
        asked, answer = anyio.Event(), anyio.Event()

        async def slow(message: Message) -> str:
            asked.set()
            await answer.wait()
            return "done"

        async with MessageBrokerClient(tcp) as service, MessageBrokerClient(ws) as client:
            await service.subscribe("slow", action="request", handler=slow)
            answers: list[object] = []

            async def ask() -> None:
                answers.append((await client.request("slow", {})).payload)

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(ask)
                await asked.wait()
                process.send_signal(signal.SIGTERM)
                await refused(tcp)  # it accepts no more: it is draining
                answer.set()
            assert answers == ["done"]
        assert await anyio.to_thread.run_sync(process.wait) == 0


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
async def test_a_second_signal_ends_it_at_once_with_that_signals_status(
    first: signal.Signals, second: signal.Signals
) -> None:
    # A day each: only the second signal can end it.
    limits = ("--drain-timeout", "86400000", "--close-timeout", "86400000")
    with anyio.fail_after(30), serving(*limits) as process:
        tcp, _ = urls(process)
        asked = anyio.Event()

        async def never(message: Message) -> None:
            asked.set()
            await anyio.sleep_forever()

        # It waits for no handler that hangs on purpose.
        async with MessageBrokerClient(tcp, drain_timeout=0) as client:
            await client.subscribe("never", action="request", handler=never)
            async with anyio.create_task_group() as tasks:

                async def ask() -> None:
                    with pytest.raises(ConnectionLost):
                        await client.request("never", {}, timeout=3_600_000)

                tasks.start_soon(ask)
                await asked.wait()
                process.send_signal(first)
                await refused(tcp)
                process.send_signal(second)
        _, err = await anyio.to_thread.run_sync(process.communicate)
        assert process.returncode == -second
        assert err.count("a second signal ends the broker at once") == 1
        assert "the broker has ended" not in err


async def test_two_signals_at_once_end_it_at_once() -> None:
    limits = ("--drain-timeout", "86400000", "--close-timeout", "86400000")
    with anyio.fail_after(30), serving(*limits) as process:
        tcp, _ = urls(process)
        host, _, port = tcp.removeprefix("tcp://").rpartition(":")
        # It does not read, so it does not close either.
        async with await anyio.connect_tcp(host, int(port)):
            process.send_signal(signal.SIGSTOP)
            process.send_signal(signal.SIGTERM)
            process.send_signal(signal.SIGINT)
            process.send_signal(signal.SIGCONT)
            await anyio.to_thread.run_sync(process.wait)
        assert process.returncode in (-signal.SIGTERM, -signal.SIGINT)


def test_a_terminal_that_is_closed_ends_it_in_order() -> None:
    ours, theirs = os.openpty()
    command = [sys.executable, "-m", "mb_tools", "serve", "--tcp-port=0", "--ws-port=0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, text=True) as process:
        try:
            urls(process)
            os.close(theirs)
            os.close(ours)
            process.send_signal(signal.SIGHUP)
            assert process.wait(30) == 0
        finally:
            process.kill()


async def test_under_nohup_sighup_is_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with anyio.fail_after(30), serving() as process:
            signal.signal(signal.SIGHUP, before)
            tcp, _ = urls(process)
            process.send_signal(signal.SIGHUP)
            async with MessageBrokerClient(tcp) as client:
                await client.request("system.heartbeat", {})
            process.send_signal(signal.SIGTERM)
            _, err = await anyio.to_thread.run_sync(process.communicate)
            assert (process.returncode, "SIGHUP" in err) == (0, False)
    finally:
        signal.signal(signal.SIGHUP, before)


async def test_a_request_that_outlasts_drain_timeout_is_given_up() -> None:
    with anyio.fail_after(30), serving("--drain-timeout", "50") as process:
        tcp, ws = urls(process)
        asked = anyio.Event()

        async def never(message: Message) -> None:
            asked.set()
            await anyio.sleep_forever()

        async with (
            MessageBrokerClient(tcp, drain_timeout=0) as service,
            MessageBrokerClient(ws) as client,
        ):
            await service.subscribe("never", action="request", handler=never)
            async with anyio.create_task_group() as tasks:

                async def ask() -> None:
                    with pytest.raises(ConnectionLost):
                        await client.request("never", {}, timeout=3_600_000)

                tasks.start_soon(ask)
                await asked.wait()
                process.send_signal(signal.SIGTERM)
        _, err = await anyio.to_thread.run_sync(process.communicate)
        assert process.returncode == 0
        assert "WARNING gave up on 1 request in flight (drain_timeout)\n" in err
        assert err.endswith("INFO the broker has ended\n")


async def test_it_listens_on_ipv6_and_prints_urls_that_can_be_used() -> None:
    with anyio.fail_after(30), serving("--host", "::1") as process:
        tcp, ws = urls(process)
        assert tcp.startswith("tcp://[::1]:")
        async with (
            MessageBrokerClient(tcp) as one,
            MessageBrokerClient(ws) as other,
            one.subscribe("a") as events,
        ):
            await other.publish("a", 1)
            assert (await anext(events)).payload == 1


async def test_on_all_addresses_it_takes_ipv4_and_ipv6() -> None:
    with anyio.fail_after(30), serving("--host", "::", "--open") as process:
        for url in urls(process):
            assert "://[::]:" in url
            for host in ("[::1]", "127.0.0.1"):
                async with MessageBrokerClient(url.replace("[::]", host)) as client:
                    await client.request("system.heartbeat", {})


async def test_a_port_that_is_taken_is_one_line_and_status_3() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with anyio.fail_after(30), serving("--tcp-port", str(port)) as process:
            out, err = await anyio.to_thread.run_sync(process.communicate)
    assert process.returncode == 3
    assert out == ""
    assert err == f"mb serve: can't listen on 127.0.0.1:{port}: Address already in use\n"


# A bug in the broker's timer, as a program that starts `mb serve`.
_FAILING = """
from mb_broker.router import Router
from mb_tools.cli import main

def fail(*args):
    raise {error}

Router.next_deadline = fail
main(prog_name="mb")
"""


@pytest.mark.parametrize(
    "error",
    ["KeyError('bug')", "BrokenPipeError()", "OSError(5, 'bug')", "SystemExit(0)", "SystemExit"],
)
@pytest.mark.parametrize("log_format", ["text", "json"])
def test_an_internal_error_is_told_and_not_status_0(
    error: str, log_format: str, tmp_path: Path
) -> None:
    program = tmp_path / "program.py"  # a file: not every Python shows the lines of others
    program.write_text(_FAILING.format(error=error))
    arguments = ["serve", "--tcp-port=0", "--ws-port=0", f"--log-format={log_format}"]
    done = subprocess.run(
        [sys.executable, program, *arguments], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert "internal error: the broker has failed" in done.stderr
    assert f"raise {error}" in done.stderr  # its traceback
    told = "mb serve: the broker has failed: an internal error, see the log\n"
    # When SystemExit is raised in a task, asyncio leaves others unfinished, and says so at the end.
    assert told in done.stderr if "SystemExit" in error else done.stderr.endswith(told)
    assert "the broker has ended" not in done.stderr


async def refused(url: str) -> None:
    """Wait until nobody accepts connections at `url` any more."""
    host, _, port = url.removeprefix("tcp://").rpartition(":")
    while True:
        try:
            await (await anyio.connect_tcp(host, int(port))).aclose()
        except OSError:
            return
