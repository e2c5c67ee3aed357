"""Refusing messages: the errors, and how they are counted, logged and sent."""

from __future__ import annotations

from collections.abc import Callable

from mb_core.errors import (
    ForbiddenError,
    InvalidRequestIdError,
    MalformedMessageError,
    ResponseError,
    UnauthorizedError,
)
from mb_core.header import MAX_HEADER, Action, HeaderPrefix
from mb_core.ids import IdSource

from .log_feed import LogFeed
from .metrics import BrokerMetrics
from .registry import Service
from .replies import malformed_reply, reply_error

__all__ = [
    "MAX_SUBJECT",
    "Refusals",
    "denied_error",
    "payload_error",
    "subject_error",
    "unknown_request_error",
]

MAX_SUBJECT = MAX_HEADER - len("response:") - len(":") - 36 - len("\n")
"""Bytes that topic and version may have together: a response with an id has no room for more."""


class Refusals:
    """Answers messages with errors, and counts and logs these.

    `second` is the current second of the Router's clock.
    """

    def __init__(
        self,
        metrics: BrokerMetrics,
        log: LogFeed,
        ids: IdSource,
        send: Callable[[Service, bytes], None],
    ) -> None:
        self._metrics = metrics
        self._log = log
        self._ids = ids
        self._send = send

    def refuse(
        self,
        service: Service,
        prefix: HeaderPrefix,
        request_id: bytes | None,
        error: ResponseError,
        second: int,
    ) -> None:
        """Answer with an error, under a new id if the message had none."""
        self._count(service, error, prefix.action, second)
        self._send(service, reply_error(prefix, request_id or self._ids.next(), error))

    def refuse_unread(self, service: Service, error: MalformedMessageError, second: int) -> None:
        """Answer a message with an invalid header; the error can't name the request."""
        self._count(service, error, None, second)
        self._send(service, malformed_reply(error))

    def _count(
        self, service: Service, error: ResponseError, action: Action | None, second: int
    ) -> None:
        self._metrics.count_error(second, service, action)
        cause = error.code
        if isinstance(error, ForbiddenError | UnauthorizedError):
            forbidden = isinstance(error, ForbiddenError)
            (self._metrics.forbidden if forbidden else self._metrics.unauthorized).add(second)
        details = error.details if isinstance(error.details, dict) else {}
        if "user" in details:
            # One entry per second for each user and action, so that one does not hide another.
            cause += f" {details.get('action')} {details['user']}"
        self._log.write(
            "error",
            "router",
            f"[{error.code}] {error.message}",
            cause=cause,
            second=second,
            serviceId=service.id,
            error={"code": error.code, "message": error.message, "timestamp": error.timestamp},
        )


def denied_error(service: Service, action: str, topic: str, why: str = "") -> ResponseError:
    """The error for what the roles of a client don't allow.

    `action` is what they would have to contain: publish, request, subscribe or respond.
    """
    if not service.grants.known:
        return UnauthorizedError("authenticate first: this broker needs a token")
    name = service.user.name if service.user is not None else None
    who = f"the user {name!r}" if name is not None else "an anonymous client"
    return ForbiddenError(
        f"{who} may not {_VERBS[action]} {topic}{why}",
        details={"action": action, "topic": topic, "user": name},
    )


_VERBS = {
    "publish": "publish to",
    "request": "send requests to",
    "subscribe": "subscribe to",
    "respond": "respond to requests for",
}


def unknown_request_error(service: Service, request_id: bytes | None) -> ResponseError:
    """The error for a response to nothing that its sender was asked."""
    if not service.grants.known:
        return denied_error(service, "respond", "")
    if request_id is None:
        return InvalidRequestIdError("a response needs the id of its request")
    return InvalidRequestIdError(
        f"this service has no request with the id {request_id.decode()} to answer (any more)"
    )


def subject_error(prefix: HeaderPrefix) -> MalformedMessageError:
    """The error for a message whose topic and version are too long."""
    return MalformedMessageError(
        f"topic and version have {len(prefix.subject)} bytes, the limit is {MAX_SUBJECT}: "
        f"with an id, the header would have more than {MAX_HEADER}",
        details={"version": prefix.version},
    )


def payload_error(size: int, max_payload: int) -> MalformedMessageError:
    """The error for a payload that is too large, or else not UTF-8."""
    if size <= max_payload:
        return MalformedMessageError("the message is not valid UTF-8")
    return MalformedMessageError(
        f"the payload has {size} bytes, the limit is {max_payload} (max_payload)",
        details={"payloadLength": size},
    )
