"""A subscription's queue: what fits, and what becomes of what does not."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from mb_core.client.queue import MessageQueue, Overflow
from mb_core.errors import LocalProtocolError
from mb_core.message import Message, parse_message


def messages(*numbers: int) -> list[Message]:
    return [parse_message(f"publish:a:1.0.0\n{number}") for number in numbers]


def taken(queue: MessageQueue) -> list[int]:
    """Everything in the queue, in order."""
    return [queue.take().payload for _ in range(len(queue))]


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


@pytest.mark.parametrize("size", [0, -1, 1.5, "5", [1]], ids=repr)
def test_a_size_is_a_number_of_messages(size: Any) -> None:
    with pytest.raises(LocalProtocolError, match="invalid queue_size"):
        MessageQueue(size, "drop_newest")


@pytest.mark.parametrize("overflow", ["", "drop", "DROP_NEWEST", None, 1, []], ids=repr)
def test_a_policy_that_is_unknown_is_told_which_there_are(overflow: Any) -> None:
    with pytest.raises(LocalProtocolError, match="'drop_newest', 'drop_oldest', 'error'"):
        MessageQueue(1, overflow)


class QueueAgainstModel(RuleBasedStateMachine):
    """Against a plain list, one message at a time."""

    @initialize(size=st.none() | st.integers(1, 5), overflow=st.sampled_from(Overflow))
    def begin(self, size: int | None, overflow: Overflow) -> None:
        self.size = size
        self.overflow = overflow
        self.queue = MessageQueue(size, overflow)
        self.model: list[int] = []
        self.dropped = 0
        self.closed = False
        self.number = 0

    @rule(count=st.integers(0, 8))
    def put(self, count: int) -> None:
        numbers = range(self.number, self.number + count)
        self.number += count
        lost = []
        for number in numbers:
            if not self.closed and (self.size is None or len(self.model) < self.size):
                self.model.append(number)
            elif self.overflow is Overflow.DROP_OLDEST:
                lost.append(self.model.pop(0))
                self.model.append(number)
            else:
                self.closed = self.overflow is Overflow.ERROR
                lost.append(number)
        assert payloads(self.queue.put(messages(*numbers))) == lost
        self.dropped += len(lost)

    @rule()
    def take(self) -> None:
        if self.model:
            assert self.queue.take().payload == self.model.pop(0)

    @invariant()
    def agrees(self) -> None:
        assert len(self.queue) == len(self.model)
        assert self.queue.dropped == self.dropped
        assert self.queue.overflowed is self.closed

    def teardown(self) -> None:
        assert taken(self.queue) == self.model


TestQueueAgainstModel = QueueAgainstModel.TestCase
TestQueueAgainstModel.settings = settings(max_examples=60, stateful_step_count=20, deadline=None)
