"""What roles allow, and which patterns cover which."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from mb_broker.access import ANYBODY, Grants, Role, covers
from mb_broker.access.grants import NOBODY, SystemPart
from mb_core.header import Action
from mb_core.topic import is_pattern, matches


def patterns(most: int) -> Iterator[str]:
    for count in range(1, most + 1):
        for levels in itertools.product(["a", "b", "+"], repeat=count):
            yield ".".join(levels)
            yield ".".join([*levels[:-1], "#"])


def topics(most: int) -> Iterator[str]:
    for count in range(1, most + 1):
        for segments in itertools.product("abc", repeat=count):
            yield ".".join(segments)


def test_a_pattern_covers_another_if_it_matches_all_topics_of_it() -> None:
    # A third segment that no pattern names, and one level more than the patterns have, are enough
    # to tell any two of them apart.
    all_patterns = sorted(set(patterns(3)))
    matched = {
        pattern: {topic for topic in topics(4) if matches(pattern, topic)}
        for pattern in all_patterns
    }
    for granted, wanted in itertools.product(all_patterns, repeat=2):
        assert is_pattern(granted)
        expected = matched[wanted] <= matched[granted]
        assert covers(granted, wanted) is expected, (granted, wanted)


def test_case_is_ignored() -> None:
    assert covers("Order.#", "order.Paid")


def test_roles_together_allow_what_each_of_them_does() -> None:
    grants = Grants([Role(publish=["a.#"]), Role(publish=["b.c"], respond=["b.c"])])
    assert grants.may_send(Action.PUBLISH, "a.x.y")
    assert grants.may_send(Action.PUBLISH, "b.c")
    assert not grants.may_send(Action.PUBLISH, "b.d")
    assert not grants.may_send(Action.REQUEST, "a.x")
    assert grants.may_subscribe(Action.REQUEST, "b.c")
    assert not grants.may_subscribe(Action.PUBLISH, "b.c")


def test_two_granted_patterns_do_not_cover_a_third_together() -> None:
    grants = Grants([Role(subscribe=["a", "a.+"])])
    assert not grants.may_subscribe(Action.PUBLISH, "a.#")


@pytest.mark.parametrize(
    ("part", "feeds", "requests"),
    [
        ("message", ["system.message"], []),
        ("log", ["system.log"], ["system.log.subscribe"]),
        ("metrics", [], ["system.metrics"]),
        (
            "services",
            ["system.service.register"],
            ["system.service.list", "system.service.subscriptions"],
        ),
        (
            "topics",
            ["system.topic.subscribe", "system.topic.unsubscribe"],
            ["system.topic.list", "system.topic.subscriptions"],
        ),
    ],
)
def test_feeds_and_lists_take_their_part_and_no_pattern(
    part: SystemPart, feeds: list[str], requests: list[str]
) -> None:
    everything = ["#", "+", "+.+", "+.+.+"]
    patterns = Role(publish=everything, request=everything, subscribe=everything)
    without = Grants([patterns])
    with_it = Grants([patterns, Role(system=[part])])
    for feed in feeds:
        assert with_it.may_subscribe(Action.PUBLISH, feed)
        assert not without.may_subscribe(Action.PUBLISH, feed)
    for topic in requests:
        assert with_it.may_send(Action.REQUEST, topic)
        assert not without.may_send(Action.REQUEST, topic)


def test_a_known_client_may_change_what_it_has_itself() -> None:
    grants = Grants()
    for topic in (
        "system.heartbeat",
        "system.authenticate",
        "system.service.register",
        "system.topic.subscribe",
        "system.topic.unsubscribe",
    ):
        assert grants.may_send(Action.REQUEST, topic)


def test_nobody_may_only_give_signs_of_life_and_authenticate() -> None:
    allowed = {
        topic
        for topic in ("heartbeat", "authenticate", "service.register", "topic.subscribe", "message")
        if NOBODY.may_send(Action.REQUEST, f"system.{topic}")
    }
    assert allowed == {"heartbeat", "authenticate"}
    for action in Action:
        assert not NOBODY.may_send(action, "a.b")


def test_without_access_control_everything_is_allowed() -> None:
    assert all(ANYBODY.may_send(action, topic) for action in Action for topic in ("a", "system.x"))
    assert ANYBODY.may_subscribe(Action.PUBLISH, "system.message")
