"""A Session that asks."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mb_core.session import (
    PendingRequest,
    Session,
)

Ready = Callable[..., Session]
Answer = Callable[..., bytes]
Begin = Callable[..., PendingRequest]


@pytest.fixture(params=["request", "publish_confirmed"])
def begin(request: pytest.FixtureRequest) -> Begin:
    """Begin something that waits for an answer: a request, a confirmed publication."""
    call: str = request.param

    def make(
        session: Session, topic: str = "a.b", *, now: float = 0.0, timeout: int = 1000
    ) -> PendingRequest:
        pending: PendingRequest = getattr(session, call)(topic, {}, now=now, timeout=timeout)
        return pending

    return make
