"""The Router against a model of roles, with random users, subscriptions and messages."""

from __future__ import annotations

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from mb_broker.access import Grants, Role, User
from mb_core.topic import matches

from .conftest import Bench, Peer, new_id
from .users import access_of

TOPICS = ["a", "a.b", "a.b.c", "b", "b.c"]
PATTERNS = ["#", "+", "a.#", "a.+", "+.b", "a.b", "b.c"]
patterns = st.lists(st.sampled_from(PATTERNS), max_size=2)
roles = st.builds(Role, publish=patterns, request=patterns, subscribe=patterns, respond=patterns)


class AccessMachine(RuleBasedStateMachine):
    """Each client has the roles of a user, or none; the model asks them for every message."""

    clients: Bundle[Peer] = Bundle("clients")

    @initialize(given=st.lists(roles, min_size=1, max_size=3), anonymous=st.none() | roles)
    def start(self, given: list[Role], anonymous: Role | None) -> None:
        self.roles = given
        self.anonymous = anonymous
        users = [User(str(number), Grants([role])) for number, role in enumerate(given)]
        self.bench = Bench(access=access_of(users, Grants([anonymous]) if anonymous else None))
        self.role_of: dict[Peer, Role | None] = {}
        self.subscribed: dict[Peer, set[tuple[str, str]]] = {}
        self.wrong_tokens: Counter[Peer] = Counter()

    @rule(target=clients)
    def connect(self) -> Peer:
        peer = self.bench.join()
        self.role_of[peer] = self.anonymous
        self.subscribed[peer] = set()
        return peer

    @rule(peer=clients, number=st.integers(0, 3))
    def authenticate(self, peer: Peer, number: int) -> None:
        answer = peer.ask("authenticate", {"token": f"mb_{number}"})
        if number >= len(self.roles) or self.wrong_tokens[peer] == 3:
            assert answer["error"]["code"] == "UNAUTHORIZED"
            self.wrong_tokens[peer] = min(3, self.wrong_tokens[peer] + 1)
        elif (
            peer.service.user is not None
            and peer.service.user.name != str(number)
            and self.subscribed[peer]
        ):
            assert answer["error"]["code"] == "INVALID_REQUEST"
        else:
            assert answer == {"status": "success", "user": str(number)}
            self.role_of[peer] = self.roles[number]

    @rule(
        peer=clients,
        pattern=st.sampled_from(PATTERNS),
        action=st.sampled_from(["publish", "request"]),
    )
    def subscribe(self, peer: Peer, pattern: str, action: str) -> None:
        role = self.role_of[peer]
        answer = peer.ask("topic.subscribe", {"action": action, "topic": pattern})
        granted = [] if role is None else role.subscribe if action == "publish" else role.respond
        # By what it means: every topic that the pattern matches is matched by one granted pattern.
        wanted = [
            topic for topic in [*TOPICS, "x", "x.b", "a.x", "a.x.y"] if matches(pattern, topic)
        ]
        if any(all(matches(each, topic) for topic in wanted) for each in granted):
            assert answer == {"status": "success"}
            self.subscribed[peer].add((action, pattern))
        else:
            assert answer["error"]["code"] == ("UNAUTHORIZED" if role is None else "FORBIDDEN")

    @rule(
        peer=clients, topic=st.sampled_from(TOPICS), action=st.sampled_from(["publish", "request"])
    )
    def send(self, peer: Peer, topic: str, action: str) -> None:
        role = self.role_of[peer]
        granted = [] if role is None else role.publish if action == "publish" else role.request
        for each in self.role_of:
            each.take()
        peer.send(f"{action}:{topic}:1.0.0:{new_id()}\n{{}}")
        receivers = {
            each
            for each, subscriptions in self.subscribed.items()
            if any(what == action and matches(pattern, topic) for what, pattern in subscriptions)
        }
        got = {each for each in self.role_of if any(b"response:" not in m for m in each.take())}
        if not any(matches(pattern, topic) for pattern in granted):
            assert got == set()
        elif action == "publish":
            assert got == receivers
        else:
            assert got <= receivers
            assert len(got) == min(1, len(receivers))

    @invariant()
    def nobody_has_what_it_may_not(self) -> None:
        for peer, subscriptions in getattr(self, "subscribed", {}).items():
            had = {(action.value, pattern) for action, pattern in peer.service.subscriptions}
            assert had == subscriptions


TestAccess = AccessMachine.TestCase
# Fewer steps than a client may send messages without authenticating.
TestAccess.settings = settings(max_examples=90, stateful_step_count=20, deadline=None)
