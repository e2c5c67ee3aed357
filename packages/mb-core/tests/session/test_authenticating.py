"""Authenticating: the first request on a connection, before anything is restored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mb_core.errors import ConnectionLost, UnauthorizedError
from mb_core.message import parse_message
from mb_core.session import (
    PendingRequest,
    RequestFailed,
    ResponseReceived,
    Session,
    SessionState,
)

InState = Callable[..., Session]
LIMITS: dict[str, Any] = {"now": 0.0, "timeout": 1000}


@pytest.fixture(params=[False, True], ids=["first", "again"])
def restoring(request: pytest.FixtureRequest, in_state: InState) -> Session:
    """A Session that has just been greeted."""
    return in_state(SessionState.RESTORING, again=request.param)


def answered(session: Session, request: PendingRequest, payload: str) -> Any:
    """The event for the broker's answer."""
    head = f"response:{request.topic}:1.0.0:{request.request_id.decode()}"
    (event,) = session.receive([f"{head}\n{payload}".encode()])
    return event


def test_the_request_has_the_token_and_is_not_restored_later(restoring: Session) -> None:
    request = restoring.authenticate("mb_secret", **LIMITS)
    message = parse_message(request.message)
    assert (message.action, message.topic) == ("request", "system.authenticate")
    assert message.payload == {"token": "mb_secret"}
    assert not request.retry
    assert not request.in_outbox
    event = answered(restoring, request, '{"status":"success","user":"station"}')
    assert isinstance(event, ResponseReceived)
    assert event.request is request
    assert restoring.restore(**LIMITS) == []


def test_an_error_fails_the_request_only(restoring: Session) -> None:
    request = restoring.authenticate("mb_secret", **LIMITS)
    error = '{"error":{"code":"UNAUTHORIZED","message":"the token is invalid","timestamp":""}}'
    event = answered(restoring, request, error)
    assert isinstance(event, RequestFailed)
    assert isinstance(event.error, UnauthorizedError)
    assert restoring.state is SessionState.RESTORING


def test_a_lost_connection_fails_it_and_it_is_not_sent_again(restoring: Session) -> None:
    request = restoring.authenticate("mb_secret", **LIMITS)
    failed = [event for event in restoring.link_lost(None) if isinstance(event, RequestFailed)]
    assert [event.request for event in failed] == [request]
    assert isinstance(failed[0].error, ConnectionLost)
    assert "mb_secret" not in str(failed[0].error)
    assert not restoring.outbox


def test_no_answer_in_time_fails_it(restoring: Session) -> None:
    request = restoring.authenticate("mb_secret", **LIMITS)
    (event,) = restoring.handle_deadline(10.0)
    assert isinstance(event, RequestFailed)
    assert event.request is request


def test_its_repr_does_not_show_the_token(restoring: Session) -> None:
    request = restoring.authenticate("mb_secret", **LIMITS)
    assert repr(request) == "PendingRequest('system.authenticate', 1000 ms, about=None)"
