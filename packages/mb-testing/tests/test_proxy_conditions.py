"""What the proxy does to the bytes in a connection: stall, discard, delay, cut up, inject."""

from __future__ import annotations

import socket
import time

import pytest

from mb_testing.proxy import (
    HALF_OPEN,
    NORMAL,
    STALLED,
    Conditions,
    Direction,
)

from .proxy_lab import DOWN, UP, Lab, is_silent, lab, read_to_end, receive

__all__ = ["lab"]


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
