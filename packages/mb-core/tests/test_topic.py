"""Topics and patterns: what they look like, what matches, and the table that finds it."""

from __future__ import annotations

import gc
import string
import types
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from mb_core.errors import LocalProtocolError
from mb_core.topic import (
    MAX_TOPIC_LENGTH,
    TopicTable,
    check_pattern,
    check_topic,
    is_pattern,
    is_topic,
    matches,
)

TOPICS = {
    "one letter": "a",
    "one segment": "weather",
    "five segments": "a.b.c.d.e",
    "digits behind a letter": "a1.b22",
    "upper case": "Weather.OSLO",
    "255 characters": "a" * 255,
    "255 characters in segments": "ab." * 4 + "c" * 243,
}

NO_TOPICS = {
    "empty": "",
    "six segments": "a.b.c.d.e.f",
    "dot alone": ".",
    "dot before": ".a",
    "dot after": "a.",
    "two dots": "a..b",
    "digit first": "1a",
    "digit first in the second segment": "a.1b",
    "underscore": "a_b",
    "hyphen": "a-b",
    "space": "a b",
    "space after": "a ",
    "newline after": "a\n",
    "null": "a\0",
    "colon": "a:b",
    "letter that is not ASCII": "système",
    "digit of another script": "a٣",
    "letter that only lower-cases to ASCII": "\u212aelvin",
    "lone surrogate": "a\ud800",
    "256 characters": "a" * 256,
    "a hundred thousand characters": "a" * 100_000,
}

PATTERNS = {
    "anything": "#",
    "one segment": "+",
    "five of them": "+.+.+.+.+",
    "one of them first": "+.b",
    "one of them between": "a.+.c",
    "a tail": "a.#",
    "a tail in the fifth place": "a.b.c.d.#",
    "both": "+.b.#",
    "255 characters": "a" * 253 + ".#",
}

NO_PATTERNS = {
    "tail between": "a.#.b",
    "tail first": "#.a",
    "two tails": "#.#",
    "tail within a segment": "a#",
    "plus within a segment": "a+.b",
    "two in one segment": "++",
    "tail in the sixth place": "a.b.c.d.e.#",
    "six segments": "+.+.+.+.+.+",
    "another system's wildcard": "a.*",
    "256 characters": "a" * 254 + ".#",
}


# What they look like


@pytest.mark.parametrize("topic", TOPICS.values(), ids=TOPICS)
def test_a_topic_is_taken_as_it_is(topic: str) -> None:
    assert is_topic(topic)
    assert check_topic(topic) == topic


@pytest.mark.parametrize("topic", TOPICS.values(), ids=TOPICS)
def test_a_topic_is_a_pattern_too(topic: str) -> None:
    assert is_pattern(topic)
    assert check_pattern(topic) == topic


@pytest.mark.parametrize("topic", NO_TOPICS.values(), ids=NO_TOPICS)
def test_what_is_no_topic_is_refused(topic: str) -> None:
    assert not is_topic(topic)
    assert not is_pattern(topic)
    with pytest.raises(LocalProtocolError, match=r"invalid topic .*1 to 5 segments"):
        check_topic(topic)
    with pytest.raises(LocalProtocolError, match=r"invalid topic pattern .*1 to 5 segments"):
        check_pattern(topic)


@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS)
def test_a_pattern_is_for_subscriptions_only(pattern: str) -> None:
    assert check_pattern(pattern) == pattern
    assert not is_topic(pattern)
    with pytest.raises(LocalProtocolError, match="wildcards are for subscriptions only"):
        check_topic(pattern)


@pytest.mark.parametrize("pattern", NO_PATTERNS.values(), ids=NO_PATTERNS)
def test_what_is_no_pattern_is_refused(pattern: str) -> None:
    assert not is_pattern(pattern)
    with pytest.raises(LocalProtocolError, match="'#' for any number of segments may stand last"):
        check_pattern(pattern)


