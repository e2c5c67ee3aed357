"""Requests on their way: by id, by client, by deadline; and their limit."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mb_broker.outstanding_requests import Outstanding, OutstandingRequests
from mb_broker.registry import Service
from mb_core.header import Action, HeaderPrefix

PREFIX = HeaderPrefix(Action.REQUEST, "a.b", "1.0.0")


def id_of(number: int) -> str:
    return f"123e4567-e89b-42d3-a456-{number:012}"


def service() -> Service:
    return Service(connected_at=0.0)


def make(number: int, responder: Service, requester: Service | None = None) -> Outstanding:
    return Outstanding(id_of(number).encode(), PREFIX, requester, b"", responder)


# The table


def test_a_request_is_found_by_its_id_and_its_responder_only() -> None:
    table, responder = OutstandingRequests(10), service()
    request = make(1, responder)
    table.add(request, 5.0)
    assert table.find(request.id, responder) is request
    assert table.find(request.id, service()) is None
    assert table.find(id_of(2).encode(), responder) is None
    assert table.find(None, responder) is None


def test_room_is_made_by_the_oldest_of_whoever_waits_for_most() -> None:
    table, responder = OutstandingRequests(4), service()
    modest, greedy, other = service(), service(), service()
    first = make(0, responder, modest)
    many = [make(n, responder, greedy) for n in range(1, 4)]
    for request, deadline in zip([first, *many], (1.0, 9.0, 2.0, 5.0), strict=True):
        assert not table.full
        table.add(request, deadline)
    assert table.full
    assert table.make_room(other) is many[0]
    table.add(make(4, responder, other), 5.0)
    assert table.make_room(modest) is many[1]
    # All have one now: it is the asker's own.
    table.add(make(5, responder, other), 5.0)
    table.remove(many[2])
    table.add(make(6, responder, modest), 5.0)
    assert [len(each.asked) for each in (modest, greedy, other)] == [2, 0, 2]
    assert table.make_room(modest) is first
    assert len(table) == 3


def test_room_is_first_made_by_requests_whose_requester_is_gone() -> None:
    table, responder = OutstandingRequests(4), service()
    gone, greedy = service(), service()
    left = [make(n, responder, gone) for n in range(2)]
    many = [make(n, responder, greedy) for n in range(2, 4)]
    for request in [*left, *many]:
        table.add(request, 5.0)
    table.requester_left(gone)
    assert (len(table), table.full) == (2, True)
    assert [table.make_room(service()) for _ in range(3)] == [*left, many[0]]
    assert len(table) == 1


class Fairness(RuleBasedStateMachine):
    """The table against a plain count, with clients that come, ask, are answered and leave."""

    LIMIT = 12

    def __init__(self) -> None:
        super().__init__()
        self.table = OutstandingRequests(self.LIMIT)
        self.responder = service()
        self.clients = [service() for _ in range(4)]
        self.waiting: list[tuple[Service, Outstanding]] = []
        self.gone: list[Outstanding] = []
        self.numbers = itertools.count()

    @rule(which=st.integers(0, 3), times=st.integers(1, 8))
    def ask(self, which: int, times: int) -> None:
        asker = self.clients[which]
        for _ in range(times):
            if self.table.full:
                self.expect_fair(asker, self.table.make_room(asker))
            request = make(next(self.numbers), self.responder, asker)
            self.table.add(request, 5.0)
            self.waiting.append((asker, request))

    def expect_fair(self, asker: Service, victim: Outstanding) -> None:
        if self.gone:
            assert victim is self.gone.pop(0)
            return
        counts = Counter(map(id, (client for client, _ in self.waiting)))
        owner = victim.requester
        assert owner is not None
        assert counts[id(owner)] == max(counts.values())
        assert owner is asker or counts[id(asker)] < counts[id(owner)]
        assert victim is next(request for client, request in self.waiting if client is owner)
        self.waiting.remove((owner, victim))

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        found = data.draw(st.sampled_from(self.waiting))
        self.waiting.remove(found)
        self.table.remove(found[1])

    @rule(which=st.integers(0, 3))
    def leave(self, which: int) -> None:
        client, self.clients[which] = self.clients[which], service()
        self.table.requester_left(client)
        self.gone += [request for owner, request in self.waiting if owner is client]
        self.waiting = [each for each in self.waiting if each[0] is not client]

    @invariant()
    def the_table_has_what_waits(self) -> None:
        assert len(self.table) == len(self.waiting)
        assert self.table.full == (len(self.waiting) + len(self.gone) == self.LIMIT)


TestFairness = Fairness.TestCase


def test_services_know_what_they_ask_and_answer_until_it_is_forgotten() -> None:
    table, requester, responder = OutstandingRequests(10), service(), service()
    request = make(1, responder, requester)
    table.add(request, 5.0)
    assert list(requester.asked) == list(responder.answering) == [request]
    table.remove(request)
    assert not requester.asked
    assert not responder.answering
    assert table.next_deadline() is None
    assert len(table) == 0


def test_a_service_that_asks_itself_is_both(bench: Any) -> None:
    table, both = OutstandingRequests(10), service()
    request = make(1, both, both)
    table.add(request, 5.0)
    table.remove(request)
    assert not both.asked
    assert not both.answering


def test_an_abandoned_request_is_still_answered_and_still_ends() -> None:
    table, requester, responder = OutstandingRequests(10), service(), service()
    requests = [make(n, responder, requester) for n in range(3)]
    for request in requests:
        table.add(request, 5.0)
    table.requester_left(requester)
    assert not requester.asked
    assert [request.requester for request in requests] == [None] * 3
    table.remove(requests[0])
    assert table.take_due(5.0) == requests[1:]
    assert not responder.answering
    assert len(table) == 0


def test_what_is_due_is_taken_in_the_order_of_deadlines() -> None:
    table, responder = OutstandingRequests(10), service()
    requests = [make(n, responder) for n in range(4)]
    for request, deadline in zip(requests, (3.0, 1.0, 2.0, 4.0), strict=True):
        table.add(request, deadline)
    assert table.next_deadline() == 1.0
    assert table.take_due(0.9) == []
    assert table.take_due(3.0) == [requests[1], requests[2], requests[0]]
    assert table.next_deadline() == 4.0


# The limit, as the Router has it


def asked(bench: Any, requester: Any, numbers: range) -> None:
    requester.send(*(f"request:a.b:1.0.0:{id_of(n)}\n{n}" for n in numbers))


def test_at_the_limit_all_wait_and_one_more_fails_the_oldest(
    new_bench: Callable[..., Any],
) -> None:
    bench = new_bench(max_outstanding=3)
    requester, responder = bench.join(), bench.join().subscribe("a.b", "request")
    asked(bench, requester, range(3))
    assert requester.take() == []
    asked(bench, requester, range(3, 4))
    header, _, payload = requester.take_one().partition(b"\n")
    assert header == f"response:a.b:1.0.0:{id_of(0)}".encode()
    error = json.loads(payload)["error"]
    assert error["code"] == "SERVICE_UNAVAILABLE"
    assert error["message"] == "more than 3 requests are outstanding (max_outstanding)"
    assert len(responder.take()) == 4
    assert bench.router.outstanding == 3


def test_the_default_limit_is_ten_thousand(bench: Any) -> None:
    requester = bench.join()
    bench.join().subscribe("a.b", "request")
    asked(bench, requester, range(10_000))
    assert requester.take() == []
    asked(bench, requester, range(10_000, 10_050))
    answers = requester.take()
    assert [answer.partition(b"\n")[0].decode().split(":")[3] for answer in answers] == [
        id_of(n) for n in range(50)
    ]
    assert bench.router.outstanding == 10_000


def test_what_failed_is_answered_too_late_and_what_waits_is_not(
    new_bench: Callable[..., Any],
) -> None:
    bench = new_bench(max_outstanding=1)
    requester, responder = bench.join(), bench.join().subscribe("a.b", "request")
    asked(bench, requester, range(2))
    requester.take()
    first, second = (m.partition(b"\n")[0].decode().split(":")[3] for m in responder.take())
    responder.send(f"response:a.b:1.0.0:{first}\n1")
    assert responder.take_error()["code"] == "INVALID_REQUEST_ID"
    responder.send(f"response:a.b:1.0.0:{second}\n2")
    assert requester.take_one() == f"response:a.b:1.0.0:{id_of(1)}\n2".encode()


def test_each_of_several_requesters_hears_of_its_own(new_bench: Callable[..., Any]) -> None:
    bench = new_bench(max_outstanding=2)
    one, other = bench.join(), bench.join()
    bench.join().subscribe("a.b", "request")
    asked(bench, one, range(2))
    asked(bench, other, range(2, 5))
    failed = {peer: [m.split(b":")[3][:36].decode() for m in peer.take()] for peer in (one, other)}
    # The second time each of them has one: the asker makes room for itself.
    assert failed == {one: [id_of(0)], other: [id_of(2), id_of(3)]}


def test_a_flood_fails_its_own_requests_and_nobody_elses(new_bench: Callable[..., Any]) -> None:
    bench = new_bench(max_outstanding=10)
    quiet, flood = bench.join(), bench.join()
    bench.join().subscribe("a.b", "request")
    asked(bench, quiet, range(3))
    asked(bench, flood, range(3, 100))
    asked(bench, quiet, range(100, 102))
    assert quiet.take() == []
    assert len(flood.take()) == 92


def test_requests_of_clients_that_are_gone_are_not_waited_for_and_still_answered(
    bench: Any,
) -> None:
    requester, responder = bench.join(), bench.join().subscribe("a.b", "request")
    asked(bench, requester, range(2))
    requester.leave()
    assert bench.router.outstanding == 0
    ids = [m.partition(b"\n")[0].decode().split(":")[3] for m in responder.take()]
    responder.send(f"response:a.b:1.0.0:{ids[0]}\n1")
    assert responder.take() == []


@pytest.mark.parametrize("how", ["without an id", "its requester left"])
def test_an_oldest_for_which_nobody_waits_goes_without_a_word(
    how: str, new_bench: Callable[..., Any]
) -> None:
    bench = new_bench(max_outstanding=1)
    first, second = bench.join(), bench.join()
    bench.join().subscribe("a.b", "request")
    if how == "without an id":
        first.send("request:a.b:1.0.0\n{}")
    else:
        asked(bench, first, range(1))
        first.leave()
    asked(bench, second, range(1, 2))
    assert first.take() == second.take() == []
    assert bench.router.outstanding == 1


def test_an_answered_request_makes_room(new_bench: Callable[..., Any]) -> None:
    bench = new_bench(max_outstanding=1)
    requester, responder = bench.join(), bench.join().subscribe("a.b", "request")
    for n in range(5):
        asked(bench, requester, range(n, n + 1))
        broker_id = responder.take_one().partition(b"\n")[0].decode().split(":")[3]
        responder.send(f"response:a.b:1.0.0:{broker_id}\n{n}")
        assert requester.take_one().endswith(b"\n%d" % n)
    assert bench.router.metrics.request_dropped.total == 0


def test_the_log_names_the_limit_once_a_second_and_the_metrics_count_all(
    new_bench: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    bench = new_bench(max_outstanding=1, request_timeout=100.0)
    requester = bench.join()
    bench.join().subscribe("a.b", "request")

    def entries() -> list[str]:
        return [r.getMessage() for r in caplog.records if "max_outstanding" in r.getMessage()]

    asked(bench, requester, range(100))
    text = (
        "a request to a.b failed: more than 1 requests are outstanding (max_outstanding); "
        f"{requester.id} had 1 of them"
    )
    assert entries() == [text]
    bench.advance(0.9)
    asked(bench, requester, range(100, 200))
    assert entries() == [text]
    bench.advance(0.1)
    asked(bench, requester, range(200, 300))
    assert entries() == [text, f"{text} (and 198 more like this)"]
    assert bench.router.metrics.request_dropped.total == 299


def test_however_they_end_nothing_is_left(new_bench: Callable[..., Any]) -> None:
    bench = new_bench(max_outstanding=5, request_timeout=1.0)
    requester, responder = bench.join(), bench.join().subscribe("a.b", "request")
    asked(bench, requester, range(12))
    ids = [m.partition(b"\n")[0].decode().split(":")[3] for m in responder.take()]
    responder.send(f"response:a.b:1.0.0:{ids[-1]}\n{{}}")
    bench.advance(1)
    ends = Counter(
        json.loads(m.partition(b"\n")[2]).get("error", {}).get("code") for m in requester.take()
    )
    assert ends == {"SERVICE_UNAVAILABLE": 7, "TIMEOUT": 4, None: 1}
    assert bench.router.outstanding == 0
    assert not requester.service.asked
    assert not responder.service.answering


# Time limits, told to who asks for them


def asked_with_timeouts(bench: Any, request: str, *, wanted: bool = True) -> bytes:
    """What a responder gets of `request`, where it has said in a heartbeat what it wants."""
    requester, responder = bench.join(), bench.join()
    responder.subscribe("a.#", "request")
    if wanted:
        responder.ask("heartbeat", {"timeouts": True})
    requester.send(request)
    message: bytes = responder.take_one()
    return message


def test_who_says_so_in_a_heartbeat_is_told_the_time_limit_of_a_request(bench: Any) -> None:
    message = asked_with_timeouts(bench, f"request:a.b:1.0.0:{id_of(1)}::900\n{{}}")
    assert re.fullmatch(rb"request:a\.b:1\.0\.0:[0-9a-f-]{36}::900\n\{\}", message)


def test_where_the_requester_named_none_it_is_the_brokers(new_bench: Callable[..., Any]) -> None:
    bench = new_bench(request_timeout=2.5)
    message = asked_with_timeouts(bench, f"request:a.b:1.0.0:{id_of(1)}\n{{}}")
    assert message.startswith(b"request:a.b:1.0.0:")
    assert message.endswith(b"::2500\n{}")


def test_no_time_limit_loses_a_millisecond_on_the_way(bench: Any) -> None:
    requester, responder = bench.join(), bench.join()
    responder.subscribe("a.b", "request")
    responder.ask("heartbeat", {"timeouts": True})
    limits = [*range(1, 3_000), 3_599_999, 3_600_000]
    for limit in limits:
        requester.send(f"request:a.b:1.0.0:{id_of(limit)}::{limit}\n{{}}")
    told = [int(message.partition(b"\n")[0].rpartition(b":")[2]) for message in responder.take()]
    assert told == limits


def test_who_did_not_say_so_is_told_none(bench: Any) -> None:
    request = f"request:a.b:1.0.0:{id_of(1)}::900\n{{}}"
    message = asked_with_timeouts(bench, request, wanted=False)
    assert re.fullmatch(rb"request:a\.b:1\.0\.0:[0-9a-f-]{36}\n\{\}", message)


def test_a_header_that_has_no_room_for_it_goes_without(bench: Any) -> None:
    topic, version = f"a.{'b' * 61}", f"1.0.0-{'x' * 245}"
    request = f"request:{topic}:{version}:{id_of(1)}::9\n{{}}"
    assert len(request) <= 367
    message = asked_with_timeouts(bench, request)
    assert re.fullmatch(rb"request:a\.b+:1\.0\.0-x+:[0-9a-f-]{36}\n\{\}", message)
