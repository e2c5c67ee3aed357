"""What does a rule of `rules`: a client that writes messages by hand, and those of front ends."""

from __future__ import annotations

import json
import uuid
from typing import Any

from mb_core import ResponseError
from mb_testing import wait_until

from ..matrix.clients import Client as FrontendClient
from .rules import Outcome, Rule
from .sockets import Wire

__all__ = ["FrontendDriver", "SocketDriver", "outcome_of"]

_ACTIONS = {"subscribe": "publish", "follow": "publish", "respond": "request", "both": "both"}


def outcome_of(rule: Rule, code: str, details: Any) -> Outcome:
    """What an error means for a rule."""
    if rule.do == "misuse":
        return ("refused",)
    if rule.do == "answer" and code == "INVALID_REQUEST_ID":
        return ("done",)  # there was nothing to answer
    if code == "FORBIDDEN":
        assert set(details) == {"action", "topic", "user"}
        return (code, details["action"], details["topic"], details["user"])
    return (code,)


def _payload(rule: Rule, token: str) -> Any:
    if rule.topic == "system.authenticate":
        return {"token": token}
    return rule.payload


class SocketDriver:
    """Writes messages by hand; `received` is everything that came."""

    def __init__(self, wire: Wire, token: str) -> None:
        self.received: list[bytes] = []
        self._wire = wire
        self._token = token

    def do(self, rule: Rule) -> Outcome:
        if rule.do in _ACTIONS:
            payload = {"action": _ACTIONS[rule.do], "topic": rule.topic}
            answer = self.request("system.topic.subscribe", payload)
        elif rule.do == "ask":
            answer = self.request(rule.topic, _payload(rule, self._token))
        elif rule.do in ("publish", "tell"):
            action = "publish" if rule.do == "publish" else "request"
            self._wire.send(f"{action}:{rule.topic}:1.0.0\n{json.dumps(rule.name)}".encode())
            answer = self._answer_without_id(rule.topic)
        elif rule.do == "misuse":
            answer = self.send(rule.topic, {})
        else:
            action = {"confirm": "publish", "answer": "response"}.get(rule.do, rule.do)
            answer = self.send(f"{action}:{rule.topic}", rule.name)
        if isinstance(answer, dict) and isinstance(error := answer.get("error"), dict):
            return outcome_of(rule, error["code"], error.get("details"))
        return ("done",)

    def request(self, topic: str, payload: Any) -> Any:
        return self.send(f"request:{topic}", payload)

    def unsubscribe(self, action: str, topic: str) -> None:
        if topic == "system.log":
            answer = self.request("system.log.unsubscribe", {})
        else:
            answer = self.request("system.topic.unsubscribe", {"action": action, "topic": topic})
        assert answer == {"status": "success"}

    def send(self, head: str, payload: Any) -> Any:
        """Send a message with an id, and return the payload of its answer."""
        request_id = str(uuid.uuid4())
        self._wire.send(f"{head}:1.0.0:{request_id}\n{json.dumps(payload)}".encode())
        answer = b"response:%b:1.0.0:%b" % (head.partition(":")[2].encode(), request_id.encode())
        while True:
            header, _, text = self.receive().partition(b"\n")
            if header == answer:
                return json.loads(text)

    def _answer_without_id(self, topic: str) -> Any:
        """Return the answer to a message without an id, which is an error or nothing.

        It comes before the answer to what is sent afterwards.
        """
        start = len(self.received)
        self.request("system.heartbeat", {})
        for message in self.received[start:]:
            header, _, text = message.partition(b"\n")
            if header.startswith(b"response:%b:" % topic.encode()):
                return json.loads(text)
        return None

    def receive(self) -> bytes:
        """Return the next message; raises EOFError if the broker has closed the connection."""
        self.received.append(self._wire.receive())
        return self.received[-1]


class FrontendDriver:
    """Calls the methods of a client, as a program does."""

    def __init__(self, client: FrontendClient, token: str) -> None:
        self._client = client
        self._token = token
        self._errors: list[Exception] = []
        client.on_error(self._errors.append)

    def do(self, rule: Rule) -> Outcome:
        try:
            self._do(rule)
        except ResponseError as error:
            outcome = outcome_of(rule, error.code, error.details)
            if rule.topic == "system.log" and outcome[1:3] == ("request", "system.log.subscribe"):
                # Clients follow the log with this request, so that they can select levels.
                return (error.code, rule.action, rule.topic, outcome[3])
            return outcome
        return ("done",)

    def _do(self, rule: Rule) -> None:
        client = self._client
        if rule.do == "publish":
            client.publish(rule.topic, rule.name)
            # An error comes before the answer to this; the front end then calls on_error.
            client.request("system.heartbeat", {})
        elif rule.do == "confirm":
            client.publish(rule.topic, rule.name, confirm=True)
        elif rule.do == "request":
            assert client.request(rule.topic, rule.name).payload == rule.name
        elif rule.do in _ACTIONS:
            client.handle(rule.topic, lambda message: message.payload, action=_ACTIONS[rule.do])
        elif rule.topic == "system.service.register":
            client.register_service(**rule.payload)
        else:
            client.request(rule.topic, _payload(rule, self._token))

    def unsubscribe(self, action: str, topic: str) -> None:
        self._client.unsubscribe(topic, action=action)

    def take_errors(self, count: int) -> list[Exception]:
        """Wait for this many errors of on_error, and return all of them."""
        wait_until(lambda: len(self._errors) >= count)
        self._client.request("system.heartbeat", {})  # one more would have come before this
        return self._errors
