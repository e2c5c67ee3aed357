"""The Router against a model of roles, with random users, subscriptions, messages and reloads."""

from __future__ import annotations

import json
from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from mb_broker.access import Access, Grants, Limits, Role, User
from mb_broker.access.grants import SystemPart
from mb_core.authenticators import Credentials
from mb_core.topic import matches

from .conftest import Bench, Peer, new_id
from .users import access_of

TOPICS = ["a", "a.b", "a.b.c", "b", "b.c"]
PATTERNS = ["#", "+", "a.#", "a.+", "+.b", "a.b", "b.c"]
PARTS: list[SystemPart] = ["services", "topics", "metrics"]
FEEDS = {
    "system.service.register": "services",
    "system.topic.subscribe": "topics",
    "system.topic.unsubscribe": "topics",
}
LISTS = {
    "service.list": "services",
    "service.subscriptions": "services",
    "topic.list": "topics",
    "topic.subscriptions": "topics",
    "metrics": "metrics",
}
NAMES = ["0", "1", "2"]
actions = st.sampled_from(["publish", "request"])
patterns = st.lists(st.sampled_from(PATTERNS), max_size=2)
roles = st.builds(
    Role,
    publish=patterns,
    request=patterns,
    subscribe=patterns,
    respond=patterns,
    system=st.lists(st.sampled_from(PARTS), max_size=2),
)
# With the highest priority that a user may have.
users = st.dictionaries(
    st.sampled_from(NAMES), st.tuples(roles, st.sampled_from([None, 3.0])), max_size=3
)


