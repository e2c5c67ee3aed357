"""Wires without I/O: messages arrive, however their bytes are split on the way."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Iterable
from functools import cache

import pytest

from mb_core.errors import MessageTooLarge
from mb_core.wire import Limits, WireState

from .check_runner import without_io
from .requirements import (
    COUNTS,
    HANDSHAKE,
    LIMIT,
    NO_ROOM_OVER_LIMIT,
    OUTPUT_ONCE,
    OWN_STATE,
    PROMPT,
    PROPORTION,
    SPLITS,
    expect,
    violation,
)
from .settings import LIMITS, Settings
from .wires import SIDES, WatchedWire, WirePair, bytewise, pieces, random_pieces, shortened

__all__ = ["WireLimits", "WireMessages"]

from_each_side = pytest.mark.parametrize("side", SIDES)

SHORT = [b"", b"a", "é\N{SNOWMAN}".encode(), b"publish:a.b:1.0.0\n{}", b"\r\n\r\n", b"\0"]
# Around the sizes at which lengths take another byte, or another form.
SIZES = [0, 1, 2, 3, 4, 7, 8, 125, 126, 127, 128, 254, 255, 256, 257, 1023, 1024]
SIZES += [16_383, 16_384, 16_385, 32_767, 32_768, 65_534, 65_535, 65_536, 65_537]


def framed(sender: WatchedWire, messages: Iterable[bytes]) -> bytes:
    """The bytes of messages on the wire."""
    for message in messages:
        sender.send(message)
    return sender.data_to_send()


@cache
def text(size: int) -> bytes:
    """A message of this size, of which no part is like another."""
    numbers = b"".join(b"%d " % number for number in range(size // 2 + 1))
    return numbers[:size]


def same(received: list[bytes], sent: list[bytes], how: str) -> None:
    __tracebackhide__ = True
    if received != sent:
        raise violation(SPLITS, f"{how}, {shortened(sent)} arrived as {shortened(received)}")


class WireMessages(Settings):
    """Framing: what one Wire sends, the other one gives."""

    @without_io
    def test_both_sides_are_open_after_the_handshake(self) -> None:
        WirePair(self)

    @without_io
    def test_the_handshake_works_one_byte_at_a_time(self) -> None:
        pair = WirePair(self, ready=False)
        pair.settle(bytewise_=True)
        pair.shake_hands()

    @from_each_side
    @without_io
    def test_messages_right_behind_the_handshake_are_given(self, side: str) -> None:
        """The last words of the handshake and the first messages may come in one piece."""
        for in_one_piece in (True, False):
            pair = WirePair(self, ready=False)
            one, other = pair.of(side)
            held = _shake_with_held_back_output(one, other)
            data = held + framed(one, SHORT)
            other.receive_all([data] if in_one_piece else bytewise(data))
            same(other.received, SHORT, "right behind the handshake")

    @from_each_side
    @without_io
    def test_messages_of_every_size_arrive_whole(self, side: str) -> None:
        one, other = WirePair(self).of(side)
        for size in [*SIZES, LIMITS.max_message]:
            same(other.receive_data(framed(one, [text(size)])), [text(size)], "alone")
        sent = [text(size) for size in SIZES]
        same(other.receive_data(framed(one, sent)), sent, "in one read")

    @from_each_side
    @without_io
    def test_every_split_in_two_and_in_three_gives_the_same_messages(self, side: str) -> None:
        one, other = WirePair(self).of(side)
        size = len(framed(one, SHORT))
        for cut in range(1, size):
            other.received.clear()
            _give(one, other, pieces(framed(one, SHORT), [cut]), f"cut at {cut}")
        few = SHORT[:3]
        size = len(framed(one, few))
        for first in range(1, size):
            for second in range(first + 1, size):
                chunks = pieces(framed(one, few), [first, second])
                same(other.receive_all(chunks), few, f"cut at {first} and {second}")

    @from_each_side
    @without_io
    def test_one_byte_at_a_time_gives_the_same_messages(self, side: str) -> None:
        one, other = WirePair(self).of(side)
        _give(one, other, bytewise(framed(one, SHORT)), "one byte at a time")
        sent = [text(size) for size in (300, 70_000)]
        same(other.receive_all(bytewise(framed(one, sent))), sent, "one byte at a time")

    @from_each_side
    @without_io
    def test_random_splits_give_the_same_messages(self, side: str) -> None:
        one, other = WirePair(self).of(side)
        sent = [text(size) for size in (*SIZES[:17], 5000, 0, 20_000, 1)]
        size = len(framed(one, sent))
        for seed, plan in random_pieces(bytes(size), 25):
            cuts, position = [], 0
            for piece in plan:
                position += len(piece)
                cuts.append(position)
            data = framed(one, sent)
            same(other.receive_all(pieces(data, cuts)), sent, f"cut at random (seed {seed})")

    @from_each_side
    @without_io
    def test_a_message_comes_with_its_last_byte(self, side: str) -> None:
        one, other = WirePair(self).of(side)
        for message in (b"a", b"abc", text(1000)):
            data = framed(one, [message])
            early = other.receive_all(pieces(data[:-1], [1, len(data) // 2]))
            expect(PROMPT, not early, f"a byte was missing, and {shortened(early)} was given")
            late = other.receive_data(data[-1:])
            expect(PROMPT, late == [message], f"with the last byte, {shortened(late)} was given")
        nothing = other.receive_data(b"")
        expect(PROMPT, not nothing, f"for no data at all, {shortened(nothing)} was given")

    @from_each_side
    @without_io
    def test_send_says_how_many_bytes_it_adds(self, side: str) -> None:
        one, _ = WirePair(self).of(side)
        for size in SIZES:
            said = one.send(text(size))
            was = len(one.data_to_send())
            expect(COUNTS, said == was, f"for {size} bytes, send said {said}; {was} were added")

    @from_each_side
    @without_io
    def test_output_is_given_at_once_and_once(self, side: str) -> None:
        one, other = WirePair(self).of(side)
        added = sum(one.send(message) for message in SHORT)
        data, again = one.data_to_send(), one.data_to_send()
        expect(OUTPUT_ONCE, len(data) == added, f"of {added} bytes, {len(data)} were given")
        expect(OUTPUT_ONCE, not again, f"the second time, {shortened(again)} was given")
        same(other.receive_data(data), SHORT, "in one piece")

    @without_io
    def test_two_connections_at_a_time_share_nothing(self) -> None:
        first, second = WirePair(self), WirePair(self)
        for side in SIDES:
            (one, other), (another, far) = first.of(side), second.of(side)
            half, whole = framed(one, [b"first"]), framed(another, [b"second"])
            other.receive_data(half[:-1])
            given = far.receive_data(whole)
            expect(OWN_STATE, given == [b"second"], f"beside another, {shortened(given)} came")
            given = other.receive_data(half[-1:])
            expect(OWN_STATE, given == [b"first"], f"beside another, {shortened(given)} came")
        first.client.close()
        first.settle()
        open_ = second.client.state is second.server.state is WireState.OPEN
        expect(OWN_STATE, open_, "with the end of one connection, another one ended")

    @from_each_side
    @without_io
    def test_a_large_message_in_small_pieces_takes_work_in_proportion(self, side: str) -> None:
        """Compared with small messages: a Wire that copies all for each piece takes far longer."""
        limits = Limits(4_000_000, 4_000_000)
        one, other = WirePair(self, limits).of(side)
        small = framed(one, [text(40)] * 50_000)
        large = framed(one, [b"x" * 2_000_000])
        expected = _seconds(other, small, float("inf"))
        taken = _seconds(other, large, 5 * expected + 0.5)
        found = f"2 MB took {taken:.2g} s as one message, {expected:.2g} s as 50 000"
        expect(PROPORTION, taken <= 5 * expected + 0.5, found)

    @from_each_side
    @without_io
    def test_many_messages_in_one_read_take_work_in_proportion(self, side: str) -> None:
        one, other = WirePair(self).of(side)
        data = framed(one, [b"0123456789"] * 100_000)
        stride = len(data) // 1000
        few = pieces(data, list(range(0, len(data), stride)))
        start = time.thread_time()
        other.receive_all(few)
        expected = time.thread_time() - start
        data = framed(one, [b"0123456789"] * 100_000)
        start = time.thread_time()
        other.receive_data(data)
        taken = time.thread_time() - start
        found = f"100 000 messages took {taken:.2g} s in one read, {expected:.2g} s in a thousand"
        expect(PROPORTION, taken <= 5 * expected + 0.5, found)


def _shake_with_held_back_output(one: WatchedWire, other: WatchedWire) -> bytes:
    """Bring `one` to where it may send, giving `other` as little as needed; gives the rest."""
    held = b""
    for _ in range(100):
        held += one.data_to_send()
        if one.state is WireState.OPEN:
            return held
        answer = other.data_to_send()
        if answer:
            one.receive_data(answer)
        else:
            other.receive_data(held)
            held = b""
    raise violation(HANDSHAKE, f"{one.name} stays {one.state}")


def _seconds(wire: WatchedWire, data: bytes, most: float) -> float:
    """Time to receive `data` in pieces of 16 bytes, or `most` and a little more."""
    start = time.thread_time()
    for position in range(0, len(data), 16):
        wire.receive_data(data[position : position + 16])
        if position % 16_384 == 0 and time.thread_time() - start > most:
            break
    return time.thread_time() - start


class WireLimits(Settings):
    """The largest message."""

    @from_each_side
    @without_io
    def test_a_message_at_the_limit_is_accepted_and_one_above_is_not(self, side: str) -> None:
        for cut in (None, 1, 2, 3, 4, 5, 8, 12, 500):
            one, other = _limited(self, side, 1000)
            data = framed(one, [b"one", text(1000)])
            cuts: list[int] = [cut] if cut is not None else []
            given = other.receive_all(pieces(data, cuts))
            expect(
                LIMIT,
                given == [b"one", text(1000)],
                f"of a message at the limit, {shortened(given)} came",
            )
            data = framed(one, [b"two", text(1001), b"three"])
            given = other.receive_all(pieces(data, cuts))
            expect(LIMIT, given == [b"two"], f"with one a byte over it, {shortened(given)} came")
            found = f"a byte above the limit, {other.name} is {other.state}, has {other.error!r}"
            expect(LIMIT, other.state is WireState.CLOSED, found)
            expect(LIMIT, isinstance(other.error, MessageTooLarge), found)
            assert isinstance(other.error, MessageTooLarge)
            limit, size = other.error.limit, other.error.size
            found = f"the error says limit={limit}, size={size}"
            expect(LIMIT, limit == 1000 and size > 1000, found)

    @from_each_side
    @without_io
    def test_a_message_far_above_the_limit_gets_no_memory(self, side: str) -> None:
        one, other = _limited(self, side, 1000)
        chunks = pieces(framed(one, [b"x" * 4_000_000]), list(range(0, 4_000_000, 256)))
        tracemalloc.start()
        try:
            came = 0
            for chunk in chunks:
                came += len(chunk)
                other.receive_data(chunk)
                if other.state is WireState.CLOSED:
                    break
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        found = f"{other.name} is {other.state} after {came} bytes, with {peak} bytes in use"
        expect(NO_ROOM_OVER_LIMIT, other.state is WireState.CLOSED and came < 8192, found)
        expect(NO_ROOM_OVER_LIMIT, peak < 200_000, found)


def _give(one: WatchedWire, other: WatchedWire, chunks: list[bytes], how: str) -> None:
    __tracebackhide__ = True
    same(other.receive_all(chunks), SHORT, how)


def _limited(suite: Settings, side: str, limit: int) -> tuple[WatchedWire, WatchedWire]:
    """A Wire that sends what it likes, and one that is limited."""
    large = WirePair(suite, Limits(8_000_000, 8_000_000), ready=False)
    small = WirePair(suite, Limits(limit, limit), ready=False)
    if side == "client":
        large.server = small.server
    else:
        large.client = small.client
    large.shake_hands()
    return large.of(side)
