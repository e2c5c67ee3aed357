"""Several services on one Router, against a model that is too simple to be wrong."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    rule,
    run_state_machine_as_test,
)

from mb_core.topic import matches

TOPICS = st.sampled_from(["a", "A.b", "a.B.c", "x.b"])
PATTERNS = st.sampled_from(["a", "a.b", "A.+", "+.b", "a.#", "#", "x.b"])
ACTIONS = st.sampled_from(["publish", "request"])
PRIORITIES = st.sampled_from([None, -1, 0, 1.5])
LIMITS = st.sampled_from([None, 10, 100, 1000])
DEFAULT_LIMIT = 5.0


@dataclass(eq=False)
class Request:
    """A request that its responder has received."""

    requester: Any
    requester_id: str | None
    topic: str
    responder: Any
    broker_id: str
    deadline: float


class RouterMachine(RuleBasedStateMachine):
    peers = Bundle("peers")
    requests = Bundle("requests")

    def __init__(self, bench: Any) -> None:
        super().__init__()
        self.bench = bench
        self.here: list[Any] = []
        self.subscriptions: dict[tuple[Any, str, str], float | None] = {}
        self.waiting: list[Request] = []

    # The model

    def matching(self, action: str, topic: str) -> dict[Any, float]:
        """Who is subscribed to a topic, with the highest of their priorities."""
        found: dict[Any, float] = {}
        for (peer, subscribed, pattern), priority in self.subscriptions.items():
            if subscribed == action and matches(pattern, topic):
                found[peer] = max(found.get(peer, float("-inf")), priority or 0)
        return found

    def expect_error(self, peer: Any, topic: str, request_id: str | None, code: str) -> None:
        header, _, payload = peer.inbox.popleft().partition(b"\n")
        action, got_topic, version, got_id = header.decode().split(":")
        assert (action, got_topic, version) == ("response", topic, "1.0.0")
        if request_id is not None:
            assert got_id == request_id
        else:
            uuid.UUID(got_id)
        assert json.loads(payload)["error"]["code"] == code

    def is_here(self, peer: Any) -> bool:
        return peer in self.here

    # What happens

    @rule(target=peers)
    def connect(self) -> Any:
        peer = self.bench.join()
        self.here.append(peer)
        return peer

    @rule(peer=consumes(peers))
    def disconnect(self, peer: Any) -> None:
        self.here.remove(peer)
        peer.leave()
        self.subscriptions = {
            key: priority for key, priority in self.subscriptions.items() if key[0] is not peer
        }
        for request in [request for request in self.waiting if request.responder is peer]:
            self.waiting.remove(request)
            if self.is_here(request.requester) and request.requester_id is not None:
                self.expect_error(
                    request.requester, request.topic, request.requester_id, "SERVICE_UNAVAILABLE"
                )

    @rule(peer=peers, action=ACTIONS, pattern=PATTERNS, priority=PRIORITIES)
    def subscribe(self, peer: Any, action: str, pattern: str, priority: float | None) -> None:
        more = {} if priority is None else {"priority": priority}
        peer.subscribe(pattern, action, **more)
        # Without one, requests have the priority 0; publications have none.
        ranked = (priority or 0) if action == "request" else None
        self.subscriptions[peer, action, pattern.lower()] = ranked

    @rule(peer=peers, action=ACTIONS, pattern=PATTERNS)
    def unsubscribe(self, peer: Any, action: str, pattern: str) -> None:
        known = (peer, action, pattern.lower()) in self.subscriptions
        answer = peer.ask("topic.unsubscribe", {"action": action, "topic": pattern})
        assert answer == {"status": "success" if known else "failure"}
        self.subscriptions.pop((peer, action, pattern.lower()), None)

    @rule(peer=peers, topic=TOPICS, with_id=st.booleans(), payload=st.text(max_size=5))
    def publish(self, peer: Any, topic: str, with_id: bool, payload: str) -> None:
        request_id = str(uuid.uuid4()) if with_id else None
        peer.send(f"publish:{topic}:1.0.0:{request_id or ''}\n{payload}")
        receivers = self.matching("publish", topic)
        copies = {receiver.inbox.popleft() for receiver in receivers}
        if not receivers:
            self.expect_error(peer, topic, request_id, "NO_ROUTE_FOUND")
            return
        (copy,) = copies
        header, _, received = copy.partition(b"\n")
        assert header.startswith(f"publish:{topic}:1.0.0:".encode())
        assert received == payload.encode()
        if request_id is not None:
            confirmation = f'response:{topic}:1.0.0:{request_id}\n{{"status":"success"}}'
            assert peer.inbox.popleft() == confirmation.encode()

    @rule(target=requests, peer=peers, topic=TOPICS, with_id=st.booleans(), limit=LIMITS)
    def request(self, peer: Any, topic: str, with_id: bool, limit: int | None) -> Request | None:
        request_id = str(uuid.uuid4()) if with_id else None
        peer.send(f"request:{topic}:1.0.0:{request_id or ''}::{limit or ''}\n{topic}")
        responders = self.matching("request", topic)
        if not responders:
            self.expect_error(peer, topic, request_id, "NO_ROUTE_FOUND")
            return None
        (responder,) = (other for other in self.here if other.inbox)
        assert responders[responder] == max(responders.values())
        header, _, payload = responder.inbox.popleft().partition(b"\n")
        assert payload == topic.encode()
        prefix, _, broker_id = header.decode().rpartition(":")
        assert prefix == f"request:{topic}:1.0.0"
        deadline = self.bench.now + (limit / 1000 if limit else DEFAULT_LIMIT)
        request = Request(peer, request_id, topic, responder, broker_id, deadline)
        self.waiting.append(request)
        return request

    @rule(
        request=requests,
        peer=peers,
        by_the_asked=st.booleans(),
        payload=st.sampled_from(["{}", 'error:{"code":"BAD"}']),
    )
    def respond(self, request: Request | None, peer: Any, by_the_asked: bool, payload: str) -> None:
        if request is None:
            return
        if by_the_asked and self.is_here(request.responder):
            peer = request.responder
        peer.send(f"response:Some.Topic:9.9.9:{request.broker_id}\n{payload}")
        if request not in self.waiting or peer is not request.responder:
            self.expect_error_of_responder(peer, request)
            return
        self.waiting.remove(request)
        if not self.is_here(request.requester):
            return
        if request.requester_id is not None:
            expected = f"response:{request.topic}:1.0.0:{request.requester_id}\n{payload}"
            assert request.requester.inbox.popleft() == expected.encode()
        elif payload.startswith("error:"):
            header, _, received = request.requester.inbox.popleft().partition(b"\n")
            assert header.startswith(f"response:{request.topic}:1.0.0:".encode())
            assert received == payload.encode()

    def expect_error_of_responder(self, peer: Any, request: Request) -> None:
        header, _, payload = peer.inbox.popleft().partition(b"\n")
        assert header == f"response:Some.Topic:9.9.9:{request.broker_id}".encode()
        assert json.loads(payload)["error"]["code"] == "INVALID_REQUEST_ID"

    @rule(seconds=st.sampled_from([0.001, 0.01, 0.5, 6]))
    def time_passes(self, seconds: float) -> None:
        self.bench.advance(seconds)
        due = [request for request in self.waiting if request.deadline <= self.bench.now]
        # Of those that end at the same time, the first one asked comes first.
        for request in sorted(due, key=lambda request: request.deadline):
            self.waiting.remove(request)
            if self.is_here(request.requester) and request.requester_id is not None:
                self.expect_error(request.requester, request.topic, request.requester_id, "TIMEOUT")

    # What holds at all times

    @invariant()
    def nothing_else_was_sent(self) -> None:
        assert not [list(peer.inbox) for peer in self.here if peer.inbox]

    @invariant()
    def the_tables_agree(self) -> None:
        router = self.bench.router
        assert router.outstanding == sum(self.is_here(each.requester) for each in self.waiting)
        assert (router.next_deadline() is None) == (not self.here and not self.waiting)
        assert set(router.registry.services) == {peer.id for peer in self.here}
        found = {(entry.service.id, entry.action.value, entry.pattern, entry.priority)
                 for entry in router.registry.subscriptions()}  # fmt: skip
        assert found == {
            (peer.id, action, pattern, priority)
            for (peer, action, pattern), priority in self.subscriptions.items()
        }

    def teardown(self) -> None:
        for peer in self.here:
            peer.leave()
        router = self.bench.router
        assert router.outstanding == 0
        assert router.next_deadline() is None
        assert not router.registry.services
        assert not list(router.registry.subscriptions())


def test_the_router_agrees_with_its_model(new_bench: Callable[..., Any]) -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        lambda: RouterMachine(new_bench(heartbeat_after=1e9, drop_after=2e9)),
        settings=settings(max_examples=60, stateful_step_count=40, deadline=None),
    )