class AccessMachine(RuleBasedStateMachine):
    """Each client has the roles of a user, or none; the model asks them for every message."""

    clients: Bundle[Peer] = Bundle("clients")

    @initialize(given=users, anonymous=st.none() | roles)
    def start(self, given: dict[str, tuple[Role, float | None]], anonymous: Role | None) -> None:
        self.users = given
        self.anonymous = anonymous
        self.bench = Bench(access=self.access())
        # The user of each connected client, or None.
        self.user_of: dict[Peer, str | None] = {}
        self.certificate_of: dict[Peer, str | None] = {}
        self.subscribed: dict[Peer, dict[tuple[str, str], float]] = {}
        self.wrong_tokens: Counter[Peer] = Counter()
        # Clients that have lost everything, and whose connections are about to be closed.
        self.rejected: set[Peer] = set()

    def access(self) -> Access:
        anonymous = [] if self.anonymous is None else [self.anonymous]
        given = [
            User(name, Grants([role, *anonymous]), Limits(max_priority=highest))
            for name, (role, highest) in self.users.items()
        ]
        return access_of(given, Grants(anonymous) if anonymous else None)

    def roles_of(self, peer: Peer) -> list[Role] | None:
        """Its own and those of anonymous clients; None if the broker does not know it."""
        anonymous = [] if self.anonymous is None else [self.anonymous]
        if (name := self.user_of[peer]) is not None:
            return [self.users[name][0], *anonymous]
        return anonymous or None

    def denial(self, peer: Peer) -> str:
        return "UNAUTHORIZED" if self.roles_of(peer) is None else "FORBIDDEN"

    def may_subscribe(self, peer: Peer, action: str, pattern: str, priority: float) -> bool:
        roles = self.roles_of(peer) or []
        if pattern in FEEDS:
            return any(FEEDS[pattern] in role.system for role in roles)
        name = self.user_of[peer]
        highest = self.users[name][1] if name is not None else None
        if action == "request" and highest is not None and priority > highest:
            return False
        granted = [
            each
            for role in roles
            for each in (role.subscribe if action == "publish" else role.respond)
        ]
        # By what it means: every topic that the pattern matches is matched by one granted pattern.
        wanted = [
            topic for topic in [*TOPICS, "x", "x.b", "a.x", "a.x.y"] if matches(pattern, topic)
        ]
        return any(all(matches(each, topic) for topic in wanted) for each in granted)

    def is_gone(self, peer: Peer) -> bool:
        return peer not in self.user_of or peer in self.rejected

    @rule(target=clients, certificate=st.none() | st.sampled_from(NAMES))
    def connect(self, certificate: str | None) -> Peer:
        names = () if certificate is None else ("DNS:host", f"CN={certificate}")
        peer = self.bench.join(Credentials(certificate=names))
        self.certificate_of[peer] = certificate
        self.user_of[peer] = certificate if certificate in self.users else None
        self.subscribed[peer] = {}
        return peer

    @rule(peer=clients, name=st.sampled_from([*NAMES, "nobody"]))
    def authenticate(self, peer: Peer, name: str) -> None:
        if self.is_gone(peer):
            return
        answer = peer.ask("authenticate", {"token": f"mb_{name}"})
        if name not in self.users or self.wrong_tokens[peer] == 3:
            assert answer["error"]["code"] == "UNAUTHORIZED"
            self.wrong_tokens[peer] = min(3, self.wrong_tokens[peer] + 1)
        elif self.user_of[peer] not in (None, name) and self.subscribed[peer]:
            assert answer["error"]["code"] == "INVALID_REQUEST"
        else:
            assert answer == {"status": "success", "user": name}
            self.user_of[peer] = name

    @rule(
        peer=clients,
        pattern=st.sampled_from(PATTERNS),
        action=actions,
        priority=st.sampled_from([0, 3, 3.5]),
    )
    def subscribe(self, peer: Peer, pattern: str, action: str, priority: float) -> None:
        self.try_to_subscribe(peer, pattern, action, priority)

    @rule(peer=clients, feed=st.sampled_from(sorted(FEEDS)))
    def follow(self, peer: Peer, feed: str) -> None:
        self.try_to_subscribe(peer, feed, "publish", 0)

    def try_to_subscribe(self, peer: Peer, pattern: str, action: str, priority: float) -> None:
        if self.is_gone(peer):
            return
        payload = {"action": action, "topic": pattern, "priority": priority}
        answer = peer.ask("topic.subscribe", payload)
        if self.may_subscribe(peer, action, pattern, priority):
            assert answer == {"status": "success"}
            self.subscribed[peer][action, pattern] = priority
        else:
            assert answer["error"]["code"] == self.denial(peer)

    @rule(peer=clients, topic=st.sampled_from(sorted(LISTS)))
    def read_a_list(self, peer: Peer, topic: str) -> None:
        if self.is_gone(peer):
            return
        answer = peer.ask(topic, {})
        if any(LISTS[topic] in role.system for role in self.roles_of(peer) or []):
            assert "error" not in answer
        else:
            assert answer["error"]["code"] == self.denial(peer)

    @rule(peer=clients, topic=st.sampled_from(TOPICS), action=actions)
    def send(self, peer: Peer, topic: str, action: str) -> None:
        if self.is_gone(peer):
            return
        roles = self.roles_of(peer) or []
        for each in self.user_of:
            each.take()
        peer.send(f"{action}:{topic}:1.0.0:{new_id()}\n{{}}")
        receivers = {
            each: priority
            for each, subscriptions in self.subscribed.items()
            for (what, pattern), priority in sorted(subscriptions.items(), key=lambda item: item[1])
            if what == action and pattern not in FEEDS and matches(pattern, topic)
        }
        got = {each for each in self.user_of if any(b"response:" not in m for m in each.take())}
        granted = [each for role in roles for each in getattr(role, action)]
        if not any(matches(pattern, topic) for pattern in granted):
            assert got == set()
        elif action == "publish":
            assert got == set(receivers)
        else:
            highest = max(receivers.values(), default=0)
            assert got <= {each for each, priority in receivers.items() if priority == highest}
            assert len(got) == min(1, len(receivers))

    @rule(given=users, anonymous=st.none() | roles, at_once=st.booleans())
    def reload(
        self,
        given: dict[str, tuple[Role, float | None]],
        anonymous: Role | None,
        at_once: bool,
    ) -> None:
        """Change the access file; the driver closes connections now or after the next reload."""
        for peer in self.user_of:
            peer.take()
        had_anonymous = self.anonymous is not None
        self.users, self.anonymous = given, anonymous
        for peer, name in self.user_of.items():
            if peer in self.rejected:
                continue
            if name is not None:
                removed = name not in given
            else:
                removed = had_anonymous and anonymous is None
                certificate = self.certificate_of[peer]
                if not removed and certificate in given and self.wrong_tokens[peer] < 3:
                    self.user_of[peer] = certificate
            if removed:
                self.user_of[peer], self.subscribed[peer] = None, {}
                self.rejected.add(peer)
        self.bench.router.replace_access(self.access(), self.bench.now)
        self.bench.deliver()
        for peer, subscriptions in self.subscribed.items():
            lost = {
                (action, pattern)
                for (action, pattern), priority in subscriptions.items()
                if not self.may_subscribe(peer, action, pattern, priority)
            }
            for key in lost:
                del subscriptions[key]
            errors = [json.loads(each.partition(b"\n")[2])["error"] for each in peer.take()]
            assert {each["code"] for each in errors} <= {"FORBIDDEN"}
            verbs = {"publish": "subscribe", "request": "respond"}
            assert sorted(
                (each["details"]["action"], each["details"]["topic"]) for each in errors
            ) == (sorted((verbs[action], pattern) for action, pattern in lost))
            assert {each["details"]["user"] for each in errors} <= {self.user_of[peer]}
        if at_once:
            self.close_rejected()

    @rule()
    def close_rejected(self) -> None:
        """Let the driver close connections, at the time that the Router asks for."""
        self.bench.rejected.clear()
        self.bench.advance(0)
        guessing = {peer for peer in self.user_of if self.wrong_tokens[peer] == 3}
        closed = {peer for peer, _ in self.bench.rejected}
        assert closed == self.rejected | guessing
        for peer in closed:
            peer.leave()
            del self.user_of[peer], self.subscribed[peer]
        self.rejected.clear()

    @invariant()
    def nobody_has_what_it_may_not(self) -> None:
        for peer, subscriptions in getattr(self, "subscribed", {}).items():
            had = {(action.value, pattern) for action, pattern in peer.service.subscriptions}
            assert had == set(subscriptions)
            user = peer.service.user
            assert (user.name if user is not None else None) == self.user_of[peer]


TestAccess = AccessMachine.TestCase
# Fewer steps than a client may send messages without authenticating.
TestAccess.settings = settings(max_examples=120, stateful_step_count=20, deadline=None)
