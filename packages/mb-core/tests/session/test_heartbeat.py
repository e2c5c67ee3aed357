"""Whether the other side is alive: when it is asked, when it is given up, and when not."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mb_core.message import parse_message
from mb_core.session import PeerSilent, RequestFailed, SendNow, Session, SessionState, Unmatched
from mb_core.session.heartbeat import Heartbeat, HeartbeatAction

MakeSession = Callable[..., Session]


def started(interval: float | None = 10.0, now: float = 100.0) -> Heartbeat:
    liveness = Heartbeat(interval)
    liveness.start(now)
    return liveness


# Alone


def test_it_looks_after_each_interval_of_the_start() -> None:
    liveness = started()
    assert liveness.next_check == 110.0
    liveness.received = True
    assert liveness.check(110.0) is HeartbeatAction.NOTHING
    assert liveness.next_check == 120.0


def test_after_an_interval_of_silence_it_asks_and_after_another_it_gives_up() -> None:
    liveness = started()
    assert liveness.check(110.0) is HeartbeatAction.ASK
    assert liveness.next_check == 120.0
    assert liveness.check(120.0) is HeartbeatAction.GIVE_UP
    assert liveness.next_check is None


def test_it_gives_up_once() -> None:
    liveness = started()
    liveness.check(110.0)
    liveness.check(120.0)
    assert liveness.check(130.0) is HeartbeatAction.NOTHING
    assert liveness.next_check is None


@pytest.mark.parametrize("now", [0.0, 100.0, 109.999])
def test_a_look_before_its_time_changes_nothing(now: float) -> None:
    liveness = started()
    assert liveness.check(now) is HeartbeatAction.NOTHING
    assert liveness.next_check == 110.0
    assert liveness.check(110.0) is HeartbeatAction.ASK


def test_whatever_is_heard_counts_for_one_interval() -> None:
    liveness = started()
    liveness.received = True
    assert liveness.check(110.0) is HeartbeatAction.NOTHING
    assert liveness.check(120.0) is HeartbeatAction.ASK


def test_what_is_heard_after_the_question_is_its_answer() -> None:
    liveness = started()
    assert liveness.check(110.0) is HeartbeatAction.ASK
    liveness.received = True
    assert liveness.check(120.0) is HeartbeatAction.NOTHING
    assert liveness.check(130.0) is HeartbeatAction.ASK  # from the beginning
    assert liveness.check(140.0) is HeartbeatAction.GIVE_UP


def test_what_moves_is_alive_though_nothing_is_whole() -> None:
    liveness = Heartbeat(10.0)
    liveness.start(100.0, 7)
    assert liveness.check(110.0, 8) is HeartbeatAction.NOTHING
    assert liveness.check(120.0, 8) is HeartbeatAction.ASK
    assert liveness.check(130.0, 9) is HeartbeatAction.NOTHING
    assert liveness.check(140.0, 9) is HeartbeatAction.ASK
    assert liveness.check(150.0, 9) is HeartbeatAction.GIVE_UP


def test_what_moved_before_the_start_does_not_count() -> None:
    liveness = Heartbeat(10.0)
    liveness.start(100.0, 7)
    assert liveness.check(110.0, 7) is HeartbeatAction.ASK
    liveness.start(200.0, 3)  # of another Link
    assert liveness.check(210.0, 3) is HeartbeatAction.ASK


def test_a_late_question_is_given_a_whole_interval_for_its_answer() -> None:
    liveness = started()
    assert liveness.check(500.0) is HeartbeatAction.ASK
    assert liveness.check(509.9) is HeartbeatAction.NOTHING
    assert liveness.check(510.0) is HeartbeatAction.GIVE_UP


def test_who_comes_too_late_to_have_heard_an_answer_does_not_give_up() -> None:
    liveness = started()
    assert liveness.check(110.0) is HeartbeatAction.ASK
    assert liveness.check(125.1) is HeartbeatAction.NOTHING
    assert liveness.next_check == 135.1
    assert liveness.check(135.1) is HeartbeatAction.GIVE_UP


def test_who_comes_a_little_late_gives_up() -> None:
    liveness = started()
    assert liveness.check(110.0) is HeartbeatAction.ASK
    assert liveness.check(124.9) is HeartbeatAction.GIVE_UP


def test_the_answer_that_is_read_after_a_late_look_is_in_time() -> None:
    liveness = started()
    assert liveness.check(110.0) is HeartbeatAction.ASK
    assert liveness.check(200.0) is HeartbeatAction.NOTHING
    liveness.received = True
    assert liveness.check(210.0) is HeartbeatAction.NOTHING
    assert liveness.check(220.0) is HeartbeatAction.ASK


def test_a_start_forgets_what_was_before() -> None:
    liveness = started()
    liveness.check(110.0)
    liveness.received = True
    liveness.start(500.0)
    assert liveness.check(510.0) is HeartbeatAction.ASK
    assert liveness.check(520.0) is HeartbeatAction.GIVE_UP
    liveness.start(600.0)
    assert liveness.check(610.0) is HeartbeatAction.ASK


def test_a_stop_ends_it() -> None:
    liveness = started()
    liveness.stop()
    assert liveness.next_check is None
    assert liveness.check(1e9) is HeartbeatAction.NOTHING
    assert liveness.next_check is None


def test_without_an_interval_it_never_looks() -> None:
    liveness = started(None)
    assert liveness.next_check is None
    assert liveness.check(1e9) is HeartbeatAction.NOTHING


@given(st.lists(st.tuples(st.sampled_from([0.1, 0.5, 1.0, 1.4, 3.0]), st.booleans()), max_size=60))
def test_nobody_is_given_up_who_was_heard_of_since_the_question_or_was_asked_just_now(
    plan: list[tuple[float, bool]],
) -> None:
    """Each step: time passes, something may be heard, then there is a look."""
    interval, now = 1.0, 50.0
    liveness = started(interval, now)
    asked_at: float | None = None
    heard_at = now
    for seconds, heard in plan:
        now += seconds
        if heard:
            liveness.received = True
            heard_at = now
        sign = liveness.check(now)
        if sign is HeartbeatAction.ASK:
            assert now - heard_at >= interval - 1e-9  # times are sums
            asked_at = now
        elif sign is HeartbeatAction.GIVE_UP:
            assert asked_at is not None
            assert heard_at < asked_at
            assert now - asked_at >= interval - 1e-9
            return


@given(st.floats(0, 20), st.floats(0.05, 100))
def test_a_dead_side_is_found_within_three_intervals_of_its_last_word(
    intervals: float, interval: float
) -> None:
    liveness = started(interval, 0.0)
    last_word = intervals * interval
    signs: list[HeartbeatAction] = []
    now = 0.0
    while liveness.next_check is not None:
        liveness.received |= last_word > now
        now = liveness.next_check
        signs.append(liveness.check(now))
    assert signs[-2:] == [HeartbeatAction.ASK, HeartbeatAction.GIVE_UP]
    assert set(signs[:-2]) <= {HeartbeatAction.NOTHING}
    assert interval < now - last_word <= 3 * interval + 1e-6


# In a Session


def silent_at(session: Session, *times: float) -> list[str]:
    """What `handle_deadline` gives at these times, in words."""
    words = {SendNow: "asks", PeerSilent: "gives up"}
    return ["+".join(words[type(event)] for event in session.handle_deadline(now)) for now in times]


def test_a_silent_connection_is_asked_and_then_given_up(ready: MakeSession) -> None:
    session = ready(heartbeat=5.0)
    assert session.next_deadline() == 5.0
    (asked,) = session.handle_deadline(5.0)
    assert isinstance(asked, SendNow)
    message = parse_message(asked.message)
    assert (message.header.action, message.topic) == ("request", "system.heartbeat")
    assert message.header.timeout == 5000
    assert message.request_id is not None
    assert message.payload == {}
    assert session.pending == 0
    assert session.next_deadline() == 10.0
    assert session.handle_deadline(10.0) == [PeerSilent()]
    assert session.next_deadline() is None
    assert session.handle_deadline(1e9) == []
    assert session.state is SessionState.READY  # to end the Link is the driver's


@pytest.mark.parametrize(
    "message",
    [
        b"request:system.heartbeat:1.0.0\n{}",
        b"publish:nobody.cares:1.0.0\n{}",
        b"publish:system.initialize:1.0.0\n{}",
        b"garbage",
    ],
    ids=["heartbeat", "publication", "greeting", "garbage"],
)
def test_any_message_at_all_is_a_sign_of_life(ready: MakeSession, message: bytes) -> None:
    session = ready(heartbeat=5.0)
    session.receive([message])
    assert silent_at(session, 5.0, 10.0) == ["", "asks"]
    session.receive([message])
    assert silent_at(session, 15.0, 20.0, 25.0) == ["", "asks", "gives up"]


def test_the_answer_to_the_question_completes_nothing(
    ready: MakeSession, answer: Callable[..., bytes]
) -> None:
    session = ready(heartbeat=5.0)
    request = session.request("a.b", {}, now=0.0, timeout=60_000)
    (asked,) = session.handle_deadline(5.0)
    assert isinstance(asked, SendNow)
    asked_id = parse_message(asked.message).request_key
    assert asked_id is not None
    (event,) = session.receive([b"response:system.heartbeat:1.0.0:%b\n{}" % asked_id])
    assert isinstance(event, Unmatched)
    assert event.error is None
    assert silent_at(session, 10.0) == [""]
    assert session.pending == 1
    session.cancel(request)


def test_each_question_has_an_id_of_its_own(ready: MakeSession) -> None:
    session = ready(heartbeat=1.0)
    questions = []
    for second in range(1, 10):
        for event in session.handle_deadline(float(second)):
            assert isinstance(event, SendNow)
            questions.append(event.message)
            session.receive([b"garbage"])
    assert len(questions) == 5
    assert len(set(questions)) == 5


def test_deadlines_and_looks_share_one_clock(ready: MakeSession) -> None:
    session = ready(heartbeat=5.0, margin=0.0)
    early = session.request("a.b", {}, now=0.0, timeout=3000)
    late = session.request("a.b", {}, now=0.0, timeout=7000)
    due = [3.0, 5.0, 7.0, 10.0]
    events = []
    for when in due:
        assert session.next_deadline() == when
        events += session.handle_deadline(when)
    assert [type(event) for event in events] == [RequestFailed, SendNow, RequestFailed, PeerSilent]
    assert [event.request for event in events if isinstance(event, RequestFailed)] == [early, late]


def test_one_call_may_fail_a_request_and_ask(ready: MakeSession) -> None:
    session = ready(heartbeat=5.0, margin=0.0)
    session.request("a.b", {}, now=0.0, timeout=1000)
    assert [type(event) for event in session.handle_deadline(60.0)] == [RequestFailed, SendNow]


def test_a_session_that_was_not_served_gives_nobody_up_for_it(ready: MakeSession) -> None:
    """The program has kept its event loop busy: what came meanwhile is not read yet."""
    session = ready(heartbeat=5.0)
    assert silent_at(session, 5.0, 300.0) == ["asks", ""]
    session.receive([b"response:system.heartbeat:1.0.0\n{}"])
    assert silent_at(session, 305.0, 310.0, 315.0) == ["", "asks", "gives up"]


@pytest.mark.parametrize(
    "state",
    [each for each in SessionState if each is not SessionState.READY],
    ids=lambda state: state.name,
)
@pytest.mark.parametrize("again", [False, True], ids=["first", "again"])
def test_only_a_ready_connection_is_watched(
    in_state: MakeSession, state: SessionState, again: bool
) -> None:
    if state is SessionState.OFFLINE:
        again = False
    session = in_state(state, again=again, heartbeat=5.0)
    assert session.next_deadline() is None
    assert session.handle_deadline(1e9) == []


@pytest.mark.parametrize("end", ["link_lost", "close"])
def test_the_end_of_a_connection_ends_the_watch_and_the_next_begins_it_afresh(
    ready: MakeSession, reconnect: Callable[..., object], end: str
) -> None:
    session = ready(heartbeat=5.0)
    assert silent_at(session, 5.0) == ["asks"]
    if end == "close":
        session.close()
        assert session.next_deadline() is None
        return
    session.link_lost(None)
    assert session.next_deadline() is None
    reconnect(session, now=100.0)
    assert session.next_deadline() == 105.0
    assert silent_at(session, 105.0, 110.0) == ["asks", "gives up"]


def test_a_message_that_takes_long_is_no_silence(ready: MakeSession) -> None:
    session = ready(heartbeat=5.0)
    for number in range(1, 10):
        assert session.handle_deadline(number * 5.0, progress=number) == []
    assert [type(e) for e in session.handle_deadline(50.0, progress=9)] == [SendNow]
    assert [type(e) for e in session.handle_deadline(55.0, progress=9)] == [PeerSilent]


@pytest.mark.parametrize("interval", [0.001, 0.05, 1.0, 3600.0])
def test_the_question_has_a_time_limit_that_the_wire_allows(
    ready: MakeSession, interval: float
) -> None:
    session = ready(heartbeat=interval)
    (asked,) = session.handle_deadline(interval)
    assert isinstance(asked, SendNow)
    assert parse_message(asked.message).header.timeout == int(interval * 1000)


def test_a_connection_that_is_heard_of_is_never_asked(ready: MakeSession) -> None:
    session = ready(heartbeat=5.0)
    times = [5.0 * n for n in range(1, 50)]
    for before, now in pairwise([0.0, *times]):
        session.receive([b"request:system.heartbeat:1.0.0\n{}"])
        assert session.next_deadline() == now > before
        assert session.handle_deadline(now) == []
