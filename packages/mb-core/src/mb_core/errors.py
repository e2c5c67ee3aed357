"""Every error that this library raises on purpose.

    MBError
        ConnectError                    connecting failed
        ConnectionLost                  the connection ended before the operation was complete
        ProtocolError                   a rule of the protocol was broken,
            LocalProtocolError              by the caller
            RemoteProtocolError             by the other side
        MessageTooLarge                 a header or a payload is over its limit
        SlowConsumer                    messages were dropped from a full queue
        PluginError                     a plugin is missing, broken, or in conflict with another
        ResponseError                   the other side answered with an error, by its code:
            InvalidRequestError             INVALID_REQUEST
            MalformedMessageError           MALFORMED_MESSAGE
            InvalidRequestIdError           INVALID_REQUEST_ID
            VersionNotSupportedError        VERSION_NOT_SUPPORTED
            UnauthorizedError               UNAUTHORIZED
            ForbiddenError                  FORBIDDEN
            TopicNotSupportedError          TOPIC_NOT_SUPPORTED
            NoRouteFoundError               NO_ROUTE_FOUND
            ServiceUnavailableError         SERVICE_UNAVAILABLE
            RequestTimeoutError             TIMEOUT
            InternalError                   INTERNAL_ERROR

Errors carry attributes; their text is for people.  The codes are those of the protocol
(docs/protocol.md, "Errors").
"""

from __future__ import annotations

import copyreg
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, ClassVar

__all__ = [
    "ConnectError",
    "ConnectionLost",
    "ForbiddenError",
    "InternalError",
    "InvalidRequestError",
    "InvalidRequestIdError",
    "LocalProtocolError",
    "MBError",
    "MalformedMessageError",
    "MessageTooLarge",
    "NoRouteFoundError",
    "PluginError",
    "ProtocolError",
    "RemoteProtocolError",
    "RequestTimeoutError",
    "ResponseError",
    "ServiceUnavailableError",
    "SlowConsumer",
    "TopicNotSupportedError",
    "UnauthorizedError",
    "VersionNotSupportedError",
    "timestamp_now",
]


class MBError(Exception):
    """The root of every error of this library.  Copying and pickling keep its attributes."""

    # The received Message that the error is about, where there is one (see message.is_about).
    _about: Any = None

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
        # Exception's own way calls the constructor with the text alone, which most refuse.
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]


class ConnectError(MBError):
    """Connecting failed: refused, TLS, the handshake, or no greeting in time.

    `final` says that trying again will not help until somebody changes something, such as the
    certificate, the host name in it, the credentials or the arguments.  A client does not try its
    first connection again then; a lost connection it does.
    """

    def __init__(self, text: str, *, final: bool = False) -> None:
        super().__init__(text)
        self.final = final


class ConnectionLost(MBError):
    """The connection ended before the operation was complete.

    `sent` says what happened to the message: False means that it never left this process, True
    that it may have reached the broker.
    """

    def __init__(self, text: str, *, sent: bool) -> None:
        super().__init__(text)
        self.sent = sent


