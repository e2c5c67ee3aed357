"""The proxy passes on, cuts, refuses and hangs, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import socket
import threading

import anyio
import pytest

from mb_broker.ports import HOST
from mb_core import ConnectError
from mb_testing.proxy import (
    HALF_OPEN,
    NORMAL,
    STALLED,
    Conditions,
    Cut,
    Proxy,
)

from .proxy_lab import PATIENCE, UP, Lab, is_silent, lab, read_to_end, receive, url_of

__all__ = ["lab"]

# In normal conditions


def test_bytes_go_both_ways_and_each_end_is_passed_on_by_itself(lab: Lab) -> None:
    client, server = lab.pair()
    client.sendall(b"question")
    client.shutdown(socket.SHUT_WR)
    assert read_to_end(server) == b"question"
    server.sendall(b"answer")
    server.close()
    assert read_to_end(client) == b"answer"
    stats = lab.proxy.wait_until(lambda stats: stats.ended == 1)
    assert (stats.accepted, stats.open) == (1, 0)
    assert (stats.received_up, stats.forwarded_up) == (8, 8)
    assert (stats.received_down, stats.forwarded_down) == (6, 6)


def test_a_slow_reader_slows_down_the_sender_and_loses_nothing(lab: Lab) -> None:
    client, server = lab.pair()
    data = bytes(range(256)) * 100_000
    sender = threading.Thread(target=client.sendall, args=(data,))
    sender.start()
    assert receive(server, len(data)) == data
    sender.join()


@pytest.mark.parametrize("side", ["client", "server"])
def test_a_reset_of_one_side_is_one_of_the_other(lab: Lab, side: str) -> None:
    ends = lab.pair()
    ends[0].sendall(b"unread")
    lab.proxy.wait_until(lambda stats: stats.forwarded_up == 6)
    if side == "server":
        ends[1].close()  # with input unread: a reset
    else:
        lab.proxy.set(STALLED, UP)
        ends[1].sendall(b"unread")
        lab.proxy.wait_until(lambda stats: stats.forwarded_down == 6)
        lab.proxy.set(NORMAL)
        ends[0].close()
    with pytest.raises(ConnectionResetError):
        read_to_end(ends[0] if side == "server" else ends[1])


def test_a_server_that_does_not_listen_is_a_reset(lab: Lab) -> None:
    lab.server.close()
    with pytest.raises(ConnectionResetError):
        lab.client().recv(1)
    lab.proxy.wait_until(lambda stats: stats.ended == 1)


def test_its_url_is_that_of_its_target_elsewhere(lab: Lab) -> None:
    lab.proxy.target = "wss://127.0.0.1:8443/path?query"
    assert lab.proxy.url == f"wss://{HOST}:{lab.proxy.port}/path?query"
    assert lab.proxy.target == "wss://127.0.0.1:8443/path?query"


@pytest.mark.parametrize("target", ["memory://broker", "tcp://127.0.0.1", "unix:///tmp/path"])
def test_it_leads_to_a_host_and_a_port_only(target: str) -> None:
    with pytest.raises(ConnectError, match=f"a host and a port, got {target}"):
        Proxy(target)


def test_its_target_can_be_another_for_connections_to_come(lab: Lab) -> None:
    old = lab.pair()
    with socket.create_server((HOST, 0)) as other:
        lab.proxy.target = url_of(other)
        client = lab.client()
        with other.accept()[0] as accepted:
            accepted.sendall(b"other")
            assert receive(client, 5) == b"other"
    old[1].sendall(b"old")
    assert receive(old[0], 3) == b"old"


# Cuts


def test_a_cut_by_reset_is_seen_as_such_on_both_sides(lab: Lab) -> None:
    pairs = [lab.pair() for _ in range(3)]
    assert lab.proxy.cut(Cut.RESET) == 3
    for sock in (sock for pair in pairs for sock in pair):
        with pytest.raises(ConnectionResetError):
            sock.recv(1)
    lab.proxy.wait_until(lambda stats: stats.ended == 3)
    assert lab.proxy.cut(Cut.RESET) == 0


def test_the_oldest_connections_can_be_cut_alone(lab: Lab) -> None:
    old, new = lab.pair(), lab.pair()
    assert lab.proxy.cut(Cut.RESET, oldest=1) == 1
    with pytest.raises(ConnectionResetError):
        old[0].recv(1)
    new[0].sendall(b"lives")
    assert receive(new[1], 5) == b"lives"


def test_an_orderly_cut_is_an_end_of_file_on_both_sides(lab: Lab) -> None:
    client, server = lab.pair()
    assert lab.proxy.cut(Cut.ORDERLY) == 1
    client.sendall(b"too late")
    assert read_to_end(server) == b""
    assert read_to_end(client) == b""
    assert lab.proxy.stats.ended == 0  # they have not ended theirs
    client.close()
    server.close()
    lab.proxy.wait_until(lambda stats: stats.ended == 1)


def test_an_orderly_cut_can_become_a_reset(lab: Lab) -> None:
    client, server = lab.pair()
    lab.proxy.cut(Cut.ORDERLY)
    assert (client.recv(1), server.recv(1)) == (b"", b"")
    lab.proxy.cut(Cut.RESET)
    lab.proxy.wait_until(lambda stats: stats.ended == 1)


@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_a_connection_can_be_cut_behind_any_byte(lab: Lab, size: int) -> None:
    lab.proxy.set(Conditions(cut_after=size), UP)
    client, server = lab.pair()
    received = bytearray()
    with contextlib.suppress(ConnectionResetError, BrokenPipeError):
        client.sendall(b"x" * 1_000_000)
    with contextlib.suppress(ConnectionResetError):
        while more := server.recv(1000):
            received += more
    assert lab.proxy.wait_until(lambda stats: stats.ended == 1).forwarded_up == size
    # Linux gives a reader what came before a reset; others need not.
    assert len(received) <= size


# New connections


def test_it_refuses_and_accepts_again_on_the_same_port(lab: Lab) -> None:
    client, server = lab.pair()
    lab.proxy.refuse()
    for _ in range(3):
        with pytest.raises(ConnectionRefusedError):
            lab.client()
    client.sendall(b"old")
    assert receive(server, 3) == b"old"
    lab.proxy.accept()
    client, server = lab.pair()
    client.sendall(b"new")
    assert receive(server, 3) == b"new"
    assert lab.proxy.stats.accepted == 2


def test_nobody_gets_the_port_while_it_is_refused(lab: Lab) -> None:
    lab.proxy.refuse()
    with contextlib.ExitStack() as stack:
        taken = [stack.enter_context(socket.create_server((HOST, 0))) for _ in range(100)]
        assert lab.proxy.port not in [sock.getsockname()[1] for sock in taken]


def test_it_accepts_and_hangs(lab: Lab) -> None:
    lab.proxy.hang()
    client = lab.client()
    lab.proxy.wait_until(lambda stats: stats.accepted == 1)
    client.sendall(b"lost")
    assert is_silent(client)
    lab.proxy.accept()
    lab.pair()  # the server's first: nothing came of the one before
    assert lab.proxy.cut(Cut.RESET) == 2
    with pytest.raises(ConnectionResetError):
        client.recv(1)


# Waiting, and the end


def test_what_never_comes_is_an_error_that_says_what_did(lab: Lab) -> None:
    lab.pair()
    lab.proxy.wait_until(lambda stats: stats.accepted == 1)
    with pytest.raises(TimeoutError, match="accepted=1, ended=0"):
        lab.proxy.wait_until(lambda stats: stats.ended == 1, timeout=0.01)


@pytest.mark.anyio
async def test_waiting_lets_the_event_loop_go_on_and_can_be_cancelled(lab: Lab) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lab.proxy.until, lambda stats: stats.ended == 1)
        ends = lab.pair()
        await lab.proxy.until(lambda stats: stats.accepted == 1)
        for end in ends:
            end.close()
    with anyio.move_on_after(0.01) as scope:
        await lab.proxy.until(lambda stats: stats.ended == 2)
    assert scope.cancelled_caught


@pytest.mark.parametrize("conditions", [NORMAL, STALLED, HALF_OPEN], ids=repr)
def test_its_end_resets_whatever_there_is(conditions: Conditions) -> None:
    with socket.create_server((HOST, 0)) as listener:
        with Proxy(url_of(listener)) as proxy:
            client = socket.create_connection((HOST, proxy.port), PATIENCE)
            server, _ = listener.accept()
            proxy.set(conditions)
            proxy.hang()
            silent = socket.create_connection((HOST, proxy.port), PATIENCE)
            proxy.wait_until(lambda stats: stats.accepted == 2)
        for sock in (client, server, silent):
            with sock, pytest.raises(ConnectionResetError):
                sock.recv(1)
        assert proxy.stats.open == 0
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((HOST, proxy.port), PATIENCE)


def test_what_goes_wrong_within_it_is_raised_at_its_end() -> None:
    def broken() -> Conditions:
        raise KeyError("mine")

    def provoke(target: str) -> None:
        with Proxy(target) as proxy:
            proxy.set(broken, connections="new")
            with socket.create_connection((HOST, proxy.port), PATIENCE) as client:
                assert client.recv(1) == b""
                proxy.wait_until(lambda stats: stats.ended == 1)

    with socket.create_server((HOST, 0)) as listener, pytest.raises(KeyError, match="mine"):
        provoke(url_of(listener))
