"""Every error that this library raises on purpose.

    MBError
        ConnectError                    connecting failed
        ConnectionLost                  the connection ended before the operation was complete
        ProtocolError                   a rule of the protocol was broken,
            LocalProtocolError              by the caller
            RemoteProtocolError             by the other side
        MessageTooLarge                 a header or a payload exceeds its limit
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
    """Base class of all errors of this library. Their attributes survive copying and pickling."""

    # The received Message that the error is about, if any (see message.is_about).
    _about: Any = None

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
        # Exception's own implementation calls the constructor with only the text, which most
        # reject.
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]


class ConnectError(MBError):
    """The connection could not be established.

    It was refused, TLS or the handshake failed, or the broker sent no greeting in time.

    Attributes:
        final: Whether there is no point in trying again until something is changed, such as the
            certificate, the credentials or the URL. If so, a client with `retry_connect` stops
            trying to make its first connection. Restoring a lost connection is not affected.
    """

    def __init__(self, text: str, *, final: bool = False) -> None:
        super().__init__(text)
        self.final = final


class ConnectionLost(MBError):
    """There is no connection, or it was lost before the operation was complete.

    Attributes:
        sent: False if the message certainly never left this process, True if it may have reached
            the broker.
    """

    def __init__(self, text: str, *, sent: bool) -> None:
        super().__init__(text)
        self.sent = sent


class ProtocolError(MBError):
    """A rule of the MB protocol was broken; the subclasses say by which side.

    Attributes:
        code: The protocol's name for the error, such as `MALFORMED_MESSAGE`.
        details: The invalid values, or None.
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
    """You broke a rule, for example with an invalid argument. Nothing was sent."""


class RemoteProtocolError(ProtocolError):
    """The other side broke a rule, for example with an invalid message."""

    reason: str | None = None
    """What is wrong with a received payload; None if the error is not about one."""
    path: str | None = None
    """Where in the payload, such as `$.items[0].price`; None for invalid JSON."""


class MessageTooLarge(MBError):
    """A header or a payload is larger than allowed.

    Attributes:
        size: Its size in bytes.
        limit: The largest allowed size in bytes.
    """

    def __init__(self, text: str, *, size: int, limit: int) -> None:
        super().__init__(text)
        self.size = size
        self.limit = limit


class SlowConsumer(MBError):
    """A subscription's queue was full, so messages were dropped.

    Attributes:
        topic: The topic or pattern that was subscribed to.
        dropped: How many messages the subscription has lost so far.
    """

    def __init__(self, topic: str, dropped: int) -> None:
        super().__init__(
            f"the consumer of {topic!r} is too slow: {dropped} messages dropped so far "
            "(raise queue_size, queue_bytes or concurrency, or make the handler faster)"
        )
        self.topic = topic
        self.dropped = dropped


class PluginError(MBError):
    """A plugin is missing, broken, or in conflict with another one."""


class ResponseError(MBError):
    """The other side answered with an error. Request handlers can raise it, too.

    If a handler raises it, the sender of the request gets the same error.

    Example::

        class NoSuchOrder(ResponseError):
            code = "NO_SUCH_ORDER"

        def find(message: Message) -> None:
            raise NoSuchOrder("there is no order 7", details={"id": 7})

    A subclass sets its own code. Once it is defined, answers with this code raise the subclass.

    Args:
        message: The text of the error, for people.
        code: The code, if it is not that of the class.
        timestamp: When the error happened: ISO 8601, in UTC. Now by default.
        details: Anything that can be written as JSON.
    """

    _by_code: ClassVar[dict[str, type[ResponseError]]] = {}
    code: str = "INTERNAL_ERROR"
    """The protocol's name for the error, such as `NO_ROUTE_FOUND`, or a service's own."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # A subclass without a code inherits its parent's; the parent stays the class for that code.
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
        """Return the error for `code`: an instance of the first subclass with this code.

        If there is none, it is a `ResponseError`. A subclass's own constructor is not called,
        because its arguments are not transmitted.
        """
        kind = cls._by_code.get(code, ResponseError)
        error = kind.__new__(kind, message)
        ResponseError.__init__(error, message, code=code, timestamp=timestamp, details=details)
        return error

    def __str__(self) -> str:
        return f"{self.code}: {self.message}" if self.message else self.code

    def as_json(self) -> dict[str, Any]:
        """Return the error as it is sent (docs/protocol.md, "Errors")."""
        error = {"code": self.code, "message": self.message, "timestamp": self.timestamp}
        return error if self.details is None else {**error, "details": self.details}


class InvalidRequestError(ResponseError):
    """INVALID_REQUEST: the receiver understood the request, but can't act on it."""

    code = "INVALID_REQUEST"


class MalformedMessageError(ResponseError):
    """MALFORMED_MESSAGE: the receiver could not read the message."""

    code = "MALFORMED_MESSAGE"


class InvalidRequestIdError(ResponseError):
    """INVALID_REQUEST_ID: the response belongs to no request, or came too late."""

    code = "INVALID_REQUEST_ID"


class VersionNotSupportedError(ResponseError):
    """VERSION_NOT_SUPPORTED: the topic exists, but not in this version."""

    code = "VERSION_NOT_SUPPORTED"


class UnauthorizedError(ResponseError):
    """UNAUTHORIZED: the receiver does not know the sender."""

    code = "UNAUTHORIZED"


class ForbiddenError(ResponseError):
    """FORBIDDEN: the sender is not allowed to do this."""

    code = "FORBIDDEN"


class TopicNotSupportedError(ResponseError):
    """TOPIC_NOT_SUPPORTED: there is no such system topic."""

    code = "TOPIC_NOT_SUPPORTED"


class NoRouteFoundError(ResponseError):
    """NO_ROUTE_FOUND: nobody is subscribed to the topic."""

    code = "NO_ROUTE_FOUND"


class ServiceUnavailableError(ResponseError):
    """SERVICE_UNAVAILABLE: the service has disconnected, or is overloaded."""

    code = "SERVICE_UNAVAILABLE"


class RequestTimeoutError(ResponseError):
    """TIMEOUT: there was no answer within the time limit."""

    code = "TIMEOUT"


class InternalError(ResponseError):
    """INTERNAL_ERROR: the service failed. Its log says why."""

    code = "INTERNAL_ERROR"


def timestamp_now() -> str:
    """Return the current time as the protocol writes it: ISO 8601 in UTC, milliseconds, `Z`."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"
