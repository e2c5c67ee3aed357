"""The trees of exchanges that an audit feed tells of."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest

from mb_tools.audit import AuditEvent, error_of, read_event, registered_name
from mb_tools.exchanges import Outcome

from .audit_events import BEGAN, Feed, feed

__all__ = ["feed"]


def test_a_request_and_its_answer_are_one_exchange(feed: Feed) -> None:
    ids = feed.request("shop", "order.pay", "billing")
    assert feed.wait(0.012) == []
    feed.answer("billing", "shop", "Order.Pay", ids, {"paid": True})
    assert feed.take() == []
    assert feed.builder.next_deadline() == pytest.approx(0.262)
    (root,) = feed.wait(0.25)
    assert (root.exchange.action, root.exchange.topic) == ("request", "order.pay")
    assert (root.exchange.sender, root.exchange.receivers, root.exchange.count) == (
        "shop",
        ["billing"],
        1,
    )
    assert root.exchange.outcome is Outcome.ANSWERED
    assert root.exchange.seconds == pytest.approx(0.012, abs=1e-6)
    assert root.exchange.began == BEGAN
    assert not root.failed
    assert len(feed.builder) == 0
    assert feed.builder.next_deadline() is None


def test_what_is_asked_while_answering_hangs_below(feed: Feed) -> None:
    outer = feed.request("shop", "order.pay", "billing")
    inner = feed.request("billing", "bank.charge", "bank", parent=outer[1])
    feed.wait(1)  # an open request keeps its tree
    feed.answer("bank", "billing", "bank.charge", inner, {})
    copy = feed.publish("billing", "order.paid", "mail", "stock", parent=outer[1])
    feed.answer("billing", "shop", "order.pay", outer, {})
    feed.request("mail", "mail.send", "smtp", parent=copy)
    feed.refuse("mail", "mail.send", None, "TIMEOUT")
    assert feed.wait(0.3) == []  # nobody knows that id: the request is still open
    (root,) = [*feed.wait(5), *feed.wait(1)]
    assert [child.exchange.topic for child in root.children] == ["bank.charge", "order.paid"]
    charge, paid = root.children
    assert charge.exchange.seconds == pytest.approx(1)
    assert (paid.exchange.outcome, paid.exchange.receivers) == (
        Outcome.DELIVERED,
        ["mail", "stock"],
    )
    assert [child.exchange.topic for child in paid.children] == ["mail.send"]
    assert root.failed


def test_the_sender_s_own_id_is_a_parent_too(feed: Feed) -> None:
    outer = feed.request("shop", "a", "billing")
    feed.publish("shop", "b", "mail", parent=outer[0])
    feed.answer("billing", "shop", "a", outer, 1)
    (root,) = feed.wait(1)
    assert [child.exchange.topic for child in root.children] == ["b"]


@pytest.mark.parametrize(
    "payload",
    [
        {"error": {"code": "BAD", "message": "why", "timestamp": "t"}},
        'error:{"code":"BAD","message":"why"}',
        {"type": "Buffer", "data": list(b'error:{"code":"BAD","message":"why"}')},
        {"type": "Buffer", "data": list(b'{"error":{"code":"BAD","message":"why"}}')},
    ],
    ids=["broker's", "service's", "bytes", "bytes of JSON"],
)
def test_an_error_answer_fails_the_exchange(feed: Feed, payload: Any) -> None:
    ids = feed.request("shop", "a.b", "billing")
    feed.answer("billing", "shop", "a.b", ids, payload)
    (root,) = feed.wait(1)
    assert (root.exchange.outcome, root.exchange.error.code, root.exchange.error.message) == (
        Outcome.FAILED,
        "BAD",
        "why",
    )
    assert root.failed


@pytest.mark.parametrize("payload", [{"type": "Buffer", "data": "x"}, "error", None, [], "errors"])
def test_other_payloads_are_answers(feed: Feed, payload: Any) -> None:
    ids = feed.request("shop", "a.b", "billing")
    feed.answer("billing", "shop", "a.b", ids, payload)
    (root,) = feed.wait(1)
    assert root.exchange.outcome is Outcome.ANSWERED


def test_the_broker_s_own_errors_fail_it_without_a_response(feed: Feed) -> None:
    own_id, _ = feed.request("shop", "a.b", "billing")
    feed.wait(1)
    feed.refuse("shop", "a.b", own_id, "TIMEOUT")
    own_id, _ = feed.request("shop", "c.d", None)
    feed.refuse("shop", "c.d", own_id, "NO_ROUTE_FOUND")
    late, unroutable = feed.wait(1)
    assert (late.exchange.error.code, late.exchange.seconds) == ("TIMEOUT", pytest.approx(1))
    assert (unroutable.exchange.error.code, unroutable.exchange.receivers) == ("NO_ROUTE_FOUND", [])


def test_an_answer_after_the_time_limit_changes_nothing(feed: Feed) -> None:
    ids = feed.request("shop", "a.b", "billing")
    feed.refuse("shop", "a.b", ids[0], "TIMEOUT")
    feed.answer("billing", "shop", "a.b", ids, 1)
    (root,) = feed.wait(1)
    assert root.exchange.error.code == "TIMEOUT"


def test_an_answer_of_somebody_else_changes_nothing(feed: Feed) -> None:
    ids = feed.request("shop", "a.b", "billing")
    feed.answer("intruder", "shop", "a.b", (None, ids[1]), 1)
    assert feed.wait(1) == []


def test_a_request_without_an_id_ends_with_its_response(feed: Feed) -> None:
    ids = feed.request("shop", "a.b", "billing", own_id=None)
    feed.answer("billing", "shop", "a.b", ids, 1)
    feed.request("shop", "c.d", None, own_id=None)
    feed.refuse("shop", "c.d", None, "NO_ROUTE_FOUND")
    answered, refused = feed.wait(1)
    assert answered.exchange.outcome is Outcome.ANSWERED
    assert refused.exchange.outcome is Outcome.FAILED


def test_a_publication_to_nobody_is_unheard_and_has_not_failed_with_or_without_an_id(
    feed: Feed,
) -> None:
    for own_id in (None, feed.new_id()):
        feed.publish("shop", "a.b", own_id=own_id)
        feed.refuse("shop", "a.b", own_id, "NO_ROUTE_FOUND")
    both = feed.wait(1)
    assert [(root.exchange.outcome, root.failed) for root in both] == [(Outcome.UNHEARD, False)] * 2
    assert [root.exchange.error for root in both] == [None] * 2


def test_a_publication_that_is_refused_fails(feed: Feed) -> None:
    own_id = feed.new_id()
    feed.publish("shop", "a.b", own_id=own_id)
    feed.refuse("shop", "a.b", own_id, "INVALID_REQUEST")
    (root,) = feed.wait(1)
    assert (root.exchange.outcome, root.exchange.error.code) == (Outcome.FAILED, "INVALID_REQUEST")


def test_a_confirmed_publication_is_delivered(feed: Feed) -> None:
    own_id = feed.new_id()
    feed.publish("shop", "a.b", "mail", own_id=own_id)
    header = {"action": "response", "topic": "a.b", "requestId": own_id}
    feed.event(header, {"status": "success"}, to="shop")
    (root,) = feed.wait(1)
    assert (root.exchange.outcome, root.exchange.ended) == (Outcome.DELIVERED, None)


def test_a_request_whose_end_is_not_seen_ends_at_its_time_limit(feed: Feed) -> None:
    feed.request("shop", "a.b", "billing", timeout=3_000)
    assert feed.wait(4.9) == []
    assert feed.wait(0.2) == []
    (root,) = feed.wait(0.3)
    assert (root.exchange.outcome, root.exchange.seconds) == (Outcome.UNSEEN, None)


def test_the_feed_may_begin_in_the_middle(feed: Feed) -> None:
    header = {"action": "response", "topic": "a.b", "requestId": feed.new_id()}
    feed.event(header, 1, from_="billing")
    feed.event(header, 1, to="shop")
    feed.event({"action": "publish", "topic": "system.initialize"}, {}, to="new")
    feed.event({"action": "request", "topic": "system.heartbeat"}, {}, to="shop")
    feed.event({"action": "request", "topic": "a.b"}, {}, to="b", maskedId=feed.new_id())
    assert feed.wait(10) == []
    assert feed.builder.next_deadline() is None


def test_what_was_caused_before_the_feed_began_names_its_cause(feed: Feed) -> None:
    cause = feed.new_id()
    feed.publish("shop", "a.b", "mail", parent=cause)
    (root,) = feed.wait(1)
    assert root.cause == cause


def test_messages_in_between_do_not_confuse_what_has_no_id(feed: Feed) -> None:
    header = {"action": "publish", "topic": "a.b"}
    feed.event(header, from_="shop")
    feed.event({"action": "publish", "topic": "c.d", "requestId": feed.new_id()}, to="mail")
    feed.event({"action": "request", "topic": "a.b", "requestId": feed.new_id()}, to="mail")
    (root,) = feed.wait(1)
    assert root.exchange.receivers == []


def test_the_broker_s_own_topics_are_left_out_unless_asked_for() -> None:
    for system, count in ((False, 0), (True, 1)):
        feed = Feed(system=system)
        own_id, _ = feed.request("shop", "System.service.list", None)
        header = {"action": "response", "topic": "System.service.list", "requestId": own_id}
        feed.event(header, {"services": []}, to="shop")
        assert len(feed.wait(1)) == count


def test_of_many_receivers_the_first_are_named(feed: Feed) -> None:
    feed.publish("shop", "a.b", *(f"mail{number}" for number in range(1_000)))
    (root,) = feed.wait(1)
    assert (root.exchange.count, len(root.exchange.receivers)) == (1_000, 50)


# Memory


def test_a_long_chain_goes_on_in_a_tree_of_its_own(feed: Feed) -> None:
    copy = None
    for number in range(150):
        copy = feed.publish("a", f"t{number}", "a", parent=copy)
    roots = feed.wait(1)
    assert [len(list(root.walk())) for root in roots] == [61, 61, 28]
    assert [root.cause is None for root in roots] == [True, False, False]


def test_a_tree_that_grows_and_grows_is_given_in_parts() -> None:
    feed = Feed(tree_limit=10)
    copy = feed.publish("a", "root", "a")
    for number in range(25):
        feed.publish("a", f"t{number}", "a", parent=copy)
    sizes = [len(list(root.walk())) for root in feed.take()]
    assert sizes == [10]
    late = feed.wait(1)
    assert {root.cause for root in late} == {copy}


def test_above_its_limit_the_oldest_tree_is_given_unfinished() -> None:
    feed = Feed(limit=3)
    for number in range(5):
        feed.request("shop", f"t{number}", "billing", timeout=3_600_000)
    first, second = feed.take()
    assert [first.exchange.topic, second.exchange.topic] == ["t0", "t1"]
    assert first.exchange.outcome is Outcome.OPEN
    assert len(feed.builder) == 3


def test_the_end_of_what_was_given_already_is_ignored() -> None:
    feed = Feed(limit=1)
    ids = feed.request("shop", "a", "billing")
    feed.request("shop", "b", "billing")
    feed.answer("billing", "shop", "a", ids, 1)
    assert [root.exchange.topic for root in feed.take()] == ["a"]


def test_a_feed_with_gaps_leaves_nothing_behind() -> None:
    """Whatever is missing, in whatever order: it never raises, and memory is given back."""
    randomly = random.Random(7)
    feed = Feed(limit=200, tree_limit=20)
    seen: list[str | None] = [None]
    open_requests: list[tuple[tuple[str | None, str], str]] = []
    peak = 0
    for step in range(20_000):
        feed.now += randomly.random() / 50
        parent = randomly.choice(seen[-30:])
        topic = f"t{step % 7}"
        kind = randomly.random()
        if kind < 0.4:
            to = "b" if randomly.random() < 0.9 else None
            own_id = "new" if randomly.random() < 0.8 else None
            ids = feed.request("a", topic, to, parent=parent, own_id=own_id)
            seen.append(ids[1])
            open_requests.append((ids, topic))
        elif kind < 0.6:
            seen.append(feed.publish("a", topic, *"bcd"[: step % 4], parent=parent))
        elif open_requests:
            ids, topic = open_requests.pop(randomly.randrange(len(open_requests)))
            if kind < 0.9:
                feed.answer("b", "a", topic, ids, {})
            elif kind < 0.95:
                feed.refuse("a", topic, ids[0], "TIMEOUT")
        feed.take()
        peak = max(peak, len(feed.builder), len(feed.builder._exchanges) // 4)
    assert peak <= 201
    feed.wait(60)
    feed.wait(60)
    assert len(feed.builder) == 0
    assert len(feed.builder._exchanges) == 0
    assert not feed.builder._trees
    assert feed.builder.next_deadline() is None
    count = sum(len(list(root.walk())) for root in feed.finished)
    assert count > 10_000


# Events


def test_what_is_no_event_is_none() -> None:
    for raw in (b"", b"nope", b"{}", b'{"timestamp":1}', b'{"a":"\xff"}', b"[" * 100_000):
        assert read_event(raw) is None


def registration(payload: str, topic: str = "system.service.register") -> AuditEvent:
    event = read_event(
        b'{"timestamp":"2026-01-01T00:00:00.000Z","from":"x","message":{"header":'
        b'{"action":"request","topic":"%b","version":"1.0.0"},"payload":%b}}'
        % (topic.encode(), payload.encode())
    )
    assert event is not None
    return event


def test_a_registration_tells_a_name() -> None:
    assert registered_name(registration('{"name":"Shop","description":"d"}')) == ("x", "Shop")
    assert registered_name(registration('{"name":"Shop"}', "a.b")) is None
    assert registered_name(registration('{"name":7}')) is None
    to = msgspec.structs.replace(registration('{"name":"Shop"}'), sender=None)
    assert registered_name(to) is None
    assert error_of(registration('"error:"')) is not None
