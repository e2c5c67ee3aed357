"""Addresses: where listeners listen, and why connections do not come about."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import threading
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import anyio
import pytest

from mb_core.errors import ConnectError, MBError, RemoteProtocolError
from mb_core.link import sockets
from mb_core.link.sockets import peer_name
from mb_core.link.stream_link import end_error, refusal
from mb_core.wire import Limits
from mb_tcp import LengthPrefixWire

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("kind", ["tcp"])]


async def meets(net: Any, server: Any, host: str) -> None:
    """A client that dials `host` reaches the server."""
    count = len(server.handlers)
    client = await net.connect((host, server.address[1]))
    client.link.send(b"one")
    assert await (await server.handler(count)).receive() == [b"one"]


# Listening


async def test_port_0_is_a_free_port_that_the_address_tells(net: Any) -> None:
    with anyio.fail_after(5):
        one, two = await net.listen(), await net.listen()
        assert one.address[0] == "127.0.0.1"
        assert 0 != one.address[1] != two.address[1]
        await meets(net, one, "127.0.0.1")
        await meets(net, two, "127.0.0.1")


@pytest.mark.usefixtures("has_ipv6")
async def test_ipv6(net: Any) -> None:
    with anyio.fail_after(5):
        server = await net.listen(address=("::1", 0))
        assert server.address[0] == "::1"
        client = await net.connect(server.address)
        assert client.link.peer == f"[::1]:{server.address[1]}"
        client.link.send(b"one")
        assert await (await server.handler()).receive() == [b"one"]


@pytest.mark.usefixtures("has_ipv6")
async def test_an_empty_host_is_all_addresses_with_one_port(net: Any) -> None:
    with anyio.fail_after(5):
        server = await net.listen(address=("", 0))
        await meets(net, server, "127.0.0.1")
        await meets(net, server, "::1")
        await server.listener.close()
        for host in ("127.0.0.1", "::1"):
            with pytest.raises(ConnectError):
                await net.connect((host, server.address[1]))


async def test_a_name_is_listened_on(net: Any) -> None:
    with anyio.fail_after(5):
        server = await net.listen(address=("localhost", 0))
        await meets(net, server, "localhost")


async def test_a_port_in_use_is_a_connect_error(net: Any) -> None:
    with anyio.fail_after(5):
        server = await net.listen()
        with pytest.raises(ConnectError, match=r"can't listen on 127\.0\.0\.1:\d+: .*in use"):
            await net.listen(address=server.address)


@pytest.mark.parametrize(
    "host", ["no.such.host.invalid", "192.0.2.1", "a..b"], ids=["unknown", "not ours", "no name"]
)
async def test_a_host_that_is_not_here_can_not_be_listened_on(net: Any, host: str) -> None:
    with anyio.fail_after(10), pytest.raises(ConnectError, match="can't listen on"):
        await net.listen(address=(host, 0))


def resolve_to(monkeypatch: pytest.MonkeyPatch, *hosts: str) -> None:
    """Let every name stand for these IPv4 addresses."""

    def getaddrinfo(*args: Any, **kwargs: Any) -> list[Any]:
        port = args[1]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port)) for host in hosts]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


async def test_an_address_of_a_host_that_is_not_here_is_passed_over(
    net: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As ::1 for localhost, where IPv6 is switched off.
    with anyio.fail_after(5):
        resolve_to(monkeypatch, "192.0.2.1", "127.0.0.1")
        server = await net.listen(address=("some.name", 0))
        assert server.address[0] == "127.0.0.1"
        await meets(net, server, "127.0.0.1")


async def test_a_family_that_the_machine_lacks_is_passed_over(
    net: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def getaddrinfo(*args: Any, **kwargs: Any) -> list[Any]:
        families = [(12345, ("::1", args[1], 0, 0)), (socket.AF_INET, ("127.0.0.1", args[1]))]
        return [(family, socket.SOCK_STREAM, 6, "", to) for family, to in families[:count]]

    with anyio.fail_after(5):
        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        count = 2
        server = await net.listen(address=("some.name", 0))
        assert server.address[0] == "127.0.0.1"
        count = 1
        with pytest.raises(ConnectError, match=r"can't listen on some\.name:0"):
            await net.listen(address=("some.name", 0))


async def test_a_failure_on_a_second_address_leaves_no_socket_of_the_first(
    net: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with anyio.fail_after(5):
        taken = await net.listen(address=("127.0.0.2", 0))
        resolve_to(monkeypatch, "127.0.0.1", "127.0.0.2")
        with pytest.raises(ConnectError, match="in use"):
            await net.listen(address=("some.name", taken.address[1]))
        resolve_to(monkeypatch, "127.0.0.1")
        await net.listen(address=("some.name", taken.address[1]))


# More than asyncio's own default; macOS takes 128 at most.
_AT_ONCE = 120


@pytest.mark.parametrize("given", [False, True], ids=["address", "socket"])
async def test_clients_that_come_at_once_wait_while_the_loop_is_busy(net: Any, given: bool) -> None:
    with ExitStack() as stack, anyio.fail_after(5):
        address: Any = ("127.0.0.1", 0)
        if given:
            address = socket.create_server(address, backlog=1)  # the listener's to close
        server = await net.listen(address=address)
        await meets(net, server, "127.0.0.1")  # it accepts by now
        clients = [stack.enter_context(socket.socket()) for _ in range(_AT_ONCE)]
        for client in clients:
            client.setblocking(False)
            client.connect_ex(server.address)
        connected = 0
        for client in clients:
            with suppress(OSError):
                client.getpeername()
                connected += 1
        assert connected == _AT_ONCE


async def test_a_cancelled_listen_leaves_nobody_listening(net: Any) -> None:
    listening: list[Any] = []

    async def listen(sock: socket.socket) -> None:
        listening.append(await net.listen(address=sock))

    with anyio.fail_after(5):
        for steps in range(20):
            sock = socket.create_server(("127.0.0.1", 0))
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(listen, sock)
                for _ in range(steps):
                    await net.backend.checkpoint()
                tasks.cancel_scope.cancel()
            if listening:
                return
            assert sock.fileno() == -1
    pytest.fail("listening takes more than 20 turns of the loop")


# Connecting


async def test_an_address_that_does_not_answer_delays_the_next_one_only_a_little(
    net: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The usual case is a host's IPv6 address where IPv6 is broken.
    with ExitStack() as stack, anyio.fail_after(5):
        server = await net.listen()
        port = server.address[1]
        hole = stack.enter_context(socket.create_server(("127.0.0.2", port), backlog=0))
        for _ in range(4):  # they fill its queue: it answers nobody else
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(hole.getsockname())
        resolve_to(monkeypatch, "127.0.0.2", "127.0.0.1")
        await meets(net, server, "some.name")


async def test_a_port_on_which_nobody_listens(net: Any, free_port: int) -> None:
    with (
        anyio.fail_after(5),
        pytest.raises(
            ConnectError, match=rf"nobody listens on 127\.0\.0\.1:{free_port}"
        ) as refused,
    ):
        await net.connect(("127.0.0.1", free_port))
    assert not refused.value.final


async def test_a_name_with_several_addresses_on_which_nobody_listens(
    net: Any, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with anyio.fail_after(5):
        resolve_to(monkeypatch, "127.0.0.1", "127.0.0.2")
        with pytest.raises(ConnectError, match=rf"nobody listens on some\.name:{free_port}"):
            await net.connect(("some.name", free_port))


async def test_a_name_is_tried_at_all_its_addresses(
    net: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with anyio.fail_after(5):
        server = await net.listen()
        resolve_to(monkeypatch, "127.0.0.2", "127.0.0.1")
        await meets(net, server, "some.name")


@pytest.mark.parametrize(
    ("host", "final"),
    [
        ("no.such.host.invalid", False),
        ("", False),
        ("a..b", True),
        ("x" * 64 + ".example", True),
        ("\N{SNOWMAN}..b", True),
    ],
    ids=["unknown", "empty", "empty label", "long label", "bad unicode"],
)
async def test_a_name_that_is_none_is_an_unknown_host_for_good_where_it_can_not_be_one(
    net: Any, host: str, final: bool
) -> None:
    with anyio.fail_after(10), pytest.raises(ConnectError, match="unknown host") as raised:
        await net.connect((host, 8081))
    assert raised.value.final is final


async def test_another_failure_says_where_and_why(
    net: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with anyio.fail_after(5):
        resolve_to(monkeypatch, "255.255.255.255")
        with pytest.raises(ConnectError, match=r"can't connect to some\.name:8081: \w+") as raised:
            await net.connect(("some.name", 8081))
        assert not raised.value.final


async def test_a_connect_may_be_cancelled_while_the_name_is_looked_up(
    net: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def getaddrinfo(*args: Any, **kwargs: Any) -> list[Any]:
        flags = args[5] if len(args) > 5 else kwargs.get("flags", 0)
        if args[0] not in ("some.name", b"some.name") or flags & socket.AI_NUMERICHOST:
            return real(*args, **kwargs)
        looking.set()
        release.wait(5)
        return real("127.0.0.1", *args[1:], **kwargs)

    real = socket.getaddrinfo
    looking, release = threading.Event(), threading.Event()
    with anyio.fail_after(5):
        server = await net.listen()
        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(net.connect, ("some.name", server.address[1]))
                await anyio.to_thread.run_sync(looking.wait)
                await anyio.wait_all_tasks_blocked()
                tasks.cancel_scope.cancel()
        finally:
            release.set()
        await anyio.wait_all_tasks_blocked()
        assert server.handlers == []


async def test_a_peer_that_is_gone_before_it_is_accepted_harms_nobody(net: Any, tools: Any) -> None:
    with anyio.fail_after(5):
        server = await net.listen()
        gone = await anyio.connect_tcp(*server.address)
        tools.reset(gone)
        await anyio.aclose_forcefully(gone)
        await meets(net, server, "127.0.0.1")


async def test_a_peer_without_a_name_is_known_by_what_it_has_come_to(
    net: Any, tmp_path: Path
) -> None:
    path = str(tmp_path / "mb.sock")
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        listener.bind(path)
        listener.listen()
        client.connect(path)
        assert peer_name(client) == path
        with listener.accept()[0] as accepted:
            assert peer_name(accepted) == f"peer on {path}"


async def test_a_socket_whose_peer_is_gone_has_a_name_all_the_same(net: Any) -> None:
    with socket.socket() as sock:
        assert peer_name(sock) == "peer"


# Ends


@pytest.mark.parametrize("number", [errno.ENOTCONN, errno.ECONNRESET])
def test_a_reset_that_closing_meets_is_called_a_reset(kind: str, number: int) -> None:
    error = OSError(number, os.strerror(number))
    lost = end_error("host:1", LengthPrefixWire(Limits()), error, aborted=False)
    assert str(lost) == "the connection to host:1 broke: Connection reset by peer"
    assert lost is not None
    assert lost.__cause__ is error


# Refusals


@pytest.mark.parametrize("reason", [ConnectError("x"), ConnectError("x", final=True)], ids=repr)
async def test_the_refusal_of_a_handshake_is_as_final_as_its_reason(
    net: Any, reason: ConnectError
) -> None:
    assert refusal("peer", reason) is reason


@pytest.mark.parametrize("reason", [None, RemoteProtocolError("x")], ids=repr)
async def test_a_handshake_that_failed_for_other_reasons_may_be_tried_again(
    net: Any, reason: MBError | None
) -> None:
    error = refusal("peer", reason)
    assert isinstance(error, ConnectError)
    assert not error.final


@pytest.mark.parametrize(
    ("number", "remedy"), [(errno.EMFILE, " (raise the limit: ulimit -n)"), (errno.ENOBUFS, "")]
)
async def test_streams_that_can_not_be_accepted_are_logged_once_a_second(
    net: Any,
    number: int,
    remedy: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    listener = (await net.listen()).listener
    for tenth in range(25):
        with monkeypatch.context() as patched:
            patched.setattr(anyio, "current_time", lambda tenth=tenth: 7 + tenth / 10)
            listener._log_refusal(OSError(number, os.strerror(number)))
    reason = os.strerror(number)
    assert caplog.messages == [
        f"can't accept connections on 127.0.0.1:{listener.address[1]}: {reason}{remedy}"
        for _ in range(3)
    ]


async def test_accepting_goes_on_when_the_system_has_a_file_again(
    net: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    refusals = [OSError(errno.EMFILE, "Too many open files"), ConnectionAbortedError()]

    class Scarce(socket.socket):
        def accept(self) -> Any:
            if refusals:
                raise refusals.pop()
            return super().accept()

    with anyio.fail_after(5):
        listening = Scarce()
        listening.bind(("127.0.0.1", 0))
        server = await net.listen(address=listening)
        await meets(net, server, "127.0.0.1")
    assert refusals == []
    assert len(caplog.messages) == 1


async def test_where_the_loop_watches_no_sockets_a_thread_does(
    net: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows' usual loop is of that kind."""
    if net.backend.name != "asyncio":
        return  # trio accepts alike everywhere
    loop = asyncio.get_running_loop()

    def add_reader(*args: object) -> None:
        raise NotImplementedError

    with monkeypatch.context() as patched:
        patched.setattr(loop, "add_reader", add_reader)
        server = await net.listen()
        await meets(net, server, "127.0.0.1")
        await server.listener.close()
    with pytest.raises(ConnectError, match="nobody listens"):
        await net.connect(server.address)


@pytest.mark.parametrize("posix", [True, False])
async def test_only_posix_reuses_addresses(
    kind: str, posix: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sockets, "_REUSE_ADDRESS", posix)
    [sock] = await sockets.listening_sockets(("127.0.0.1", 0))
    with sock:
        assert bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)) is posix
