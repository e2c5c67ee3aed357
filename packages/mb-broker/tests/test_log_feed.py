"""The log feed: entries for the log, and for the clients that follow it (`system.log`)."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable
from typing import Any

import pytest

from mb_broker.log_feed import LogFeed
from mb_broker.log_filter import LEVELS
from mb_broker.registry import Service
from mb_core.errors import InvalidRequestError

from .log_entries import SUCCESS, entry_of, nothing_is_reported

__all__ = ["nothing_is_reported"]

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


class Book:
    """A LogFeed, and what it has sent to whom."""

    def __init__(self) -> None:
        self.sent: list[tuple[Service, bytes]] = []
        self.log = LogFeed(lambda service, message: self.sent.append((service, message)))

    def follow(self, levels: Any = None, regex: Any = None) -> Service:
        service = Service(connected_at=0.0)
        self.log.follow(service, [*LEVELS] if levels is None else levels, regex)
        return service

    def entries(self) -> list[dict[str, Any]]:
        return [entry_of(message) for _, message in self.sent]


@pytest.fixture
def book() -> Book:
    return Book()


# What is written


def test_an_entry_has_its_level_module_text_time_and_fields(book: Book) -> None:
    book.follow()
    book.log.write("warn", "router", "a.b timed out", targetServiceId="x", count=3)
    (entry,) = book.entries()
    assert TIME.fullmatch(entry.pop("timestamp"))
    assert entry == {
        "level": "warn",
        "module": "router",
        "message": "a.b timed out",
        "targetServiceId": "x",
        "count": 3,
    }


@pytest.mark.parametrize(
    ("level", "number"),
    [
        ("debug", logging.DEBUG),
        ("info", logging.INFO),
        ("warn", logging.WARNING),
        ("error", logging.ERROR),
    ],
)
def test_the_log_gets_it_at_its_own_level_with_the_fields(
    level: str, number: int, book: Book, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "mb_broker")
    book.log.write(level, "router", "100 % of %s", serviceId="x")
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("mb_broker.router", number)
    assert record.getMessage() == "100 % of %s"
    assert record.__dict__["mb"] == {"serviceId": "x"}


def test_followers_are_told_whatever_the_logs_own_level(
    book: Book, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR, "mb_broker")
    book.follow(["debug"])
    book.log.write("debug", "router", "detail")
    assert [entry["message"] for entry in book.entries()] == ["detail"]
    assert caplog.records == []


def test_of_one_cause_the_log_gets_an_entry_a_second_and_followers_all(
    book: Book, caplog: pytest.LogCaptureFixture
) -> None:
    book.follow()
    for second, count in ((7, 3), (8, 1), (10, 2)):
        for number in range(count):
            text = f"{second}.{number} timed out"
            book.log.write("warn", "router", text, cause="timed out", second=second)
            book.log.write("warn", "router", "another", cause="another", second=second)
    assert [text for text in caplog.messages if "timed" in text] == [
        "7.0 timed out",
        "8.0 timed out (and 2 more like this)",
        "10.0 timed out",
    ]
    assert len([text for text in caplog.messages if "another" in text]) == 3
    assert len(book.entries()) == 12


def test_the_text_is_one_line_on_the_wire(book: Book) -> None:
    book.follow()
    book.log.write("info", "broker", "two\nlines \N{SNOWMAN}")
    ((_, message),) = book.sent
    assert message.count(b"\n") == 1
    assert entry_of(message)["message"] == "two\nlines \N{SNOWMAN}"


def test_fields_that_can_not_be_written_are_left_out(book: Book) -> None:
    nested: Any = []
    for _ in range(100_000):
        nested = [nested]
    book.follow()
    book.log.write("info", "broker", "text", details=nested)
    (entry,) = book.entries()
    assert entry["message"] == "text"
    assert "details" not in entry
    while nested:  # taken apart by hand: the interpreter would do it by recursion
        nested = nested[0]


def test_a_field_does_not_hide_what_every_entry_has(book: Book) -> None:
    book.follow()
    book.log.write("info", "broker", "text", timestamp="never")
    assert TIME.fullmatch(book.entries()[0]["timestamp"])


# Which clients get which entries


@pytest.mark.parametrize(
    ("levels", "told"),
    [
        ([], []),
        (["error"], ["error"]),
        (["debug", "warn"], ["debug", "warn"]),
        (["info", "info"], ["info"]),
        ([*LEVELS], [*LEVELS]),
    ],
    ids=str,
)
def test_a_follower_gets_the_levels_that_it_asked_for(
    levels: list[str], told: list[str], book: Book
) -> None:
    book.follow(levels)
    for level in LEVELS:
        book.log.write(level, "broker", "text")
    assert [entry["level"] for entry in book.entries()] == told


def test_a_follower_gets_the_texts_in_which_its_regex_is_found(book: Book) -> None:
    book.follow(["info"], "a[0-9]$")
    for text in ("a1", "b1", "a1 ", "xa2"):
        book.log.write("info", "broker", text)
    book.log.write("warn", "broker", "a3")
    assert [entry["message"] for entry in book.entries()] == ["a1", "xa2"]


def test_followers_are_told_each_by_its_own_wishes(book: Book) -> None:
    one, other = book.follow(["info"]), book.follow(["error", "info"], "x")
    book.log.write("info", "broker", "y")
    book.log.write("info", "broker", "x")
    book.log.write("error", "broker", "x")
    told = [(service, entry_of(message)["message"]) for service, message in book.sent]
    assert told == [(one, "y"), (one, "x"), (other, "x"), (other, "x")]


def test_following_again_replaces_the_wishes(book: Book) -> None:
    service = book.follow(["info"], "x")
    book.log.follow(service, ["warn"], None)
    book.log.write("info", "broker", "x")
    book.log.write("warn", "broker", "y")
    assert [entry["message"] for entry in book.entries()] == ["y"]


def test_wishes_that_are_refused_leave_those_before(book: Book) -> None:
    service = book.follow(["info"])
    for levels, regex in ((["trace"], None), (["warn"], "(")):
        with pytest.raises(InvalidRequestError):
            book.log.follow(service, levels, regex)
    book.log.write("info", "broker", "still")
    book.log.write("warn", "broker", "not")
    assert [entry["message"] for entry in book.entries()] == ["still"]


def test_who_is_forgotten_is_told_nothing(book: Book) -> None:
    service = book.follow()
    book.log.unfollow(service)
    book.log.unfollow(service)
    book.log.write("error", "broker", "text")
    assert book.sent == []


def test_a_follower_may_be_forgotten_while_others_are_told() -> None:
    services = [Service(connected_at=0.0) for _ in range(3)]
    told: list[Service] = []

    def send(service: Service, message: bytes) -> None:
        told.append(service)
        log.unfollow(services[0])

    log = LogFeed(send)
    for service in services:
        log.follow(service, ["info"], None)
    log.write("info", "broker", "text")
    assert told == services


@pytest.mark.parametrize(
    ("levels", "regex", "details"),
    [
        ("info", None, {"levels": "info"}),
        ({"info": 1}, None, {"levels": {"info": 1}}),
        (5, None, {"levels": 5}),
        (["trace"], None, {"level": "trace"}),
        (["INFO"], None, {"level": "INFO"}),
        (["info", None], None, {"level": None}),
        ([["info"]], None, {"level": ["info"]}),
        ([{}], None, {"level": {}}),
        (["info"], "(", {"regex": "("}),
        (["info"], 5, {"regex": 5}),
        (["info"], "(?=a)", {"regex": "(?=a)"}),
    ],
    ids=str,
)
def test_wishes_that_can_not_be_are_refused_with_what_is_wrong(
    levels: Any, regex: Any, details: dict[str, Any], book: Book
) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        book.follow(levels, regex)
    assert refused.value.details == details


# As the Router has it


def ask_error(peer: Any, topic: str, payload: Any) -> dict[str, Any]:
    error: dict[str, Any] = peer.ask(topic, payload)["error"]
    return error


def test_by_default_a_follower_is_told_of_errors(bench: Any) -> None:
    peer = bench.join()
    for payload in ({}, {"levels": None, "regex": None}):
        assert peer.ask("log.subscribe", payload) == SUCCESS
        for level in LEVELS:
            bench.router.log.write(level, "broker", "text")
        bench.deliver()
        assert entry_of(peer.take_one())["level"] == "error"


def test_a_log_subscription_is_listed_and_ends(bench: Any) -> None:
    peer = bench.join()
    assert peer.ask("log.subscribe", {"levels": ["warn"]}) == SUCCESS
    expected = {"subscriptions": [{"action": "publish", "topic": "system.log"}]}
    assert peer.ask("service.subscriptions", {}) == expected
    assert peer.ask("log.unsubscribe", {}) == SUCCESS
    assert peer.ask("service.subscriptions", {}) == {"subscriptions": []}
    bench.router.log.write("warn", "broker", "text")
    bench.deliver()
    assert peer.take() == []
    assert peer.ask("log.unsubscribe", {}) == SUCCESS  # as the reference broker has it


def test_a_regex_that_is_refused_says_why_and_subscribes_nothing(bench: Any) -> None:
    peer = bench.join()
    error = ask_error(peer, "log.subscribe", {"regex": "(a+)+("})
    assert error["code"] == "INVALID_REQUEST"
    assert error["details"] == {"regex": "(a+)+("}
    assert "missing )" in error["message"]
    assert peer.ask("service.subscriptions", {}) == {"subscriptions": []}


def test_without_re2_following_works_and_a_regex_says_what_to_install(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "re2", None)
    peer = bench.join()
    assert peer.ask("log.subscribe", {"levels": ["info"]}) == SUCCESS
    error = ask_error(peer, "log.subscribe", {"levels": ["info"], "regex": "a"})
    assert "pip install google-re2" in error["message"]


def test_an_entry_of_the_messages_that_are_routed_comes_among_them_in_order(
    new_bench: Callable[..., Any],
) -> None:
    bench = new_bench(max_subscriptions=1)
    peer = bench.join()
    assert peer.ask("log.subscribe", {"levels": ["warn"]}) == SUCCESS
    ids = [f"123e4567-e89b-42d3-a456-42661417400{n}" for n in range(3)]
    peer.send(
        f"request:system.heartbeat:1.0.0:{ids[0]}\n{{}}",
        f'request:system.topic.subscribe:1.0.0:{ids[1]}\n{{"action":"publish","topic":"a.b"}}',
        f"request:system.heartbeat:1.0.0:{ids[2]}\n{{}}",
    )
    first, entry, refusal, last = peer.take()
    assert ids[0].encode() in first
    assert "max_subscriptions is 1" in entry_of(entry)["message"]
    assert ids[1].encode() in refusal
    assert ids[2].encode() in last


def test_who_leaves_follows_no_more(bench: Any) -> None:
    peer, other = bench.join(), bench.join()
    for each in (peer, other):
        assert each.ask("log.subscribe", {"levels": ["info"]}) == SUCCESS
    peer.leave()
    bench.router.log.write("info", "broker", "text")
    assert bench.router.take_output() == [other.service]


def test_any_number_of_causes_takes_little_memory(book: Book) -> None:
    for number in range(20_000):
        book.log.write("warn", "router", "denied", cause=f"user {number}", second=number // 100)
    assert len(book.log._causes) <= 1_100
