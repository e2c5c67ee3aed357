"""The errors that a service can answer with, and a parent id."""

from __future__ import annotations

from mb_core import (
    ForbiddenError,
    InternalError,
    InvalidRequestError,
    InvalidRequestIdError,
    MalformedMessageError,
    NoRouteFoundError,
    RequestTimeoutError,
    ServiceUnavailableError,
    TopicNotSupportedError,
    UnauthorizedError,
    VersionNotSupportedError,
)

PARENT = "0f8fad5b-d9cb-469f-a165-70867728950e"
CODES = [
    InvalidRequestError,
    MalformedMessageError,
    InvalidRequestIdError,
    VersionNotSupportedError,
    UnauthorizedError,
    ForbiddenError,
    TopicNotSupportedError,
    NoRouteFoundError,
    ServiceUnavailableError,
    RequestTimeoutError,
    InternalError,
]
