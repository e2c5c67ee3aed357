"""Who is connected and who listens to what: the Registry's tables."""

from __future__ import annotations

import pytest

from mb_broker.registry import Registry, Service, is_system
from mb_core.header import Action


@pytest.fixture
def registry() -> Registry:
    return Registry()


def join(registry: Registry) -> Service:
    service = Service(connected_at=0.0)
    registry.add(service)
    return service


def test_every_service_has_an_id_of_its_own(registry: Registry) -> None:
    services = [join(registry) for _ in range(100)]
    assert len({service.id for service in services}) == 100
    assert registry.services == {service.id: service for service in services}


def test_receivers_are_those_whose_patterns_match_each_once(registry: Registry) -> None:
    first, second = join(registry), join(registry)
    for pattern in ("a.b", "A.+", "#"):
        registry.subscribe(first, Action.PUBLISH, pattern, None)
    registry.subscribe(second, Action.PUBLISH, "a.#", None)
    registry.subscribe(second, Action.REQUEST, "a.b", None)
    assert set(registry.receivers("a.b")) == {first, second}
    assert len(registry.receivers("a.b")) == 2
    assert registry.receivers("x") == (first,)


def test_responders_share_the_highest_priority(registry: Registry) -> None:
    services = [join(registry) for _ in range(4)]
    for service, priority in zip(services, (-1, None, 0, 0.0), strict=True):
        registry.subscribe(service, Action.REQUEST, "a.b", priority)
    assert registry.responders("a.b") == tuple(services[1:])
    assert registry.responders("a.c") == ()


def test_responders_may_all_be_below_the_default(registry: Registry) -> None:
    service = join(registry)
    registry.subscribe(service, Action.REQUEST, "a.b", -5)
    assert registry.responders("a.b") == (service,)


def test_unsubscribing_says_whether_there_was_something(registry: Registry) -> None:
    service, other = join(registry), join(registry)
    registry.subscribe(service, Action.PUBLISH, "a.+", None)
    assert not registry.unsubscribe(service, Action.REQUEST, "a.+")
    assert not registry.unsubscribe(service, Action.PUBLISH, "a.b")
    assert not registry.unsubscribe(other, Action.PUBLISH, "a.+")
    assert registry.unsubscribe(service, Action.PUBLISH, "A.+")
    assert not registry.unsubscribe(service, Action.PUBLISH, "a.+")
    assert registry.receivers("a.b") == ()


def test_every_change_of_a_route_changes_the_generation(registry: Registry) -> None:
    service = join(registry)
    seen = {registry.generation}

    def changed() -> bool:
        known = registry.generation in seen
        seen.add(registry.generation)
        return not known

    registry.subscribe(service, Action.REQUEST, "a.b", None)
    assert changed()
    registry.subscribe(service, Action.REQUEST, "a.b", 5)
    assert changed()
    registry.unsubscribe(service, Action.REQUEST, "a.b")
    assert changed()
    registry.subscribe(service, Action.PUBLISH, "#", None)
    assert changed()
    registry.remove(service)
    assert changed()


def test_a_removed_service_takes_its_subscriptions_along(registry: Registry) -> None:
    service, other = join(registry), join(registry)
    for each in (service, other):
        registry.subscribe(each, Action.PUBLISH, "a.b", None)
        registry.subscribe(each, Action.REQUEST, "a.#", 1)
    registry.remove(service)
    assert registry.services == {other.id: other}
    assert registry.receivers("a.b") == registry.responders("a.b") == (other,)
    assert {entry.service for entry in registry.subscriptions()} == {other}


@pytest.mark.parametrize(
    ("topic", "expected"),
    [("system.x", True), ("system.", True), ("system", False), ("systemx.a", False)],
)
def test_system_topics(topic: str, expected: bool) -> None:
    assert is_system(topic) is expected