class ProtocolError(MBError):
    """A rule of the MB protocol was broken; the subclasses say by which side.

    `code` is the protocol's name for it, `details` the invalid values, as a broker reports them.
    """

    def __init__(
        self,
        text: str,
        *,
        code: str = "MALFORMED_MESSAGE",
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(text)
        self.code = code
        self.details = details


class LocalProtocolError(ProtocolError):
    """The caller was about to break a rule; nothing was sent."""


class RemoteProtocolError(ProtocolError):
    """The other side broke a rule.

    If a received payload can't be read, or does not fit the requested type, `reason` says what
    is wrong and `path` where, as in `$.items[0].price`.  `path` is None if the whole payload is
    invalid; both are None for every other error.
    """

    reason: str | None = None
    path: str | None = None


class MessageTooLarge(MBError):
    """A header or a payload is over its limit.  `size` and `limit` are in bytes."""

    def __init__(self, text: str, *, size: int, limit: int) -> None:
        super().__init__(text)
        self.size = size
        self.limit = limit


class SlowConsumer(MBError):
    """A subscription's queue was full, and messages were dropped.

    `topic` is the subscription's pattern, `dropped` how many messages it has lost so far.
    """

    def __init__(self, topic: str, dropped: int) -> None:
        super().__init__(
            f"the consumer of {topic!r} is too slow: {dropped} messages dropped so far "
            "(raise queue_size, queue_bytes or concurrency, or make the handler faster)"
        )
        self.topic = topic
        self.dropped = dropped


class PluginError(MBError):
    """A plugin is missing, broken, or in conflict with another."""


class ResponseError(MBError):
    """The other side answered with an error.

    A request handler may raise it, too: its code, text and details become the answer.
    `timestamp` is ISO 8601 in UTC; `details` is any JSON that the other side attached.
    A subclass sets a code, and `ResponseError.of` creates the first subclass with that code.
    """

    _by_code: ClassVar[dict[str, type[ResponseError]]] = {}
    code: str = "INTERNAL_ERROR"

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # A subclass that names no code inherits its parent's, whose class stays.
        ResponseError._by_code.setdefault(cls.code, cls)

    def __init__(
        self,
        message: str = "",
        *,
        code: str | None = None,
        timestamp: str | None = None,
        details: Any = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        if code is not None:
            self.code = code
        self.timestamp = timestamp if timestamp is not None else timestamp_now()
        self.details = details

    @classmethod
    def of(
        cls, code: str, message: str, *, timestamp: str | None = None, details: Any = None
    ) -> ResponseError:
        """Return the error for `code`: an instance of its subclass, or of ResponseError.

        The subclass's own constructor is not called, since its arguments are not on the wire.
        """
        kind = cls._by_code.get(code, ResponseError)
        error = kind.__new__(kind, message)
        ResponseError.__init__(error, message, code=code, timestamp=timestamp, details=details)
        return error

    def __str__(self) -> str:
        return f"{self.code}: {self.message}" if self.message else self.code

    def as_json(self) -> dict[str, Any]:
        """Return this error as it is sent (docs/protocol.md, "Errors")."""
        error = {"code": self.code, "message": self.message, "timestamp": self.timestamp}
        return error if self.details is None else {**error, "details": self.details}


class InvalidRequestError(ResponseError):
    """INVALID_REQUEST: the request is well formed, but its receiver can't act on it."""

    code = "INVALID_REQUEST"


class MalformedMessageError(ResponseError):
    """MALFORMED_MESSAGE: the message could not be read."""

    code = "MALFORMED_MESSAGE"


class InvalidRequestIdError(ResponseError):
    """INVALID_REQUEST_ID: a response belongs to no request, or came too late."""

    code = "INVALID_REQUEST_ID"


class VersionNotSupportedError(ResponseError):
    """VERSION_NOT_SUPPORTED: the topic exists, but not in this version."""

    code = "VERSION_NOT_SUPPORTED"


class UnauthorizedError(ResponseError):
    """UNAUTHORIZED: the sender is not known."""

    code = "UNAUTHORIZED"


class ForbiddenError(ResponseError):
    """FORBIDDEN: the sender is known, but not allowed to do this."""

    code = "FORBIDDEN"


class TopicNotSupportedError(ResponseError):
    """TOPIC_NOT_SUPPORTED: there is no such system topic."""

    code = "TOPIC_NOT_SUPPORTED"


class NoRouteFoundError(ResponseError):
    """NO_ROUTE_FOUND: nobody is subscribed to the topic."""

    code = "NO_ROUTE_FOUND"


class ServiceUnavailableError(ResponseError):
    """SERVICE_UNAVAILABLE: the responder is gone or has no room for the request."""

    code = "SERVICE_UNAVAILABLE"


class RequestTimeoutError(ResponseError):
    """TIMEOUT: no answer within the request's time limit."""

    code = "TIMEOUT"


class InternalError(ResponseError):
    """INTERNAL_ERROR: the responder failed; its log says why."""

    code = "INTERNAL_ERROR"


def timestamp_now() -> str:
    """Return the time as the protocol writes it: ISO 8601, UTC, milliseconds, `Z`."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"
