"""A subscription's queue: what fits, and what becomes of what does not."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from mb_core.client.queue import DEFAULT_QUEUE_BYTES, MessageQueue, Overflow
from mb_core.errors import LocalProtocolError
from mb_core.header import Action
from mb_core.message import Message, parse_message


def messages(*numbers: int) -> list[Message]:
    return [parse_message(f"publish:a:1.0.0\n{number}") for number in numbers]


def long(*lengths: int) -> list[Message]:
    """Messages by the lengths of their payloads in bytes."""
    return [parse_message("publish:a:1.0.0\n" + "1" * length) for length in lengths]


def taken(queue: MessageQueue) -> list[int]:
    """Everything in the queue, in order."""
    return [queue.take().payload for _ in range(len(queue))]


def lengths(found: list[Message]) -> list[int]:
    return [len(message.raw_payload) for message in found]


def payloads(found: list[Message]) -> list[int]:
    return [message.payload for message in found]


def test_messages_come_out_in_their_order() -> None:
    queue = MessageQueue(10, "drop_newest")
    assert queue.put(messages(1, 2)) == []
    assert queue.put(messages(3)) == []
    assert len(queue) == 3
    assert taken(queue) == [1, 2, 3]
    assert not queue


@pytest.mark.parametrize("overflow", Overflow)
def test_a_queue_takes_as_many_as_its_size(overflow: Overflow) -> None:
    queue = MessageQueue(3, overflow)
    assert queue.put(messages(1, 2, 3)) == []
    assert queue.put([]) == []
    assert (queue.dropped, queue.overflowed) == (0, False)
    assert taken(queue) == [1, 2, 3]


def test_drop_newest_drops_what_comes_last() -> None:
    queue = MessageQueue(3, "drop_newest")
    queue.put(messages(1, 2))
    assert payloads(queue.put(messages(3, 4, 5))) == [4, 5]
    assert payloads(queue.put(messages(6))) == [6]
    assert (queue.dropped, queue.overflowed) == (3, False)
    assert taken(queue) == [1, 2, 3]
    assert queue.put(messages(7)) == []
    assert taken(queue) == [7]


def test_drop_oldest_drops_what_has_waited_longest() -> None:
    queue = MessageQueue(3, "drop_oldest")
    queue.put(messages(1, 2, 3))
    assert payloads(queue.put(messages(4, 5))) == [1, 2]
    assert (queue.dropped, queue.overflowed) == (2, False)
    assert taken(queue) == [3, 4, 5]


def test_drop_oldest_keeps_the_end_of_a_batch_that_is_larger_than_the_queue() -> None:
    queue = MessageQueue(2, "drop_oldest")
    queue.put(messages(1))
    assert payloads(queue.put(messages(2, 3, 4, 5))) == [1, 2, 3]
    assert taken(queue) == [4, 5]


def test_error_keeps_what_fits_and_takes_nothing_from_then_on() -> None:
    queue = MessageQueue(2, "error")
    assert payloads(queue.put(messages(1, 2, 3))) == [3]
    assert queue.overflowed
    assert taken(queue) == [1, 2]
    assert payloads(queue.put(messages(4))) == [4]
    assert queue.put([]) == []
    assert queue.dropped == 2
    assert taken(queue) == []


@pytest.mark.parametrize("overflow", Overflow)
def test_a_queue_without_a_bound_takes_everything(overflow: Overflow) -> None:
    queue = MessageQueue(None, overflow)
    many = messages(*range(1000))
    for _ in range(3):
        assert queue.put(many) == []
    assert len(queue) == 3000
    assert queue.dropped == 0


# Bounded in bytes


@pytest.mark.parametrize("overflow", Overflow)
def test_a_queue_takes_as_many_bytes_of_payload_as_it_may(overflow: Overflow) -> None:
    queue = MessageQueue(None, overflow, 10)
    assert queue.put(long(4)) == []
    assert queue.put(long(4, 2)) == []
    assert (queue.dropped, queue.overflowed, len(queue)) == (0, False, 3)


def test_bytes_that_were_taken_make_room() -> None:
    queue = MessageQueue(None, "drop_newest", 10)
    for _ in range(5):
        assert queue.put(long(6)) == []
        assert lengths(queue.put(long(5))) == [5]
        assert queue.put(long(4)) == []
        assert len(queue.take().raw_payload) == 6
        assert lengths(queue.put(long(7))) == [7]
        assert queue.put(long(6)) == []
        assert [len(queue.take().raw_payload) for _ in range(2)] == [4, 6]
    assert queue.dropped == 10


def test_drop_newest_drops_only_what_is_too_long_for_the_room_that_is_left() -> None:
    queue = MessageQueue(None, "drop_newest", 10)
    assert lengths(queue.put(long(6, 5, 3, 2, 1))) == [5, 2]
    assert [len(queue.take().raw_payload) for _ in range(len(queue))] == [6, 3, 1]


def test_drop_oldest_makes_as_much_room_as_it_must() -> None:
    queue = MessageQueue(None, "drop_oldest", 10)
    queue.put(long(3, 3, 4))
    assert lengths(queue.put(long(5))) == [3, 3]
    assert lengths(queue.put(long(1))) == []
    assert lengths(queue.put(long(2))) == [4]
    assert queue.dropped == 3


def test_error_ends_at_the_first_message_that_is_too_long() -> None:
    queue = MessageQueue(None, "error", 10)
    assert lengths(queue.put(long(6, 5, 1))) == [5, 1]
    assert queue.overflowed
    assert lengths(queue.put(long(1))) == [1]
    assert len(queue) == 1


@pytest.mark.parametrize("overflow", Overflow)
def test_a_message_that_is_over_the_bound_by_itself_fits_into_an_empty_queue(
    overflow: Overflow,
) -> None:
    queue = MessageQueue(None, overflow, 10)
    for _ in range(3):
        assert queue.put(long(50)) == []
        assert len(queue.take().raw_payload) == 50
    assert queue.put(long(50)) == []
    assert len(queue.put(long(1))) == 1


def test_the_newest_displaces_all_others_where_it_is_over_the_bound_by_itself() -> None:
    queue = MessageQueue(None, "drop_oldest", 10)
    queue.put(long(3, 3))
    assert lengths(queue.put(long(50))) == [3, 3]
    assert len(queue) == 1


def test_what_was_dropped_counts_no_more_however_often() -> None:
    queue = MessageQueue(None, "drop_oldest", 10)
    queue.put(long(2, 3, 4))
    assert lengths(queue.put(long(2))) == [2]
    assert lengths(queue.put(long(2))) == [3]
    assert lengths(queue.put(long(3))) == [4]
    assert lengths(queue.put(long(4))) == [2]


def test_what_was_added_since_it_was_full_counts_in_its_order() -> None:
    queue = MessageQueue(None, "drop_newest", 10)
    assert lengths(queue.put(long(5, 6))) == [6]
    assert queue.put(long(1, 2)) == []
    assert lengths(queue.put(long(3))) == [3]
    for _ in range(2):
        queue.take()
    assert lengths(queue.put(long(9, 8))) == [9]


def test_both_bounds_hold() -> None:
    queue = MessageQueue(2, "drop_newest", 10)
    assert lengths(queue.put(long(1, 1, 1))) == [1]
    queue = MessageQueue(2, "drop_newest", 10)
    assert lengths(queue.put(long(10, 1))) == [1]


def test_without_a_bound_in_bytes_only_messages_count() -> None:
    queue = MessageQueue(3, "drop_newest", None)
    assert lengths(queue.put(long(1000, 1000, 1000, 1000))) == [1000]


def test_the_bound_in_bytes_has_a_default() -> None:
    queue = MessageQueue(None, "drop_newest")
    assert queue.size_bytes == DEFAULT_QUEUE_BYTES == 64 * 1024 * 1024
    large = long(DEFAULT_QUEUE_BYTES // 4)
    for _ in range(4):
        assert queue.put(large) == []
    assert queue.put(large) == large


# Beside putting and taking


def test_another_queue_like_it_has_its_bounds_and_its_policy_and_is_empty() -> None:
    queue = MessageQueue(3, "drop_oldest", 10)
    queue.put(long(4, 4, 4, 4))
    other = queue.like()
    assert (other.size, other.size_bytes, other.overflow) == (3, 10, Overflow.DROP_OLDEST)
    assert (len(other), other.dropped) == (0, 0)
    assert len(queue) == 2


def test_removing_one_action_keeps_the_others_in_their_order_and_makes_room() -> None:
    queue = MessageQueue(4, "drop_newest", 10)
    requests = [parse_message(f"request:a:1.0.0\n{number}{number}") for number in (1, 2)]
    one, two = messages(1, 2)
    queue.put([one, requests[0], two, requests[1]])
    assert queue.remove(Action.REQUEST) == requests
    assert queue.remove(Action.REQUEST) == []
    assert lengths(queue.put(long(5, 5))) == [5]
    assert queue.put(long(3)) == []
    assert [queue.take(), queue.take()] == [one, two]


def test_removing_from_a_queue_that_takes_nothing_any_more_loses_nothing() -> None:
    queue = MessageQueue(1, "error")
    queue.put(messages(1, 2))
    assert queue.remove(Action.REQUEST) == []
    assert (taken(queue), queue.dropped) == ([1], 1)


# Invalid bounds and policies


@pytest.mark.parametrize("size", [0, -1, 1.5, "5", [1], True, False], ids=repr)
def test_a_bound_is_a_number_from_one(size: Any) -> None:
    with pytest.raises(
        LocalProtocolError, match=r"invalid queue_size .*: expected a whole number of messages"
    ):
        MessageQueue(size, "drop_newest")
    with pytest.raises(
        LocalProtocolError, match=r"invalid queue_bytes .*: expected a whole number of bytes"
    ):
        MessageQueue(1, "drop_newest", size)


@pytest.mark.parametrize("overflow", ["", "drop", "DROP_NEWEST", None, 1, []], ids=repr)
def test_a_policy_that_is_unknown_is_told_which_there_are(overflow: Any) -> None:
    with pytest.raises(LocalProtocolError, match="'drop_newest', 'drop_oldest', 'error'"):
        MessageQueue(1, overflow)


class QueueAgainstModel(RuleBasedStateMachine):
    """Against a plain list, one message at a time."""

    @initialize(
        size=st.none() | st.integers(1, 8),
        size_bytes=st.none() | st.integers(1, 8) | st.integers(12, 30),
        overflow=st.sampled_from(Overflow),
    )
    def begin(self, size: int | None, size_bytes: int | None, overflow: Overflow) -> None:
        self.size = size
        self.size_bytes = size_bytes
        self.overflow = overflow
        self.queue = MessageQueue(size, overflow, size_bytes)
        self.model: list[Message] = []
        self.dropped = 0
        self.closed = False

    def fits(self, message: Message) -> bool:
        if not self.model:
            return True
        used = sum(lengths(self.model))
        return (self.size is None or len(self.model) < self.size) and (
            self.size_bytes is None or used + len(message.raw_payload) <= self.size_bytes
        )

    @rule(parts=st.lists(st.integers(0, 9), max_size=4))
    def put(self, parts: list[int]) -> None:
        batch = long(*parts)
        lost = []
        for message in batch:
            if self.overflow is Overflow.DROP_OLDEST:
                while not self.fits(message):
                    lost.append(self.model.pop(0))
            elif self.closed or not self.fits(message):
                self.closed = self.overflow is Overflow.ERROR
                lost.append(message)
                continue
            self.model.append(message)
        assert self.queue.put(batch) == lost
        self.dropped += len(lost)

    @rule(count=st.sampled_from([1, 1, 1, 2, 5]))
    def take(self, count: int) -> None:
        for _ in range(min(count, len(self.model))):
            assert self.queue.take() is self.model.pop(0)

    @rule()
    def remove(self) -> None:
        """What is taken out of the middle counts no more, and nothing else changes."""
        request = parse_message("request:a:1.0.0\n1")
        if self.fits(request) and not self.closed:
            assert self.queue.put([request]) == []
            assert self.queue.remove(Action.REQUEST) == [request]
        assert self.queue.remove(Action.REQUEST) == []

    @invariant()
    def agrees(self) -> None:
        assert list(self.queue.waiting) == self.model
        assert len(self.queue) == len(self.model)
        assert self.queue.dropped == self.dropped
        assert self.queue.overflowed is self.closed


TestQueueAgainstModel = QueueAgainstModel.TestCase
TestQueueAgainstModel.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
