"""An audit feed of made-up events."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from mb_tools.audit import read_event
from mb_tools.exchange_trees import Node, TreeBuilder

BEGAN = 1_767_225_600.0  # 2026-01-01


class Feed:
    """Plays a broker's audit feed into a TreeBuilder; time passes only by `wait`."""

    def __init__(self, **options: Any) -> None:
        self.builder = TreeBuilder(**options)
        self.now = 0.0
        self.finished: list[Node] = []
        self._count = 0

    def wait(self, seconds: float) -> list[Node]:
        """Let time pass; what is finished by then."""
        self.now += seconds
        return self.take()

    def take(self) -> list[Node]:
        found = self.builder.take_finished(self.now)
        self.finished += found
        return found

    def new_id(self) -> str:
        self._count += 1
        return f"00000000-0000-4000-8000-{self._count:012x}"

    def event(self, header: dict[str, Any], payload: Any = None, **fields: Any) -> None:
        time = datetime.fromtimestamp(BEGAN + self.now, UTC).isoformat(timespec="milliseconds")
        known = {name: value for name, value in header.items() if value is not None}
        fields = {name.rstrip("_"): value for name, value in fields.items() if value is not None}
        text = json.dumps(
            {"timestamp": time, "message": {"header": known, "payload": payload}, **fields}
        )
        event = read_event(text.encode())
        assert event is not None
        self.builder.take(event, self.now)

    # What clients do

    def request(
        self,
        sender: str,
        topic: str,
        to: str | None,
        *,
        parent: str | None = None,
        own_id: str | None = "new",
        timeout: int = 1_000,
    ) -> tuple[str | None, str]:
        """A request goes out; the sender's id and the one that its receiver sees."""
        own_id = self.new_id() if own_id == "new" else own_id
        self.event(
            {
                "action": "request",
                "topic": topic,
                "version": "1.0.0",
                "requestId": own_id,
                "parentRequestId": parent,
            },
            from_=sender,
            timeout=timeout,
        )
        seen = self.new_id()
        if to is not None:
            self.event(
                {"action": "request", "topic": topic, "requestId": seen},
                to=to,
                maskedId=own_id,
            )
        return own_id, seen

    def answer(
        self, responder: str, requester: str, topic: str, ids: tuple[str | None, str], payload: Any
    ) -> None:
        own_id, seen = ids
        header = {"action": "response", "topic": topic, "requestId": seen}
        self.event(header, payload, from_=responder)
        if own_id is not None:
            self.event({**header, "requestId": own_id}, payload, to=requester)

    def refuse(self, requester: str, topic: str, own_id: str | None, code: str) -> None:
        error = {"error": {"code": code, "message": "why", "timestamp": "t"}}
        header = {"action": "response", "topic": topic, "requestId": own_id or self.new_id()}
        self.event(header, error, to=requester)

    def publish(
        self,
        sender: str,
        topic: str,
        *to: str,
        parent: str | None = None,
        own_id: str | None = None,
    ) -> str:
        self.event(
            {
                "action": "publish",
                "topic": topic,
                "requestId": own_id,
                "parentRequestId": parent,
            },
            from_=sender,
        )
        copy = self.new_id()
        for receiver in to:
            self.event(
                {"action": "publish", "topic": topic, "requestId": copy},
                to=receiver,
                maskedId=own_id,
            )
        return copy


@pytest.fixture
def feed() -> Feed:
    return Feed(quiet=0.25)
