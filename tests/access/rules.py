"""Who may do what with a broker that has an access file, after docs/access.md and docs/protocol.md.

This is the only place where the tests of this folder say it. Each of them does everything in
`RULES` as everybody in `CLIENTS`, over one transport, with one kind of client.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

__all__ = [
    "CLIENTS",
    "FEEDS",
    "ROLES",
    "RULES",
    "SYSTEM_TOPICS",
    "Client",
    "Outcome",
    "Rule",
    "expected",
    "forwarded",
    "subscriptions_of",
]

# One role for each thing that roles can allow, one for all of them, and one for nothing.
ROLES: dict[str, dict[str, list[str]]] = {
    "operator": {
        **{action: ["#"] for action in ("publish", "request", "subscribe", "respond")},
        "system": ["message", "log", "metrics", "services", "topics"],
    },
    "publisher": {"publish": ["weather.#"]},
    "requester": {"request": ["weather.+"]},
    "subscriber": {"subscribe": ["weather.#"]},
    "responder": {"respond": ["weather.+"]},
    **{part: {"system": [part]} for part in ("message", "log", "metrics", "services", "topics")},
    "guest": {},
    "public": {
        **{action: ["open.+"] for action in ("publish", "request", "subscribe", "respond")},
        "system": ["topics"],
    },
}

# What a rule may require instead of roles: nothing, or that the broker knows the client, which
# includes anonymous clients if there are any.
NOTHING = frozenset({"nothing"})
KNOWN = frozenset({"known"})


class Client(NamedTuple):
    """A client: `user` is the name of its user; its broker is `open` if it has `[anonymous]`."""

    label: str
    user: str | None
    roles: frozenset[str]
    open: bool = False


CLIENTS = [
    *(Client(role, f"user-{role}", frozenset({role})) for role in ROLES if role != "public"),
    Client("stranger", None, frozenset()),
    Client("anonymous", None, frozenset({"public"}), open=True),
    # Users may also do what anonymous clients may.
    Client("open guest", "user-guest", frozenset({"guest", "public"}), open=True),
    Client("open subscriber", "user-subscriber", frozenset({"subscriber", "public"}), open=True),
]


class Rule(NamedTuple):
    """What a client does, and the roles that allow it.

    `do` is publish, confirm (publish with an id), request, tell (request without an id), answer
    (a response to nothing), subscribe, respond, both, follow (a feed), ask (a system topic), or
    misuse (a message that is not a request to a system topic, which nobody may send).
    """

    do: str
    topic: str
    allowed: frozenset[str]
    payload: Any = None

    @property
    def name(self) -> str:
        """It identifies the rule; messages have it as their payload."""
        return f"{self.do} {self.topic}"

    @property
    def action(self) -> str:
        """What FORBIDDEN says the client wanted to do."""
        actions = {"publish": "publish", "confirm": "publish", "respond": "respond"}
        actions |= dict.fromkeys(("subscribe", "follow", "both"), "subscribe")
        return actions.get(self.do, "request")


def roles(text: str) -> frozenset[str]:
    return frozenset(text.split())


_SENT = [
    ("publish", "weather.oslo", roles("operator publisher")),
    ("publish", "Weather.OSLO.wind", roles("operator publisher")),
    ("publish", "stock.low", roles("operator")),
    ("publish", "open.door", roles("operator public")),
    ("request", "weather.current", roles("operator requester")),
    ("request", "WEATHER.Current", roles("operator requester")),
    ("request", "weather.current.wind", roles("operator")),
    ("request", "open.hours", roles("operator public")),
]
SYSTEM_TOPICS = {
    "system.heartbeat": (NOTHING, {}),
    "system.authenticate": (NOTHING, None),  # the driver knows the token
    "system.service.register": (KNOWN, {"name": "registered", "description": "a service"}),
    "system.service.list": (roles("operator services"), {}),
    "system.service.subscriptions": (roles("operator services"), {}),
    "system.topic.subscribe": (
        roles("operator subscriber"),
        {"action": "publish", "topic": "weather.asked"},
    ),
    "system.topic.unsubscribe": (KNOWN, {"action": "publish", "topic": "weather.asked"}),
    "system.topic.list": (roles("operator topics public"), {}),
    "system.topic.subscriptions": (roles("operator topics public"), {}),
    "system.log.subscribe": (roles("operator log"), {"levels": ["error"]}),
    "system.log.unsubscribe": (KNOWN, {}),
    "system.metrics": (roles("operator metrics"), {}),
}
FEEDS = {
    "system.log": roles("operator log"),
    "system.message": roles("operator message"),
    "system.service.register": roles("operator services"),
    "system.topic.subscribe": roles("operator topics public"),
    "system.topic.unsubscribe": roles("operator topics public"),
}
RULES = [
    *(Rule(*each) for each in _SENT),
    *(Rule("confirm", topic, who) for do, topic, who in _SENT if do == "publish"),
    *(Rule("tell", topic, who) for do, topic, who in _SENT if do == "request"),
    Rule("answer", "weather.current", KNOWN),
    *(Rule("ask", topic, who, payload) for topic, (who, payload) in SYSTEM_TOPICS.items()),
    *(
        Rule("misuse", f"{action}:{topic}", roles(""))
        for action in ("publish", "response")
        for topic in dict.fromkeys([*SYSTEM_TOPICS, *FEEDS, "system.nothing"])
        # A client answers the broker's heartbeats with responses.
        if (action, topic) != ("response", "system.heartbeat")
    ),
    Rule("misuse", "request:system.nothing", roles("")),
    Rule("misuse", "request:System.message", roles("")),
    Rule("respond", "weather.current", roles("operator responder")),
    Rule("respond", "weather.+", roles("operator responder")),
    Rule("respond", "weather.#", roles("operator")),
    Rule("respond", "open.+", roles("operator public")),
    Rule("subscribe", "weather.oslo", roles("operator subscriber")),
    Rule("subscribe", "Weather.#", roles("operator subscriber")),
    Rule("subscribe", "+.oslo", roles("operator")),
    Rule("subscribe", "#", roles("operator")),
    Rule("subscribe", "open.door", roles("operator public")),
    Rule("subscribe", "open.#", roles("operator")),
    # It takes both.
    Rule("both", "weather.both", roles("operator")),
    Rule("both", "open.both", roles("operator public")),
    *(Rule("follow", topic, who) for topic, who in FEEDS.items()),
]

Outcome = tuple[Any, ...]
"""`("done",)`, or an error: its code, and of FORBIDDEN the action, the topic and the user."""


def expected(rule: Rule, client: Client) -> Outcome:
    """What happens when this client does this."""
    known = client.user is not None or client.open
    if rule.do == "misuse":
        return ("refused",)
    if rule.name == "ask system.authenticate" and client.user is None:
        return ("UNAUTHORIZED",)  # its token is wrong
    if rule.allowed == NOTHING or (rule.allowed == KNOWN and known) or rule.allowed & client.roles:
        return ("done",)
    if not known:
        return ("UNAUTHORIZED",)
    action, topic = rule.action, rule.topic
    if topic == "system.topic.subscribe" and rule.do == "ask":
        action, topic = "subscribe", rule.payload["topic"]
    if rule.do == "both" and "subscriber" in client.roles and rule.topic.startswith("weather"):
        action = "respond"
    return ("FORBIDDEN", action, topic, client.user)


def forwarded(client: Client, rules: Iterable[Rule]) -> set[str]:
    """The payloads of a client that others may get."""
    sends = ("publish", "confirm", "request", "tell")
    return {rule.name for rule in rules if rule.do in sends and expected(rule, client) == ("done",)}


def subscriptions_of(client: Client) -> set[tuple[str, str]]:
    """What a client is subscribed to after it has done all of it."""
    actions = {"subscribe": ["publish"], "follow": ["publish"], "respond": ["request"]}
    actions["both"] = ["publish", "request"]
    return {
        (action, rule.topic.lower())
        for rule in RULES
        if expected(rule, client) == ("done",)
        for action in actions.get(rule.do, [])
    }
