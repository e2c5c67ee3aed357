"""What waits for a connection: bounds in bytes, the order, and what is dropped when it is full."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mb_core.errors import ConnectionLost, LocalProtocolError
from mb_core.session import BufferOverflow, Outbox, PendingRequest

POLICIES = ["error", "drop_oldest"]


def message(label: str, size: int) -> bytes:
    """A publication of `size` bytes."""
    return label.encode().ljust(size, b".")


def request(label: str, size: int = 10) -> PendingRequest:
    return PendingRequest(label.encode(), "a.b", message(label, size), 1000, 1.0, False)


def labels(items: list[bytes | PendingRequest]) -> list[str]:
    return [
        (item if isinstance(item, bytes) else item.message).decode().rstrip(".") for item in items
    ]


def outcome(call: Callable[[], object]) -> str:
    try:
        call()
    except ConnectionLost as error:
        return "sent" if error.sent else "full"
    return "held"


# What it is made with


@pytest.mark.parametrize("size", [-1, 1.5, "8", None, True])
def test_a_size_that_is_no_number_of_bytes_is_refused(size: Any) -> None:
    with pytest.raises(LocalProtocolError, match="publish_buffer"):
        Outbox(size)


@pytest.mark.parametrize("overflow", ["", "drop_newest", "ERROR", None, 1])
def test_a_policy_that_there_is_not_is_refused_and_those_that_there_are_named(
    overflow: Any,
) -> None:
    with pytest.raises(LocalProtocolError, match="'error', 'drop_oldest'"):
        Outbox(100, overflow)


def test_a_policy_is_given_by_its_name_or_as_itself() -> None:
    assert Outbox(100, "drop_oldest").overflow is BufferOverflow.DROP_OLDEST
    assert Outbox(100, BufferOverflow.DROP_OLDEST).overflow is BufferOverflow.DROP_OLDEST
    assert Outbox(100).overflow is BufferOverflow.ERROR


def test_a_new_outbox_holds_eight_mebibytes_and_nothing_is_in_it() -> None:
    outbox = Outbox()
    assert outbox.size == 8 * 1024 * 1024
    assert (len(outbox), outbox.used, outbox.dropped, outbox.requests) == (0, 0, 0, [])
    assert outbox.take_all() == []


# The bound


@pytest.mark.parametrize("policy", POLICIES)
def test_whole_messages_are_counted_up_to_the_bound_and_it_included(policy: str) -> None:
    outbox = Outbox(100, policy)
    outbox.add_publication(message("a", 40))
    outbox.add_publication(request("b", 60))
    assert (len(outbox), outbox.used, outbox.dropped) == (2, 100, 0)


def test_a_full_outbox_refuses_one_more_byte_and_stays_as_it_is() -> None:
    outbox = Outbox(100)
    outbox.add_publication(message("a", 100))
    for more in (message("b", 1), request("c", 1)):
        with pytest.raises(ConnectionLost, match=r"buffer of 100 bytes is full") as full:
            outbox.add_publication(more)
        assert not full.value.sent
    assert (len(outbox), outbox.used, outbox.dropped) == (1, 100, 0)
    assert labels(outbox.take_all()) == ["a"]


def test_what_is_refused_has_no_place() -> None:
    outbox = Outbox(10)
    refused = request("a", 11)
    assert outcome(lambda: outbox.add_publication(refused)) == "full"
    assert not refused.in_outbox


def test_one_that_does_not_fit_leaves_room_for_a_smaller_one() -> None:
    outbox = Outbox(100)
    assert [
        outcome(lambda size=size: outbox.add_publication(message("x", size)))  # type: ignore[misc]
        for size in (60, 41, 40, 1)
    ] == ["held", "full", "held", "full"]
    assert outbox.used == 100


@pytest.mark.parametrize("policy", POLICIES)
def test_a_bound_of_zero_holds_no_publication_and_says_so(policy: str) -> None:
    outbox = Outbox(0, policy)
    for more in (b"x", request("a", 1)):
        with pytest.raises(ConnectionLost, match="publish_buffer=0 holds nothing") as full:
            outbox.add_publication(more)
        assert not full.value.sent
    assert (len(outbox), outbox.used, outbox.dropped) == (0, 0, 0)


@pytest.mark.parametrize("policy", POLICIES)
def test_requests_do_not_count(policy: str) -> None:
    outbox = Outbox(0, policy)
    outbox.add_request(request("a", 1000))
    assert (len(outbox), outbox.used) == (0, 0)
    assert labels(list(outbox.requests)) == ["a"]


def test_an_outbox_with_requests_only_is_empty_of_publications() -> None:
    outbox = Outbox()
    outbox.add_request(request("a"))
    assert not outbox
    outbox.add_publication(b"b")
    assert outbox


# Dropping the oldest


def test_the_oldest_make_room_and_no_more_of_them_than_it_takes() -> None:
    outbox = Outbox(100, "drop_oldest")
    for label in "abcd":
        outbox.add_publication(message(label, 25))
    outbox.add_publication(message("e", 26))
    assert (len(outbox), outbox.used, outbox.dropped) == (3, 76, 2)
    assert labels(outbox.take_all()) == ["c", "d", "e"]


@pytest.mark.parametrize("kind", [message, request], ids=["publication", "confirmed"])
def test_one_that_would_never_fit_drops_nothing(
    kind: Callable[[str, int], bytes | PendingRequest],
) -> None:
    outbox = Outbox(100, "drop_oldest")
    outbox.add_publication(message("a", 60))
    outbox.add_publication(message("b", 40))
    assert outcome(lambda: outbox.add_publication(kind("c", 101))) == "full"
    assert (len(outbox), outbox.used, outbox.dropped) == (2, 100, 0)


def test_what_somebody_waits_for_is_never_dropped() -> None:
    outbox = Outbox(100, "drop_oldest")
    outbox.add_publication(request("a", 40))
    outbox.add_publication(message("b", 30))
    outbox.add_publication(request("c", 30))
    outbox.add_publication(message("d", 30))
    assert (len(outbox), outbox.used, outbox.dropped) == (3, 100, 1)
    assert labels(outbox.take_all()) == ["a", "c", "d"]


@pytest.mark.parametrize("kind", [message, request], ids=["publication", "confirmed"])
def test_nothing_is_dropped_for_one_that_does_not_fit_all_the_same(
    kind: Callable[[str, int], bytes | PendingRequest],
) -> None:
    outbox = Outbox(100, "drop_oldest")
    outbox.add_publication(request("a", 80))
    outbox.add_publication(message("b", 10))
    assert outcome(lambda: outbox.add_publication(kind("c", 21))) == "full"
    assert (len(outbox), outbox.used, outbox.dropped) == (2, 90, 0)
    assert labels(outbox.take_all()) == ["a", "b"]


def test_the_policy_of_errors_drops_nothing() -> None:
    outbox = Outbox(100, "error")
    outbox.add_publication(message("a", 100))
    assert outcome(lambda: outbox.add_publication(message("b", 100))) == "full"
    assert (outbox.dropped, labels(outbox.take_all())) == (0, ["a"])


def test_what_is_dropped_is_counted_for_good() -> None:
    outbox = Outbox(10, "drop_oldest")
    for label in "abc":
        outbox.add_publication(message(label, 10))
    outbox.take_all()
    for label in "de":
        outbox.add_publication(message(label, 10))
    assert outbox.dropped == 3


def test_dropping_costs_what_is_dropped_and_not_what_waits() -> None:
    def cheapest(waiting: int) -> float:
        outbox = Outbox(10 * waiting, "drop_oldest")
        for _ in range(waiting):
            outbox.add_publication(b"0123456789")
        costs = []
        for _ in range(50):
            begun = time.perf_counter()
            outbox.add_publication(b"0123456789")
            costs.append(time.perf_counter() - begun)
        assert (len(outbox), outbox.dropped) == (waiting, 50)
        return min(costs)

    # Looking at all of them costs a thousand times as much.
    assert cheapest(100_000) < 100 * cheapest(10)


def test_what_has_left_makes_no_room_for_others() -> None:
    outbox = Outbox(100, "drop_oldest")
    outbox.add_publication(message("a", 50))
    outbox.take_all()
    outbox.add_publication(request("b", 100))
    assert outcome(lambda: outbox.add_publication(message("c", 50))) == "full"
    assert (outbox.used, outbox.dropped) == (100, 0)


# The order


def test_publications_and_requests_leave_in_the_order_in_which_they_came() -> None:
    outbox = Outbox()
    outbox.add_publication(message("a", 5))
    outbox.add_request(request("b"))
    outbox.add_publication(request("c"))
    outbox.add_publication(message("d", 5))
    outbox.add_request(request("e"))
    outbox.put_back(message("f", 5))
    assert labels(list(outbox.requests)) == ["b", "e"]
    assert labels(outbox.take_all()) == ["a", "b", "c", "d", "e", "f"]


def test_taking_all_empties_it_and_gives_the_very_objects() -> None:
    outbox = Outbox()
    items: list[bytes | PendingRequest] = [message("a", 5), request("b"), request("c")]
    outbox.add_publication(items[0])
    outbox.add_publication(items[1])
    assert isinstance(items[2], PendingRequest)
    outbox.add_request(items[2])
    taken = outbox.take_all()
    assert all(one is other for one, other in zip(taken, items, strict=True))
    assert not any(isinstance(item, PendingRequest) and item.in_outbox for item in taken)
    assert (len(outbox), outbox.used, outbox.requests) == (0, 0, [])
    assert outbox.take_all() == []


def test_what_is_put_back_is_behind_what_waits_whatever_room_there_is() -> None:
    outbox = Outbox(10)
    outbox.add_publication(message("a", 10))
    outbox.put_back(message("b", 10))
    outbox.put_back(request("c", 10))
    assert (len(outbox), outbox.used) == (3, 30)
    assert outcome(lambda: outbox.add_publication(b"d")) == "full"
    assert labels(outbox.take_all()) == ["a", "b", "c"]


def test_what_was_put_back_above_the_bound_makes_room_like_any_other() -> None:
    outbox = Outbox(10, "drop_oldest")
    for label in "abc":
        outbox.put_back(message(label, 10))
    outbox.add_publication(message("d", 10))
    assert (outbox.used, outbox.dropped, labels(outbox.take_all())) == (10, 3, ["d"])


# Discarding


@pytest.mark.parametrize("how", ["add_publication", "put_back", "add_request"])
def test_what_is_discarded_is_gone_and_its_bytes_are_free(how: str) -> None:
    outbox = Outbox(100)
    outbox.add_publication(message("a", 30))
    gone = request("b", 40)
    getattr(outbox, how)(gone)
    outbox.add_publication(message("c", 30))
    assert gone.in_outbox
    outbox.discard(gone)
    assert gone.outbox_key is None
    assert (len(outbox), outbox.used, outbox.requests) == (2, 60, [])
    assert labels(outbox.take_all()) == ["a", "c"]


@pytest.mark.parametrize("how", ["add_publication", "add_request"])
def test_discarding_what_is_not_there_does_nothing(how: str) -> None:
    outbox = Outbox(100)
    gone = request("a")
    outbox.discard(gone)
    getattr(outbox, how)(gone)
    outbox.take_all()
    outbox.discard(gone)
    getattr(outbox, how)(gone)
    outbox.discard(gone)
    outbox.discard(gone)
    assert (len(outbox), outbox.used, outbox.requests) == (0, 0, [])


def test_of_equal_messages_the_one_that_is_meant_is_discarded() -> None:
    outbox = Outbox(100)
    first, second = request("a"), request("a")
    outbox.add_publication(first)
    outbox.add_publication(second)
    outbox.discard(first)
    (left,) = outbox.take_all()
    assert left is second


# All together, against a list


_STEPS = st.lists(
    st.tuples(
        st.sampled_from(["publish", "confirm", "hold", "put_back", "discard", "take_all"]),
        st.integers(1, 40),
    ),
    max_size=60,
)


@given(size=st.integers(0, 100), policy=st.sampled_from(POLICIES), steps=_STEPS)
def test_it_holds_what_a_list_of_its_rules_holds(
    size: int, policy: str, steps: list[tuple[str, int]]
) -> None:
    outbox = Outbox(size, policy)
    model: list[bytes | PendingRequest] = []
    counted: list[bytes | PendingRequest] = []  # of those, the publications
    dropped = 0

    def used() -> int:
        return sum(len(each if isinstance(each, bytes) else each.message) for each in counted)

    for number, (step, length) in enumerate(steps):
        label = f"{number}"
        length = max(length, len(label))
        new = message(label, length) if step in ("publish", "put_back") else request(label, length)
        if step in ("publish", "confirm"):
            droppable = [each for each in counted if isinstance(each, bytes)]
            room = size - used()
            victims = []
            while room < length and policy == "drop_oldest" and droppable:
                victims.append(droppable.pop(0))
                room += len(victims[-1])
            if room >= length:
                for victim in victims:
                    model.remove(victim)
                    counted.remove(victim)
                dropped += len(victims)
                model.append(new)
                counted.append(new)
            expected = "held" if room >= length else "full"
            assert outcome(lambda: outbox.add_publication(new)) == expected  # noqa: B023
        elif step == "put_back":
            outbox.put_back(new)
            model.append(new)
            counted.append(new)
        elif step == "hold":
            assert isinstance(new, PendingRequest)
            outbox.add_request(new)
            model.append(new)
        elif step == "discard":
            waiting = [each for each in model if isinstance(each, PendingRequest)]
            if waiting:
                gone = waiting[length % len(waiting)]
                outbox.discard(gone)
                model.remove(gone)
                counted = [each for each in counted if each is not gone]
        else:
            assert outbox.take_all() == model
            model, counted = [], []
        assert (len(outbox), outbox.used, outbox.dropped) == (len(counted), used(), dropped)
        assert outbox.requests == [each for each in model if each not in counted]
    assert outbox.take_all() == model