@pytest.mark.parametrize("value", [None, 5, b"a.b", ["a"]], ids=repr)
def test_what_is_no_text_is_refused(value: Any) -> None:
    with pytest.raises(LocalProtocolError, match="invalid topic"):
        check_topic(value)
    with pytest.raises(LocalProtocolError, match="invalid topic pattern"):
        check_pattern(value)


def test_an_error_shows_the_beginning_of_a_long_topic_and_its_length() -> None:
    with pytest.raises(LocalProtocolError, match=r"'aaa.*100002 characters") as raised:
        check_topic("a" * 100_000)
    assert len(str(raised.value)) < 500


# What matches


@pytest.mark.parametrize(
    ("pattern", "topic"),
    [
        ("a.b", "a.b"),
        ("A.b", "a.B"),
        ("+", "a"),
        ("a.+", "a.b"),
        ("a.+", "A.B"),
        ("+.b.+", "a.b.c"),
        ("#", "a"),
        ("#", "a.b.c.d.e"),
        ("a.#", "a"),
        ("a.#", "a.b"),
        ("A.#", "a.b.c.d.e"),
        ("a.+.#", "a.b"),
        ("a.b.c.d.#", "a.b.c.d.e"),
        ("#", "system"),
        ("+", "system"),
        ("#", "systems.a"),
        ("system.log", "System.LOG"),
    ],
)
def test_a_pattern_matches(pattern: str, topic: str) -> None:
    assert matches(pattern, topic)


@pytest.mark.parametrize(
    ("pattern", "topic"),
    [
        ("a.b", "a"),
        ("a.b", "a.b.c"),
        ("a", "ab"),
        ("+", "a.b"),
        ("a.+", "a"),
        ("a.+", "a.b.c"),
        ("+.+", "a"),
        ("a.#", "b"),
        ("a.#", "ab"),
        ("a.b.#", "a"),
        ("+.+.#", "a"),
        ("a.+.#", "a"),
    ],
)
def test_a_pattern_does_not_match(pattern: str, topic: str) -> None:
    assert not matches(pattern, topic)


@pytest.mark.parametrize("pattern", ["#", "+.log", "system.+", "system.#", "+.#", "system.log.#"])
@pytest.mark.parametrize("topic", ["system.log", "System.LOG"])
def test_a_wildcard_does_not_match_the_brokers_own_topics(pattern: str, topic: str) -> None:
    table: TopicTable[str] = TopicTable()
    table.add(pattern, "value")
    assert not matches(pattern, topic)
    assert list(table.match(topic)) == []


# Few words, so that patterns and topics meet.
segments = st.sampled_from(["a", "b", "C", "c1", "system"])
topics = st.lists(segments, min_size=1, max_size=5).map(".".join)
places = segments | st.just("+")
patterns = st.one_of(
    st.just("#"),
    st.lists(places, min_size=1, max_size=5).map(".".join),
    st.lists(places, min_size=1, max_size=4).map(lambda found: ".".join([*found, "#"])),
)


@given(topics)
def test_a_topic_matches_itself_in_any_case(topic: str) -> None:
    assert matches(topic, topic)
    assert matches(topic.upper(), topic.lower())


@given(st.lists(st.text(string.ascii_letters, min_size=1, max_size=60), min_size=1, max_size=6))
def test_the_rule_for_topics_is_the_rule_for_patterns_without_wildcards(words: list[str]) -> None:
    topic = ".".join(words)
    valid = len(words) <= 5 and len(topic) <= MAX_TOPIC_LENGTH
    assert is_topic(topic) is valid
    assert is_pattern(topic) is valid


@given(patterns)
def test_every_pattern_of_these_tests_is_one(pattern: str) -> None:
    assert is_pattern(pattern)


# The table


def test_the_exact_ones_come_first() -> None:
    table: TopicTable[int] = TopicTable()
    table.add("#", 1)
    table.add("a.+", 2)
    table.add("a.b", 3)
    table.add("A.B", 4)
    assert list(table.match("a.b"))[:2] == [3, 4]


def test_a_value_under_several_patterns_comes_several_times() -> None:
    table: TopicTable[int] = TopicTable()
    for pattern in ("a.b", "a.+", "+.b", "a.#", "#", "b.#"):
        assert table.add(pattern, 1)
    assert list(table.match("a.b")) == [1] * 5


