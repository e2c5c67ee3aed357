"""What a broker passes on when its clients take no time: python -m benchmarks.capacity.

One connection sends publications that were encoded beforehand, another counts the bytes that come
out; MB's broker over TCP and nats-server in turns, each in a process of its own.  The figure is the
broker's alone, where those of `python -m benchmarks` are of client and broker together.
"""

from __future__ import annotations

import argparse
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from mb_core.header import Action, MessageHeader, encode_header
from mb_core.ids import IdSource
from mb_core.wire import Limits
from mb_tcp import LengthPrefixWire

from . import processes
from .spread import spread
from .workload import DOCUMENT, encode

__all__ = ["BROKERS", "Lines", "measure"]

TOPIC = "bench.events"
CHUNK = 65_536
"""Bytes of one write."""


@dataclass(frozen=True, slots=True)
class Lines:
    """Two connections to one broker, one of them subscribed, and what a publication is there."""

    sender: socket.socket
    receiver: socket.socket
    sent: bytes
    received: int
    """Bytes of the publication as it comes out."""


@contextmanager
def mb() -> Iterator[Lines]:
    with processes.mb_broker("tcp") as url:
        host, _, port = url.removeprefix("tcp://").rpartition(":")
        with _connect(host, port) as sender, _connect(host, port) as receiver:
            ids = IdSource()
            _next_message(sender)  # the greetings
            _next_message(receiver)
            header = MessageHeader(
                Action.REQUEST, "system.topic.subscribe", request_id=ids.next().decode()
            )
            subscription = encode({"action": "publish", "topic": TOPIC})
            receiver.sendall(_framed(encode_header(header) + subscription))
            answer = _next_message(receiver)
            if b"success" not in answer:
                raise RuntimeError(f"the broker answered {answer!r}")
            publication = encode_header(MessageHeader(Action.PUBLISH, TOPIC)) + encode(DOCUMENT)
            passed_on = len(publication) + len(":") + len(ids.next())
            yield Lines(sender, receiver, _framed(publication), 4 + passed_on)


@contextmanager
def nats() -> Iterator[Lines]:
    port = processes.free_port()
    command = (processes.program("nats-server"), "-a", "127.0.0.1", "-p", str(port))
    with (
        processes.server(*command, ready="Server is ready"),
        _connect("127.0.0.1", port) as sender,
        _connect("127.0.0.1", port) as receiver,
    ):
        for sock in (sender, receiver):
            sock.sendall(b'CONNECT {"verbose":false}\r\nPING\r\n')
        receiver.sendall(b"SUB %b 1\r\nPING\r\n" % TOPIC.encode())
        _read_until(sender, b"PONG\r\n", 1)
        _read_until(receiver, b"PONG\r\n", 2)
        payload = encode(DOCUMENT)
        sent = b"PUB %b %d\r\n%b\r\n" % (TOPIC.encode(), len(payload), payload)
        received = b"MSG %b 1 %d\r\n%b\r\n" % (TOPIC.encode(), len(payload), payload)
        yield Lines(sender, receiver, sent, len(received))


BROKERS: dict[str, Callable[[], AbstractContextManager[Lines]]] = {"mb": mb, "nats-server": nats}


def measure(broker: str, messages: int) -> float:
    """Publications a second that come out, of `messages` that go in as fast as they are taken."""
    with BROKERS[broker]() as lines:
        _pass(lines, messages // 10)
        return messages / _pass(lines, messages)


def _pass(lines: Lines, messages: int) -> float:
    """Seconds until the last of `messages` has come out."""
    a_chunk = max(1, CHUNK // len(lines.sent))
    whole, rest = divmod(messages, a_chunk)

    def send() -> None:
        chunk = lines.sent * a_chunk
        for _ in range(whole):
            lines.sender.sendall(chunk)
        lines.sender.sendall(lines.sent * rest)

    sending = threading.Thread(target=send)
    began = time.perf_counter()
    sending.start()
    left = messages * lines.received
    buffer = bytearray(4 * CHUNK)
    while left > 0:
        left -= lines.receiver.recv_into(buffer) or left + 1
    took = time.perf_counter() - began
    sending.join()
    if left:
        raise RuntimeError("the broker did not send what it was to send")
    return took


def _connect(host: str, port: int | str) -> socket.socket:
    sock = socket.create_connection((host, int(port)), timeout=60)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def _framed(message: bytes) -> bytes:
    wire = LengthPrefixWire(Limits())
    wire.send(message)
    return wire.data_to_send()


def _next_message(sock: socket.socket) -> bytes:
    """The next message, where nothing else is on its way."""
    wire = LengthPrefixWire(Limits())
    messages: list[bytes] = []
    while not messages:
        messages = wire.receive_data(_receive(sock))
    (message,) = messages
    return message


def _read_until(sock: socket.socket, what: bytes, times: int) -> None:
    data = b""
    while data.count(what) < times:
        data += _receive(sock)


def _receive(sock: socket.socket) -> bytes:
    """Receive something; raises RuntimeError at the end, which recv would report forever."""
    data = sock.recv(CHUNK)
    if not data:
        raise RuntimeError("the broker closed the connection")
    return data


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.capacity", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--messages", type=int, default=500_000)
    parser.add_argument("--json", action="store_true", help="all rounds, for programs")
    given = parser.parse_args()
    found: dict[str, list[float]] = {name: [] for name in BROKERS}
    if processes.find_program("nats-server") is None:
        print("nats-server: skipped, not installed (Debian: apt-get install nats-server)")
        del found["nats-server"]
    for _ in range(given.rounds):
        for name, rates in found.items():
            rates.append(measure(name, given.messages))
    if given.json:
        print(json.dumps(found))
        return
    print("publications a second through the broker alone, medians and quartiles:\n")
    for name, rates in found.items():
        at = spread(rates)
        print(f"{name}: {at.median:,.0f} ({at.low:,.0f} to {at.high:,.0f})")


if __name__ == "__main__":
    main()
