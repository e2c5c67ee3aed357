"""The proxy does what its faults are named for, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import gc
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

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
    Direction,
    Proxy,
)

UP, DOWN = Direction.UP, Direction.DOWN

# Seconds after which a socket of the test's counts as hanging.
PATIENCE = 10


def url_of(listener: socket.socket) -> str:
    return f"tcp://{HOST}:{listener.getsockname()[1]}"


@dataclass
class Lab:
    """A proxy before a listening socket, and what a test connects through it."""

    proxy: Proxy
    server: socket.socket
    stack: contextlib.ExitStack

    def client(self) -> socket.socket:
        client = socket.create_connection((HOST, self.proxy.port), PATIENCE)
        return self.stack.enter_context(client)

    def pair(self) -> tuple[socket.socket, socket.socket]:
        """Both ends of a connection through the proxy."""
        client, (accepted, _) = self.client(), self.server.accept()
        accepted.settimeout(PATIENCE)
        return client, self.stack.enter_context(accepted)


@pytest.fixture
def lab() -> Iterator[Lab]:
    with (
        socket.create_server((HOST, 0)) as server,
        Proxy(url_of(server)) as proxy,
        contextlib.ExitStack() as stack,
    ):
        server.settimeout(PATIENCE)
        yield Lab(proxy, server, stack)
    gc.collect()  # sockets that were not closed warn now
    assert not [thread for thread in threading.enumerate() if thread.name == "proxy"]


def receive(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count and (more := sock.recv(count - len(data))):
        data += more
    return data


def read_to_end(sock: socket.socket) -> bytes:
    return receive(sock, 1 << 30)


def is_silent(sock: socket.socket) -> bool:
    """Whether neither data nor an end lies in it."""
    sock.setblocking(False)
    try:
        sock.recv(1)
    except BlockingIOError:
        return True
    finally:
        sock.settimeout(PATIENCE)
    return False


# In fair conditions


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


# Conditions


@pytest.mark.parametrize("way", Direction, ids=lambda way: way.name)
def test_a_stall_stops_one_direction_and_loses_nothing(lab: Lab, way: Direction) -> None:
    client, server = lab.pair()
    source, target = (client, server) if way is UP else (server, client)
    lab.proxy.set(STALLED, way)
    source.sendall(b"waits")
    source.shutdown(socket.SHUT_WR)
    target.sendall(b"passes")
    assert receive(source, 6) == b"passes"
    assert is_silent(target)
    lab.proxy.set(NORMAL)
    assert read_to_end(target) == b"waits"


def test_a_stall_reads_no_more(lab: Lab) -> None:
    client, server = lab.pair()
    lab.proxy.set(STALLED)
    client.settimeout(0.2)
    with pytest.raises(TimeoutError):
        client.sendall(b"x" * 64_000_000)
    assert lab.proxy.stats.received_up == 0
    assert is_silent(server)


def test_a_stall_stops_what_is_already_within(lab: Lab) -> None:
    client, server = lab.pair()
    lab.proxy.set(Conditions(delay=50))
    client.sendall(b"waits")
    lab.proxy.wait_until(lambda stats: stats.received_up == 5)
    lab.proxy.set(STALLED)
    server.settimeout(0.2)
    with pytest.raises(TimeoutError):
        server.recv(1)
    lab.proxy.set(NORMAL)
    assert receive(server, 5) == b"waits"


def test_half_open_swallows_everything_even_the_end(lab: Lab) -> None:
    client, server = lab.pair()
    lab.proxy.set(HALF_OPEN)
    client.sendall(b"lost")
    server.sendall(b"lost as well")
    client.shutdown(socket.SHUT_WR)
    server.close()
    stats = lab.proxy.wait_until(lambda stats: (stats.received_up, stats.received_down) == (4, 12))
    assert (stats.forwarded_up, stats.forwarded_down, stats.ended) == (0, 0, 0)
    assert is_silent(client)


def test_half_open_swallows_a_reset(lab: Lab) -> None:
    client, server = lab.pair()
    server.sendall(b"unread")
    lab.proxy.wait_until(lambda stats: stats.forwarded_down == 6)
    lab.proxy.set(HALF_OPEN)
    client.close()
    server.sendall(b"gone")
    lab.proxy.wait_until(lambda stats: stats.received_down == 10)
    assert is_silent(server)
    assert lab.proxy.stats.ended == 0


def test_what_was_half_open_stays_so(lab: Lab) -> None:
    client, server = lab.pair()
    lab.proxy.set(HALF_OPEN)
    lab.proxy.set(NORMAL)
    client.sendall(b"lost")
    lab.proxy.wait_until(lambda stats: stats.received_up == 4)
    assert is_silent(server)
    client, server = lab.pair()
    client.sendall(b"passes")
    assert receive(server, 6) == b"passes"


def test_conditions_may_be_for_existing_connections_only(lab: Lab) -> None:
    old, old_server = lab.pair()
    lab.proxy.set(HALF_OPEN, connections="existing")
    new, new_server = lab.pair()
    old.sendall(b"lost")
    new.sendall(b"passes")
    assert receive(new_server, 6) == b"passes"
    lab.proxy.wait_until(lambda stats: stats.received_up == 10)
    assert is_silent(old_server)


def test_conditions_may_be_for_new_connections_only(lab: Lab) -> None:
    old, old_server = lab.pair()
    lab.proxy.set(STALLED, connections="new")
    new, new_server = lab.pair()
    new.sendall(b"waits")
    old.sendall(b"passes")
    assert receive(old_server, 6) == b"passes"
    assert is_silent(new_server)


def test_conditions_may_be_made_for_each_connection(lab: Lab) -> None:
    limits = iter([2, 1])
    lab.proxy.set(lambda: Conditions(cut_after=next(limits)), UP, connections="new")
    for _ in range(2):
        client, _ = lab.pair()
        client.sendall(b"abc")
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    assert lab.proxy.wait_until(lambda stats: stats.ended == 2).forwarded_up == 3


def test_a_delay_keeps_the_order(lab: Lab) -> None:
    client, server = lab.pair()
    lab.proxy.set(Conditions(delay=100), UP)
    began = time.monotonic()
    client.sendall(b"first ")
    lab.proxy.wait_until(lambda stats: stats.received_up == 6)
    lab.proxy.set(NORMAL, UP)
    client.sendall(b"second")
    assert receive(server, 12) == b"first second"
    assert time.monotonic() - began >= 0.1


def test_a_delay_does_not_add_up(lab: Lab) -> None:
    client, server = lab.pair()
    lab.proxy.set(Conditions(delay=200), UP)
    began = time.monotonic()
    for n in range(1, 21):
        client.sendall(b"x")
        lab.proxy.wait_until(lambda stats, n=n: stats.received_up == n)  # type: ignore[misc]
    assert receive(server, 20) == b"x" * 20
    assert time.monotonic() - began < 20 * 0.2


def test_one_byte_at_a_time(lab: Lab) -> None:
    client, server = lab.pair()
    lab.proxy.set(Conditions(chunk=1), UP)
    client.sendall(bytes(range(256)) * 10)
    assert receive(server, 2560) == bytes(range(256)) * 10
    lab.proxy.set(Conditions(chunk=1, cut_after=1), UP)
    client.sendall(b"abc")
    assert lab.proxy.wait_until(lambda stats: stats.ended == 1).forwarded_up == 2561


def test_swapped_halves_are_all_the_bytes_in_another_order(lab: Lab) -> None:
    client, server = lab.pair()
    lab.proxy.set(Conditions(swap=True), DOWN)
    server.sendall(b"abcdefgh")
    received = receive(client, 8)
    assert received != b"abcdefgh"
    assert sorted(received) == sorted(b"abcdefgh")


@pytest.mark.parametrize("way", Direction, ids=lambda way: way.name)
def test_bytes_can_be_injected(lab: Lab, way: Direction) -> None:
    client, server = lab.pair()
    source, target = (client, server) if way is UP else (server, client)
    source.sendall(b"before ")
    assert receive(target, 7) == b"before "
    lab.proxy.inject(b"garbage ", way)
    source.sendall(b"behind")
    assert receive(target, 14) == b"garbage behind"


# The gate


def test_a_closed_gate_refuses_and_opens_again_on_the_same_port(lab: Lab) -> None:
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


def test_a_silent_gate_accepts_and_leads_nowhere(lab: Lab) -> None:
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
