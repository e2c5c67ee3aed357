"""The queue of a subscription, filled in one thread while others take."""

from __future__ import annotations

import gc
import threading

import pytest

from mb_core import Action, Message, MessageHeader, create_message, parse_message
from mb_sync.thread_queue import ThreadQueue


def message(number: int, action: Action = Action.PUBLISH) -> Message:
    return parse_message(create_message(MessageHeader(action, "a.b"), number))


def take_all(queue: ThreadQueue, taken: list[int], filled: threading.Event) -> None:
    """Until it is filled, and empty."""
    while True:
        last = filled.is_set()
        try:
            taken.append(queue.take().payload)
        except IndexError:
            if last:
                return


@pytest.mark.parametrize("overflow", ["drop_newest", "drop_oldest", "error"])
@pytest.mark.parametrize("bound", [{"size": 3}, {"size": None, "size_bytes": 10}])
def test_every_message_is_either_taken_once_or_dropped(
    overflow: str, bound: dict[str, int]
) -> None:
    queue = ThreadQueue(overflow=overflow, **bound)
    filled = threading.Event()
    taken: list[list[int]] = [[] for _ in range(3)]
    threads = [threading.Thread(target=take_all, args=(queue, own, filled)) for own in taken]
    for thread in threads:
        thread.start()
    dropped: list[int] = []
    count = 6_000
    numbers = iter(range(count))
    for number in numbers:
        burst = [number, *(next(numbers) for _ in range(number % 4) if number < count - 4)]
        dropped += [each.payload for each in queue.put([message(each) for each in burst])]
        assert len(queue) <= 10
    filled.set()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    everything = [number for own in taken for number in own]
    assert sorted(everything + dropped) == list(range(count))
    assert queue.dropped == len(dropped)
    assert all(own == sorted(own) for own in taken)
    if overflow == "error" and dropped:
        assert queue.overflowed
        assert min(dropped) > max(everything)  # nothing from the first one on


def test_messages_of_one_action_are_removed_while_others_take() -> None:
    for _ in range(50):
        queue = ThreadQueue(None, "drop_newest")
        actions = [Action.PUBLISH, Action.REQUEST] * 20
        queue.put([message(number, action) for number, action in enumerate(actions)])
        filled = threading.Event()
        taken: list[int] = []
        thread = threading.Thread(target=take_all, args=(queue, taken, filled))
        thread.start()
        removed = [each.payload for each in queue.remove(Action.REQUEST)]
        filled.set()
        thread.join(5)
        assert sorted(taken + removed) == list(range(40))
        assert all(number % 2 for number in removed)


def test_it_goes_when_nobody_holds_it_any_more() -> None:
    """With all that lies in it, and without the garbage collector."""
    gc.collect()
    queue = ThreadQueue(None, "drop_newest")
    queue.put([message(1), message(2)])
    queue.take()
    del queue
    assert gc.collect() == 0


def test_its_like_is_one_for_threads_as_well() -> None:
    queue = ThreadQueue(3, "drop_oldest", 100).like()
    assert isinstance(queue, ThreadQueue)
    assert (queue.size, queue.size_bytes, queue.overflow) == (3, 100, "drop_oldest")
