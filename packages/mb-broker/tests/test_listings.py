"""Long lists: kept from one question to the next, and given page by page."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import chain
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from mb_broker.listings import JsonList, PageRequest, read_page_request
from mb_core import InvalidRequestError

PLENTY = 1_000_000


def numbers(entries: dict[int, str]) -> JsonList[int]:
    return JsonList(lambda: list(entries), entries.get, str, int)


def all_pages(listing: JsonList[int], limit: int | None, max_size: int = PLENTY) -> list[list[str]]:
    pages = []
    after: str | None = None
    while True:
        answer = json.loads(listing.answer("found", PageRequest(limit, after), max_size))
        pages.append(answer.pop("found"))
        after = answer.pop("next", None)
        assert not answer
        if after is None:
            return pages


def test_without_a_page_it_is_all_in_the_order_of_keys() -> None:
    listing = numbers({3: "c", 1: "a", 2: "\N{SNOWMAN}"})
    assert json.loads(listing.answer("found", PageRequest(), PLENTY)) == {
        "found": ["a", "\N{SNOWMAN}", "c"]
    }
    assert numbers({}).answer("found", PageRequest(), PLENTY) == b'{"found":[]}'


def test_the_same_bytes_are_given_until_something_changes() -> None:
    reads: list[int] = []
    entries = {1: "a", 2: "b"}

    def read(key: int) -> str | None:
        reads.append(key)
        return entries.get(key)

    listing = JsonList(lambda: list(entries), read, str, int)
    listing.invalidate(1)  # nobody has asked yet
    for _ in range(3):
        listing.answer("found", PageRequest(), PLENTY)
    assert sorted(reads) == [1, 2]
    reads.clear()
    entries[2] = "B"
    listing.invalidate(2)
    assert listing.answer("found", PageRequest(), PLENTY) == b'{"found":["a","B"]}'
    assert reads == [2]


def test_pages_have_each_entry_once_and_the_last_has_no_mark() -> None:
    listing = numbers({n: f"entry {n}" for n in range(7)})
    assert [len(page) for page in all_pages(listing, 3)] == [3, 3, 1]
    assert [len(page) for page in all_pages(listing, 7)] == [7]
    assert [*chain.from_iterable(all_pages(listing, 2))] == [f"entry {n}" for n in range(7)]


def test_a_page_goes_on_behind_an_entry_that_is_gone() -> None:
    entries = {n: f"entry {n}" for n in range(4)}
    listing = numbers(entries)
    first = json.loads(listing.answer("found", PageRequest(2), PLENTY))
    for gone in (0, 1):
        del entries[gone]
        listing.invalidate(gone)
    second = json.loads(listing.answer("found", PageRequest(2, first["next"]), PLENTY))
    assert second == {"found": ["entry 2", "entry 3"]}


def test_a_page_ends_before_it_is_too_large() -> None:
    listing = numbers(dict.fromkeys(range(10), "x" * 400))
    assert [len(page) for page in all_pages(listing, 10, 1100)] == [2, 2, 2, 2, 2]
    with pytest.raises(InvalidRequestError, match=r"with limit \(a number of entries") as failed:
        listing.answer("found", PageRequest(), 1100)
    assert failed.value.details == {"size": 4030, "maxSize": 1100}
    with pytest.raises(InvalidRequestError, match="would have 402 bytes"):
        listing.answer("found", PageRequest(10), 500)


@pytest.mark.parametrize("after", ["", "x", "1 2", "\ud800"])
def test_what_is_no_mark_is_refused(after: str) -> None:
    with pytest.raises(InvalidRequestError, match="expected the value of next"):
        numbers({1: "a"}).answer("found", PageRequest(1, after), PLENTY)


@pytest.mark.parametrize("limit", [0, -1, 1.5, True, "10", [1]])
def test_a_limit_is_a_whole_number(limit: Any) -> None:
    with pytest.raises(InvalidRequestError, match="invalid limit"):
        read_page_request({"limit": limit})


def test_a_mark_is_a_text() -> None:
    assert read_page_request({"limit": 5, "after": "x", "other": 1}) == PageRequest(5, "x")
    assert read_page_request({"limit": None}) == PageRequest()
    with pytest.raises(InvalidRequestError, match="invalid after"):
        read_page_request({"after": 5})


class Kept(RuleBasedStateMachine):
    """What is kept equals what would be made from scratch."""

    def __init__(self) -> None:
        super().__init__()
        self.entries: dict[int, str] = {}
        self.listing = numbers(self.entries)

    @rule(keys=st.lists(st.integers(0, 500), max_size=100), text=st.text(max_size=3))
    def put(self, keys: list[int], text: str) -> None:
        for key in keys:
            self.entries[key] = text
            self.listing.invalidate(key)

    @rule(keys=st.lists(st.integers(0, 500), max_size=100))
    def take(self, keys: list[int]) -> None:
        for key in keys:
            self.entries.pop(key, None)
            self.listing.invalidate(key)

    @rule(
        steps=st.lists(
            st.tuples(st.lists(st.integers(0, 20)), st.none() | st.text(max_size=3)), max_size=5
        ),
        some=st.integers(1, 3000),
    )
    def bring_up_to_date_little_by_little(
        self, steps: list[tuple[list[int], str | None]], some: int
    ) -> None:
        for keys, text in steps:
            if text is None:
                self.take(keys)
            else:
                self.put(keys, text)
            self.listing.update(some)

    @rule(limit=st.integers(1, 50))
    def page(self, limit: int) -> None:
        found = [*chain.from_iterable(all_pages(self.listing, limit))]
        assert found == [self.entries[key] for key in sorted(self.entries)]

    @invariant()
    def all_at_once(self) -> None:
        found = json.loads(self.listing.answer("found", PageRequest(), PLENTY))["found"]
        assert found == [self.entries[key] for key in sorted(self.entries)]


TestKept = Kept.TestCase


def test_many_changes_are_taken_over_little_by_little() -> None:
    entries = dict.fromkeys(range(1000), "x" * 100)
    listing = numbers(entries)
    rounds = 1
    while not listing.update(10_000):
        rounds += 1
    assert rounds > 5
    assert listing.update(0)
    assert len(json.loads(listing.answer("found", PageRequest(), PLENTY))["found"]) == 1000


# As the Router answers


@pytest.mark.parametrize("topic", ["topic.list", "topic.subscriptions"])
def test_a_list_that_has_changed_much_is_prepared_before_it_is_answered(
    topic: str, bench: Any
) -> None:
    client = bench.join()
    for number in range(2000):
        client.subscribe(f"t{number}")
    question = f"request:system.{topic}:1.0.0\n".encode() + b'{"limit":1}'
    behind = b"publish:a.b:1.0.0\n"
    left, rounds = [question, behind], 0
    while left := bench.router.receive(client.service, left, bench.now, costly=1):
        assert left == [question, behind]
        rounds += 1
    assert rounds > 3
    bench.deliver()
    assert b'"next":' in client.take()[0]
    answer = client.ask(topic, {})
    assert sum(map(len, answer.values())) == 2000


@pytest.mark.parametrize(
    ("topic", "key"),
    [
        ("topic.list", "topics"),
        ("topic.subscriptions", "subscriptions"),
        ("service.subscriptions", "subscriptions"),
    ],
)
def test_topics_come_in_pages(topic: str, key: str, bench: Any) -> None:
    client = bench.join()
    names = sorted(f"t{n}" for n in range(30))
    for name in names:
        client.subscribe(name, "both")
    expected = [(name, action) for name in names for action in ("publish", "request")]
    for limit in (None, 7, 100):
        found: list[Any] = []
        page = {} if limit is None else {"limit": limit}
        while True:
            answer = client.ask(topic, page)
            assert limit is None or len(answer[key]) <= limit
            found += answer[key]
            if "next" not in answer:
                break
            page = {"limit": limit, "after": answer["next"]}
        assert [(entry["topic"], entry["action"]) for entry in found] == expected


def test_a_question_that_waits_for_its_turn_is_one_event_of_the_audit_feed(bench: Any) -> None:
    client, auditor = bench.join(), bench.join()
    auditor.send(
        b'request:system.topic.subscribe:1.0.0\n{"action":"publish","topic":"system.message"}'
    )
    auditor.take()
    left = [b"publish:a.b:1.0.0\n", b"request:system.topic.list:1.0.0\n{}"]
    for costly in (0, 0, 1):
        left = bench.router.receive(client.service, left, bench.now, costly=costly)
    assert not left
    bench.deliver()
    events = [json.loads(event.partition(b"\n")[2]) for event in auditor.take()]
    asked = [event["message"]["header"]["topic"] for event in events if "from" in event]
    assert asked == ["a.b", "system.topic.list"]


def test_services_come_in_pages_in_the_order_in_which_they_connected(bench: Any) -> None:
    peers = [bench.join() for _ in range(10)]
    first = peers[0].ask("service.list", {"limit": 4})
    assert [entry["id"] for entry in first["services"]] == [peer.id for peer in peers[:4]]
    peers.pop(3).leave()
    late = bench.join()
    rest = peers[0].ask("service.list", {"limit": 100, "after": first["next"]})
    assert set(rest) == {"services"}
    assert [entry["id"] for entry in rest["services"]] == [peer.id for peer in (*peers[3:], late)]


def test_a_list_follows_every_change(bench: Any) -> None:
    client, other = bench.join(), bench.join()

    def topics() -> list[tuple[str, list[str]]]:
        found = client.ask("topic.list", {})["topics"]
        return [(e["topic"], [each["serviceId"] for each in e["subscribers"]]) for e in found]

    def services() -> list[str]:
        return [entry["name"] for entry in client.ask("service.list", {})["services"]]

    assert (topics(), services()) == ([], ["", ""])
    other.subscribe("a.b", "request", priority=1)
    assert topics() == [("a.b", [other.id])]
    client.subscribe("a.b", "request", priority=2)
    assert topics() == [("a.b", [client.id, other.id])]
    other.subscribe("a.b", "request", priority=3)
    assert topics() == [("a.b", [other.id, client.id])]
    other.ask("service.register", {"name": "Other", "description": "x"})
    assert services() == ["", "Other"]
    mine = client.ask("service.subscriptions", {"serviceId": other.id})["subscriptions"]
    assert [entry["topic"] for entry in mine] == ["a.b"]
    other.leave()
    assert (topics(), services()) == ([("a.b", [client.id])], [""])
    client.ask("topic.unsubscribe", {"action": "request", "topic": "a.b"})
    assert topics() == []


def test_who_said_something_since_has_another_last_heartbeat(bench: Any) -> None:
    client, other = bench.join(), bench.join()

    def heartbeats() -> list[str]:
        return [entry["lastHeartbeat"] for entry in client.ask("service.list", {})["services"]]

    before = heartbeats()
    bench.now += 0.5
    assert heartbeats()[1] == before[1]
    other.ask("heartbeat", {})
    own, others = heartbeats()
    assert (own > before[0], others > before[1]) == (True, True)


def test_a_list_beyond_the_limit_names_the_way_out(new_bench: Callable[..., Any]) -> None:
    bench = new_bench(max_answer=2_000)
    client = bench.join()
    for number in range(50):
        client.subscribe(f"t{number}")
    error = client.ask("topic.list", {})["error"]
    assert error["code"] == "INVALID_REQUEST"
    assert "limit" in error["message"]
    page = client.ask("topic.list", {"limit": 50})
    assert 0 < len(page["topics"]) < 50
    assert page["next"]