def test_adding_and_removing_say_whether_they_did() -> None:
    table: TopicTable[int] = TopicTable()
    for pattern in ("a.b", "a.+", "a.#"):
        assert table.add(pattern, 1)
        assert not table.add(pattern.upper(), 1)
        assert table.add(pattern, 2)
        assert not table.remove(pattern, 3)
        assert table.remove(pattern.upper(), 1)
        assert not table.remove(pattern, 1)
        assert not table.remove(f"x.{pattern}", 2)


def test_a_branch_that_others_need_stays() -> None:
    table: TopicTable[int] = TopicTable()
    for value, pattern in enumerate(["+", "+.a", "+.a.#", "+.a.b", "#"]):
        table.add(pattern, value)
    table.remove("+.a", 1)
    table.remove("#", 4)
    assert sorted(table.match("x.a")) == [2]
    assert sorted(table.match("x.a.b")) == [2, 3]
    table.remove("+.a.b", 3)
    assert sorted(table.match("x.a.b")) == [2]
    assert sorted(table.match("x")) == [0]


class TableAgainstModel(RuleBasedStateMachine):
    """The table finds what `matches` says of each pattern that is filed."""

    @initialize()
    def begin(self) -> None:
        self.table: TopicTable[int] = TopicTable()
        self.filed: list[tuple[str, int]] = []

    @rule(pattern=patterns, value=st.integers(0, 2))
    def add(self, pattern: str, value: int) -> None:
        new = (pattern.lower(), value) not in self.filed
        assert self.table.add(pattern, value) is new
        if new:
            self.filed.append((pattern.lower(), value))

    @rule(pattern=patterns, value=st.integers(0, 2))
    def remove(self, pattern: str, value: int) -> None:
        known = (pattern.lower(), value) in self.filed
        assert self.table.remove(pattern, value) is known
        if known:
            self.filed.remove((pattern.lower(), value))

    @rule(data=st.data())
    def remove_one_that_is_filed(self, data: st.DataObject) -> None:
        if self.filed:
            pattern, value = data.draw(st.sampled_from(self.filed))
            assert self.table.remove(pattern.upper(), value)
            self.filed.remove((pattern, value))

    @rule(topic=topics)
    def match(self, topic: str) -> None:
        expected = [value for pattern, value in self.filed if matches(pattern, topic)]
        assert sorted(self.table.match(topic)) == sorted(expected)

    @invariant()
    def empty_is_as_new(self) -> None:
        if not self.filed:
            assert held_by(self.table) == held_by(TopicTable())

    def teardown(self) -> None:
        for pattern, value in self.filed:
            assert self.table.remove(pattern, value)
        assert held_by(self.table) == held_by(TopicTable())


TestTableAgainstModel = TableAgainstModel.TestCase
TestTableAgainstModel.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(patterns, st.integers(0, 3)), unique=True, max_size=60), st.randoms())
def test_the_order_of_removal_leaves_nothing_either_way(
    filed: list[tuple[str, int]], random: Any
) -> None:
    table: TopicTable[int] = TopicTable()
    for pattern, value in filed:
        table.add(pattern, value)
    random.shuffle(filed)
    for pattern, value in filed:
        table.remove(pattern, value)
    assert held_by(table) == held_by(TopicTable())


@pytest.mark.parametrize("pattern", ["a.b", "a.+.c.d.e", "a.b.#"])
def test_removing_or_looking_up_what_is_not_there_leaves_nothing(pattern: str) -> None:
    table: TopicTable[int] = TopicTable()
    table.remove(pattern, 1)
    assert list(table.match("a.b.c.d.e")) == []
    assert held_by(table) == held_by(TopicTable())


def held_by(value: object) -> int:
    """How many objects a value keeps alive."""
    seen: dict[int, object] = {}
    waiting = [value]
    while waiting:
        found = waiting.pop()
        if id(found) not in seen and not isinstance(found, type | types.ModuleType):
            seen[id(found)] = found
            waiting += gc.get_referents(found)
    return len(seen)
