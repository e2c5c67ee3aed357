"""Deadlines: the earliest first, whatever was replaced and discarded, in bounded memory."""

from __future__ import annotations

import gc
import math
import weakref

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from mb_core.deadlines import Deadlines


class Item:
    """Something with a deadline that can be checked for leaks."""


def test_without_an_item_nothing_is_due() -> None:
    deadlines: Deadlines[str] = Deadlines()
    assert deadlines.next() is None
    assert deadlines.pop_due(math.inf) == []


def test_due_is_what_is_at_its_time_or_past_it() -> None:
    deadlines: Deadlines[str] = Deadlines()
    deadlines.add("a", 10.0)
    assert deadlines.pop_due(math.nextafter(10.0, 0.0)) == []
    assert deadlines.next() == 10.0
    assert deadlines.pop_due(10.0) == ["a"]
    assert deadlines.next() is None


def test_the_earliest_comes_first_and_among_equals_the_first() -> None:
    deadlines: Deadlines[str] = Deadlines()
    for item, when in [("c", 3), ("a", 1), ("b2", 2), ("b1", 2), ("d", 4)]:
        deadlines.add(item, when)
    assert deadlines.next() == 1
    assert deadlines.pop_due(3) == ["a", "b2", "b1", "c"]
    assert deadlines.next() == 4


def test_items_need_not_be_comparable() -> None:
    deadlines: Deadlines[Item] = Deadlines()
    first, second = Item(), Item()
    deadlines.add(first, 1)
    deadlines.add(second, 1)
    assert deadlines.pop_due(1) == [first, second]


def test_a_new_deadline_takes_the_place_of_the_old() -> None:
    deadlines: Deadlines[str] = Deadlines()
    deadlines.add("later", 1)
    deadlines.add("sooner", 9)
    deadlines.add("later", 9)
    deadlines.add("sooner", 1)
    assert deadlines.pop_due(8) == ["sooner"]
    assert deadlines.pop_due(9) == ["later"]
    assert deadlines.next() is None


def test_a_discarded_item_is_not_due_and_may_come_again() -> None:
    deadlines: Deadlines[str] = Deadlines()
    deadlines.add("a", 1)
    deadlines.discard("a")
    deadlines.discard("a")
    deadlines.discard("never there")
    assert deadlines.next() is None
    assert deadlines.pop_due(5) == []
    deadlines.add("a", 7)
    assert deadlines.pop_due(6) == []
    assert deadlines.pop_due(7) == ["a"]


def test_a_deadline_may_never_come() -> None:
    deadlines: Deadlines[str] = Deadlines()
    deadlines.add("never", math.inf)
    deadlines.add("ever", 1)
    assert deadlines.pop_due(1e300) == ["ever"]
    assert deadlines.next() == math.inf


class DeadlinesAgainstModel(RuleBasedStateMachine):
    """Against a list that is sorted each time."""

    items = st.integers(0, 200)
    # Whole numbers, so that many are equal.
    times = st.integers(0, 20)

    @initialize()
    def begin(self) -> None:
        self.deadlines: Deadlines[int] = Deadlines()
        self.model: list[tuple[int, int, int]] = []  # when, order, item
        self.order = 0

    @rule(item=items, when=times)
    def add(self, item: int, when: int) -> None:
        self.forget(item)
        self.order += 1
        self.model.append((when, self.order, item))
        self.deadlines.add(item, when)

    @rule(when=times)
    def add_many(self, when: int) -> None:
        for item in range(200):
            self.add(item, (when + item) % 20)

    @rule(item=items)
    def discard(self, item: int) -> None:
        self.forget(item)
        self.deadlines.discard(item)

    @rule(step=st.integers(2, 9))
    def discard_many(self, step: int) -> None:
        for item in range(200):
            if item % step:
                self.discard(item)

    @rule(now=times)
    def pop_due(self, now: int) -> None:
        due = sorted(entry for entry in self.model if entry[0] <= now)
        self.model = [entry for entry in self.model if entry[0] > now]
        assert self.deadlines.pop_due(now) == [item for _, _, item in due]

    @invariant()
    def knows_the_next(self) -> None:
        assert self.deadlines.next() == min((entry[0] for entry in self.model), default=None)

    def teardown(self) -> None:
        self.pop_due(20)
        assert self.deadlines.next() is None

    def forget(self, item: int) -> None:
        self.model = [entry for entry in self.model if entry[2] != item]


TestDeadlinesAgainstModel = DeadlinesAgainstModel.TestCase
TestDeadlinesAgainstModel.settings = settings(
    max_examples=25, stateful_step_count=20, deadline=None
)


# Memory


def test_discarded_items_are_not_held_for_long() -> None:
    deadlines: Deadlines[Item] = Deadlines()
    alive: weakref.WeakSet[Item] = weakref.WeakSet()
    waiting = Item()
    deadlines.add(waiting, 5)
    most = 0
    for number in range(2_000):
        item = Item()
        alive.add(item)
        deadlines.add(item, 10 + number)  # none of them comes to the top of the heap
        deadlines.discard(item)
        most = max(most, len(alive))
    assert most < 100
    assert deadlines.pop_due(5) == [waiting]


def test_what_is_held_is_in_proportion_to_what_waits() -> None:
    deadlines: Deadlines[Item] = Deadlines()
    items = [Item() for _ in range(4_000)]
    alive = weakref.WeakSet(items)
    for number, item in enumerate(items):
        deadlines.add(item, number)
    while len(items) > 200:
        for item in items[-100:]:
            deadlines.discard(item)
        del items[-100:], item
        assert len(alive) <= 2 * len(items) + 100
    assert deadlines.pop_due(math.inf) == items


def test_replacing_a_deadline_again_and_again_takes_no_memory() -> None:
    deadlines: Deadlines[str] = Deadlines()

    class Moment(float):
        """A time that is counted while it is held."""

    alive: weakref.WeakSet[Moment] = weakref.WeakSet()
    deadlines.add("first", 0)
    for number in range(2_000):
        moment = Moment(number + 1)
        alive.add(moment)
        deadlines.add("again", moment)
    assert len(alive) < 200
    assert deadlines.pop_due(math.inf) == ["first", "again"]


def test_what_is_popped_is_not_held() -> None:
    deadlines: Deadlines[Item] = Deadlines()
    items = [Item() for _ in range(500)]
    alive = weakref.WeakSet(items)
    for number, item in enumerate(items):
        deadlines.add(item, number)
    for item in items[::2]:
        deadlines.discard(item)
    assert deadlines.pop_due(math.inf) == items[1::2]
    del items, item
    gc.collect()
    assert not alive
