"""What becomes of each kind of message when a connection is lost."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mb_core.errors import ConnectionLost
from mb_core.message import parse_message
from mb_core.session import (
    Outbox,
    PendingRequest,
    ResponseReceived,
    Session,
    SessionState,
)

from .losing import GREETING, LIMITS, Ready, Reconnect
from .losses import empty, fates, sent

Answer = Callable[..., bytes]
Picture = Callable[[Session], object]


# What becomes of a message


def test_a_request_that_left_fails_and_may_have_arrived(
    session: Session, reconnect: Reconnect
) -> None:
    request = session.request("a.b", 1, **LIMITS)
    assert fates(session.link_lost(None)) == {request: True}
    assert empty(session)
    assert reconnect(session) == []


def test_a_request_that_never_left_fails_and_says_so(
    session: Session, reconnect: Reconnect
) -> None:
    request = session.request("a.b", 1, **LIMITS)
    assert fates(session.link_lost(None, [request.message])) == {request: False}
    assert empty(session)
    assert reconnect(session) == []


@pytest.mark.parametrize("left", [True, False], ids=["it left", "it never left"])
def test_a_request_with_retry_is_sent_again_and_answered_once(
    session: Session, reconnect: Reconnect, answer: Answer, left: bool
) -> None:
    request = session.request("a.b", 1, retry=True, **LIMITS)
    message = request.message
    assert session.link_lost(None, [] if left else [message]) == []
    assert (request.in_outbox, request.sent, session.pending) == (True, left, 1)
    assert sent(reconnect(session)) == [message]
    assert not request.in_outbox
    (event,) = session.receive([answer(request)])
    assert isinstance(event, ResponseReceived)
    assert event.request is request
    assert empty(session)


def test_a_publication_that_left_is_not_sent_again(session: Session, reconnect: Reconnect) -> None:
    session.publish("a.b", 1)
    assert session.link_lost(None) == []
    assert empty(session)
    assert reconnect(session) == []


def test_publications_that_never_left_are_sent_over_the_next_connection_in_order(
    session: Session, reconnect: Reconnect
) -> None:
    messages = [session.publish("a.b", number) for number in range(5)]
    unsent = [message for message in messages[2:] if message is not None]
    assert session.link_lost(None, unsent) == []
    assert len(session.outbox) == 3
    assert session.outbox.used == sum(map(len, unsent))
    session.publish("a.b", 5)
    assert sent(reconnect(session)) == [b"publish:a.b:1.0.0\n%d" % n for n in (2, 3, 4, 5)]
    assert empty(session)


def test_a_confirmed_publication_that_left_fails_and_may_have_arrived(
    session: Session, reconnect: Reconnect
) -> None:
    request = session.publish_confirmed("a.b", 1, **LIMITS)
    assert fates(session.link_lost(None)) == {request: True}
    assert empty(session)
    assert reconnect(session) == []


def test_a_confirmed_publication_that_never_left_waits_with_the_others_in_its_order(
    session: Session, reconnect: Reconnect, answer: Answer
) -> None:
    before = session.publish("a.b", 1)
    request = session.publish_confirmed("a.b", 2, **LIMITS)
    after = session.publish("a.b", 3)
    assert before is not None
    assert after is not None
    messages = [before, request.message, after]
    assert session.link_lost(None, messages) == []
    assert (request.in_outbox, session.pending, len(session.outbox)) == (True, 1, 3)
    assert session.outbox.used == sum(map(len, messages))
    assert sent(reconnect(session)) == messages
    (event,) = session.receive([answer(request)])
    assert isinstance(event, ResponseReceived)
    assert empty(session)


def test_what_never_left_is_known_by_its_identity_not_by_its_bytes(
    session: Session, reconnect: Reconnect
) -> None:
    first, second = session.publish("a.b", 1), session.publish("a.b", 1)
    request = session.request("a.b", 1, **LIMITS)
    confirmed = session.publish_confirmed("a.b", 1, **LIMITS)
    assert first == second
    assert second is not None
    copies = [bytes(bytearray(each.message)) for each in (request, confirmed)]
    events = session.link_lost(None, [second, *copies])
    assert fates(events) == {request: True, confirmed: True}
    (again,) = sent(reconnect(session))
    assert again is second


def test_what_never_left_keeps_its_order_among_all_kinds(
    session: Session, reconnect: Reconnect
) -> None:
    first = session.publish("a.b", 1)
    request = session.request("a.b", 2, retry=True, **LIMITS)
    third = session.publish("a.b", 3)
    assert first is not None
    assert third is not None
    session.link_lost(None, [first, request.message, third])
    assert sent(reconnect(session)) == [first, request.message, third]


def test_answers_and_signs_of_life_that_never_left_are_not_sent_to_the_next_broker(
    ready: Ready, reconnect: Reconnect
) -> None:
    session = ready(heartbeat=5.0)
    replies = sent(session.receive([b"request:system.heartbeat:1.0.0\n{}"]))
    asked = parse_message(b"request:a.b:1.0.0:7a0c7a6e-0000-4000-8000-00000000beef\n{}")
    replies.append(session.respond(asked, 1))
    replies += sent(session.handle_deadline(5.0)) or sent(session.handle_deadline(10.0))
    assert len(replies) == 3
    assert session.link_lost(None, replies) == []
    assert empty(session)
    assert reconnect(session, now=20.0) == []


def test_what_is_cancelled_and_never_left_is_not_sent_again(
    session: Session, reconnect: Reconnect
) -> None:
    requests = [
        session.request("a.b", 1, **LIMITS),
        session.request("a.b", 1, retry=True, **LIMITS),
        session.publish_confirmed("a.b", 1, **LIMITS),
    ]
    for request in requests:
        session.cancel(request)
    assert session.link_lost(None, [request.message for request in requests]) == []
    assert empty(session)
    assert reconnect(session) == []


def test_what_was_answered_before_the_loss_is_complete(
    session: Session, reconnect: Reconnect, answer: Answer
) -> None:
    request = session.request("a.b", 1, retry=True, **LIMITS)
    session.receive([answer(request)])
    assert session.link_lost(None) == []
    assert reconnect(session) == []
    assert empty(session)


def test_a_request_that_waits_and_is_answered_all_the_same_is_complete(
    in_state: Ready, answer: Answer, reconnect: Reconnect
) -> None:
    session = in_state(SessionState.RESTORING, again=True)
    request = session.request("a.b", 1, retry=True, **LIMITS)
    (event,) = session.receive([answer(request)])
    assert isinstance(event, ResponseReceived)
    assert empty(session)
    assert session.restored(0.0) == []


def test_a_table_of_many_requests_is_sorted_out_at_once(
    session: Session, reconnect: Reconnect
) -> None:
    kinds: list[list[PendingRequest]] = [[], [], []]
    for number in range(300):
        kinds[0].append(session.request("a.b", number, **LIMITS))
        kinds[1].append(session.request("a.b", number, retry=True, **LIMITS))
        kinds[2].append(session.publish_confirmed("a.b", number, **LIMITS))
    unsent = [request.message for trio in list(zip(*kinds, strict=True))[200:] for request in trio]
    events = session.link_lost(None, unsent)
    left, unconfirmed = kinds[0], kinds[2]
    expected = {request: number < 200 for number, request in enumerate(left)}
    expected |= dict.fromkeys(unconfirmed[:200], True)
    assert fates(events) == expected
    again = sent(reconnect(session))
    assert len(again) == len(set(again)) == 400
    publications = [message for message in again if message.startswith(b"publish:")]
    assert publications == [request.message for request in unconfirmed[200:]]
    requests = [message for message in again if message.startswith(b"request:")]
    assert requests == [request.message for request in kinds[1]]


# Two losses in a row


def test_a_request_with_retry_is_sent_as_often_as_it_takes(
    session: Session, reconnect: Reconnect, answer: Answer
) -> None:
    request = session.request("a.b", 1, retry=True, now=0.0, timeout=60_000)
    for loss in range(1, 4):
        assert session.link_lost(None) == []
        (again,) = sent(reconnect(session, now=float(loss)))
        assert parse_message(again).request_key == request.request_id
        assert parse_message(again).header.timeout == 60_000 - 1000 * loss
        assert again is request.message
    (event,) = session.receive([answer(request)])
    assert isinstance(event, ResponseReceived)
    assert empty(session)


def test_what_never_left_twice_is_sent_the_third_time(
    session: Session, reconnect: Reconnect
) -> None:
    message = session.publish("a.b", 1)
    confirmed = session.publish_confirmed("a.b", 2, **LIMITS)
    assert message is not None
    for _ in range(2):
        assert session.link_lost(None, [message, confirmed.message]) == []
        assert sent(reconnect(session)) == [message, confirmed.message]
    assert fates(session.link_lost(None)) == {confirmed: True}
    assert reconnect(session) == []


def test_what_left_once_may_have_arrived_though_it_did_not_leave_the_second_time(
    session: Session, reconnect: Reconnect
) -> None:
    request = session.request("a.b", 1, retry=True, **LIMITS)
    session.link_lost(None)
    (again,) = sent(reconnect(session))
    session.link_lost(None, [again])
    assert fates(session.close()) == {request: True}


def test_what_waited_first_is_before_what_is_published_later(
    session: Session, reconnect: Reconnect
) -> None:
    session.link_lost(None)
    for number in range(3):
        session.publish("a.b", number)
    again = sent(reconnect(session))
    later = session.publish("a.b", 3)
    assert later is not None
    session.link_lost(None, [*again[1:], later])
    session.publish("a.b", 4)
    assert sent(reconnect(session)) == [b"publish:a.b:1.0.0\n%d" % n for n in (1, 2, 3, 4)]


# A full outbox


def test_what_does_not_fit_is_refused_and_changes_nothing(
    in_state: Ready, picture: Picture, reconnect: Reconnect
) -> None:
    session = in_state(SessionState.LOST, again=True, outbox=Outbox(150))
    session.publish("a.b", "x" * 100)
    before = picture(session)
    for call in (
        lambda: session.publish("a.b", "x" * 100),
        lambda: session.publish_confirmed("a.b", 1, **LIMITS),
    ):
        with pytest.raises(ConnectionLost) as full:
            call()
        assert not full.value.sent
        assert picture(session) == before
    session.request("a.b", "x" * 1000, retry=True, **LIMITS)  # its caller waits for it
    assert len(sent(reconnect(session))) == 2


def test_the_oldest_are_dropped_but_none_that_somebody_waits_for(
    in_state: Ready, reconnect: Reconnect
) -> None:
    session = in_state(SessionState.LOST, again=True, outbox=Outbox(150, "drop_oldest"))
    confirmed = session.publish_confirmed("a.b", 0, **LIMITS)
    for number in range(20):
        session.publish("a.b", number)
    assert session.outbox.used <= 150
    again = sent(reconnect(session))
    assert again[0] == confirmed.message
    kept = 20 - session.outbox.dropped
    assert again[1:] == [b"publish:a.b:1.0.0\n%d" % n for n in range(20 - kept, 20)]
    assert 0 < kept < 20


def test_a_full_outbox_takes_what_never_left(session: Session, ready: Ready) -> None:
    session = ready(outbox=Outbox(40))
    message = session.publish("a.b", "x" * 100)
    assert message is not None
    session.link_lost(None, [message])
    assert (len(session.outbox), session.outbox.used) == (1, len(message))
    with pytest.raises(ConnectionLost):
        session.publish("a.b", 1)


# Cancelling


@pytest.mark.parametrize(
    "state",
    [
        SessionState.LOST,
        SessionState.GREETING,
        SessionState.RESTORING,
        SessionState.READY,
        SessionState.CLOSED,
    ],
)
@pytest.mark.parametrize("begun", ["before the loss", "after it"])
@pytest.mark.parametrize("call", ["request", "publish_confirmed", "register"])
def test_what_is_cancelled_leaves_nothing_behind_in_any_state(
    session: Session, reconnect: Reconnect, state: SessionState, begun: str, call: str
) -> None:
    def begin() -> PendingRequest:
        if call == "request":
            return session.request("a.b", 1, retry=True, now=0.0, timeout=60_000)
        if call == "register":
            return session.register("name", "text", now=0.0, timeout=60_000)
        return session.publish_confirmed("a.b", 1, now=0.0, timeout=60_000)

    request = begin() if begun == "before the loss" else None
    session.link_lost(None, [request.message] if request is not None else [])
    if request is None:
        request = begin()
    session.publish("c.d", 1)
    if state is SessionState.READY:
        assert len(reconnect(session)) == 2
    elif state is SessionState.CLOSED:
        session.close()
    elif state is not SessionState.LOST:
        session.link_up()
        if state is SessionState.RESTORING:
            session.receive([GREETING])
    assert session.state is state
    for _ in range(2):
        session.cancel(request)
        assert session.pending == 0
        assert session.outbox.requests == []
        assert session.next_deadline() is None
    if session.outbox:
        assert session.outbox.used == len(b"publish:c.d:1.0.0\n1")
    if state is not SessionState.CLOSED:
        if state is not SessionState.LOST:
            session.link_lost(None)
        again = sent(reconnect(session))
        assert again == ([] if state is SessionState.READY else [b"publish:c.d:1.0.0\n1"])
        assert empty(session)
