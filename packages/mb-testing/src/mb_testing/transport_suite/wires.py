"""Wires in pairs, each held to its contract with every call; and bytes, split in every way."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from tempfile import gettempdir
from typing import Any

from mb_core.errors import MBError
from mb_core.transport import WireTransport
from mb_core.url import parse_url
from mb_core.wire import Limits, Wire, WireState

from .requirements import (
    DOWNWARDS,
    HANDSHAKE,
    NEVER_RAISES,
    ONE_REASON,
    QUIET,
    SILENT_WHEN_CLOSED,
    TYPES,
    expect,
    violation,
)
from .settings import LIMITS, Settings

__all__ = ["SIDES", "WatchedWire", "WirePair", "bytewise", "pieces", "random_pieces", "shortened"]

SIDES = ("client", "server")

_ORDER = list(WireState)
# Turns in which two Wires may still have something to say to each other.
_TURNS = 100
_CREATION = "its creation"


class WatchedWire:
    """A Wire that is held to what holds for each call; `received` is all that it gave."""

    def __init__(self, wire: Wire, name: str) -> None:
        self.wire = wire
        self.name = name
        self.received: list[bytes] = []
        self._state = WireState.HANDSHAKE
        self._error: MBError | None = None
        self._check(_CREATION)

    @property
    def state(self) -> WireState:
        return self._state

    @property
    def error(self) -> MBError | None:
        return self._error

    def receive_data(self, data: bytes) -> list[bytes]:
        was_closed = self._state is WireState.CLOSED
        messages: list[bytes] = self._call("receive_data", data)
        if not isinstance(messages, list) or not all(type(each) is bytes for each in messages):
            raise violation(TYPES, f"{self.name}: receive_data gave {shortened(messages)}")
        if was_closed and messages:
            found = f"{self.name}, CLOSED, gave {shortened(messages)}"
            raise violation(SILENT_WHEN_CLOSED, found)
        self.received += messages
        return messages

    def receive_all(self, chunks: list[bytes]) -> list[bytes]:
        return [message for chunk in chunks for message in self.receive_data(chunk)]

    def receive_eof(self) -> None:
        self._call("receive_eof")

    def send(self, message: bytes) -> int:
        size: int = self._call("send", message)
        expect(TYPES, isinstance(size, int), f"{self.name}: send gave {size!r}")
        return size

    def close(self, reason: str = "") -> None:
        self._call("close", reason)

    def data_to_send(self) -> bytes:
        data: bytes = self._call("data_to_send")
        if not isinstance(data, bytes):
            raise violation(TYPES, f"{self.name}: data_to_send gave {shortened(data)}")
        return data

    def _call(self, method: str, *arguments: Any) -> Any:
        try:
            given = getattr(self.wire, method)(*arguments)
        except Exception as error:
            call = f"{method}({', '.join(map(shortened, arguments))})"
            raise violation(NEVER_RAISES, f"{self.name}: {call} raised {error!r}") from error
        self._check(method)
        return given

    def _check(self, method: str) -> None:
        """See what has become of it after a call."""
        before, state, error = self._state, self.wire.state, self.wire.error
        if state is before and error is self._error and method != _CREATION:
            return  # as it was checked before
        found = f"{self.name}: after {method}, state is {state!r} and error is {error!r}"
        expect(TYPES, isinstance(state, WireState), found)
        expect(TYPES, error is None or isinstance(error, MBError), found)
        expect(DOWNWARDS, _ORDER.index(state) >= _ORDER.index(before), f"{found}; it was {before}")
        if self._error is not None:
            expect(ONE_REASON, error is self._error, f"{found}; it was {self._error!r}")
        if error is not None:
            expect(ONE_REASON, state in (WireState.CLOSING, WireState.CLOSED), found)
        self._state, self._error = state, error


class WirePair:
    """The two Wires of a connection, and the stream between them."""

    def __init__(self, suite: Settings, limits: Limits = LIMITS, *, ready: bool = True) -> None:
        transport = suite.over_streams
        assert isinstance(transport, WireTransport)  # or its tests would not be collected
        url = parse_url(suite.url(Path(gettempdir())))
        self.client = WatchedWire(transport.client(url, limits), "the client's Wire")
        self.server = WatchedWire(transport.server(limits, None), "the server's Wire")
        self._ended: set[WatchedWire] = set()
        if ready:
            self.shake_hands()

    def of(self, side: str) -> tuple[WatchedWire, WatchedWire]:
        """The Wire of this side, and the other one."""
        return (self.client, self.server) if side == "client" else (self.server, self.client)

    def shake_hands(self) -> None:
        self.settle()
        for wire in (self.client, self.server):
            found = f"{wire.name} is {wire.state}, has {wire.error!r} and gave {wire.received!r}"
            fine = wire.state is WireState.OPEN and wire.error is None and not wire.received
            expect(HANDSHAKE, fine, found)

    def settle(self, *, bytewise_: bool = False) -> None:
        """Carry all output to the other Wire, and the end of a stream behind it, until no more."""
        for _ in range(_TURNS):
            moved = False
            for one, other in ((self.client, self.server), (self.server, self.client)):
                data = one.data_to_send()
                if data:
                    other.receive_all(bytewise(data) if bytewise_ else [data])
                    moved = True
                elif one.state is WireState.CLOSED and one not in self._ended:
                    self._ended.add(one)
                    other.receive_eof()
                    moved = True
            if not moved:
                return
        raise violation(QUIET, f"they still had output after {_TURNS} turns")


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    """`data`, cut at these positions."""
    positions = sorted({0, len(data), *cuts})
    return [data[start:stop] for start, stop in pairwise(positions)]


def bytewise(data: bytes) -> list[bytes]:
    return [data[position : position + 1] for position in range(len(data))]


def random_pieces(data: bytes, count: int) -> Iterator[tuple[int, list[bytes]]]:
    """`count` ways to cut `data`, each with its seed: they are the same in each run."""
    for seed in range(count):
        chance = random.Random(seed)
        most = chance.choice((3, 20, 1000))
        cuts, position = [], 0
        while (position := position + chance.randint(1, most)) < len(data):
            cuts.append(position)
        yield seed, pieces(data, cuts)


def shortened(value: object) -> str:
    """A value for a failure's text."""
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}... ({len(text)} characters)"
