"""What roles allow: topics to publish and request, patterns to subscribe to and respond on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec

from mb_core.header import Action
from mb_core.topic import is_system, matches

__all__ = ["ANYBODY", "NOBODY", "Grants", "Role", "SystemPart", "covers"]

SystemPart = Literal["message", "log", "metrics", "services", "topics"]
"""A part of the broker's own topics that a role can allow."""

# What it takes to send a request to one of the broker's topics, or to subscribe to a feed. The
# requests that are not listed change only what the client itself has.
_TO_REQUEST: dict[str, SystemPart] = {
    "system.log.subscribe": "log",
    "system.metrics": "metrics",
    "system.service.list": "services",
    "system.service.subscriptions": "services",
    "system.topic.list": "topics",
    "system.topic.subscriptions": "topics",
}
_TO_FOLLOW: dict[str, SystemPart] = {
    "system.log": "log",
    "system.message": "message",
    "system.service.register": "services",
    "system.topic.subscribe": "topics",
    "system.topic.unsubscribe": "topics",
}
# What a client may send before it has authenticated.
_TO_AUTHENTICATE = frozenset({"system.heartbeat", "system.authenticate"})


class Role(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """What a role allows, as the access file has it; patterns are lists of topics and patterns.

    Attributes:
        publish: Topics to publish to.
        request: Topics to send requests to.
        subscribe: Patterns to subscribe to publications.
        respond: Patterns to subscribe to requests.
        system: Feeds and lists of the broker.
    """

    publish: list[str] = []
    request: list[str] = []
    subscribe: list[str] = []
    respond: list[str] = []
    system: list[SystemPart] = []


class Grants:
    """What some roles allow together. Clients with the same roles share one.

    `known` says whether the client has authenticated, or need not.
    """

    __slots__ = ("_send", "_subscribe", "_system", "known")

    def __init__(self, roles: Iterable[Role] = (), *, known: bool = True) -> None:
        given = list(roles)
        self.known = known
        self._send = {
            Action.PUBLISH: _distinct(role.publish for role in given),
            Action.REQUEST: _distinct(role.request for role in given),
        }
        self._subscribe = {
            Action.PUBLISH: _distinct(role.subscribe for role in given),
            Action.REQUEST: _distinct(role.respond for role in given),
        }
        self._system = frozenset(part for role in given for part in role.system)

    def may_send(self, action: Action, topic: str) -> bool:
        """Return whether messages with this action may be sent to `topic`, in lower case.

        Responses are not restricted: the Router accepts them only from the service that it has
        sent the request to.
        """
        if is_system(topic):
            if not self.known:
                return topic in _TO_AUTHENTICATE
            part = _TO_REQUEST.get(topic)
            return part is None or part in self._system
        if action is Action.RESPONSE:
            return self.known
        return any(matches(pattern, topic) for pattern in self._send[action])

    def may_subscribe(self, action: Action, pattern: str) -> bool:
        """Return whether one granted pattern covers `pattern`, in lower case, completely."""
        if is_system(pattern):
            return _TO_FOLLOW.get(pattern) in self._system
        return any(covers(granted, pattern) for granted in self._subscribe[action])


class _Everything(Grants):
    """Allows everything: a broker without access control."""

    def may_send(self, action: Action, topic: str) -> bool:
        return True

    def may_subscribe(self, action: Action, pattern: str) -> bool:
        return True


def covers(granted: str, wanted: str) -> bool:
    """Return whether the pattern `granted` matches every topic that `wanted` matches.

    Example::

        assert covers("order.#", "order.+.paid")
        assert not covers("order.+", "order.#")
    """
    outer, inner = granted.lower().split("."), wanted.lower().split(".")
    any_end = outer[-1] == "#"
    if any_end:
        outer.pop()
    if inner[-1] == "#":
        if not any_end:
            return False
        inner.pop()
        inner = inner or ["+"]  # a topic has at least one segment
    if len(inner) < len(outer) or (len(inner) > len(outer) and not any_end):
        return False
    return all(one in ("+", other) for one, other in zip(outer, inner, strict=False))


def _distinct(lists: Iterable[list[str]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(pattern.lower() for patterns in lists for pattern in patterns))


ANYBODY: Grants = _Everything()
"""The grants of all clients of a broker without access control."""

NOBODY = Grants(known=False)
"""The grants of a client that has to authenticate first."""
