"""The broker's options: one table with the names, defaults and bounds for `Broker(...)`, `mb
serve`, environment variables and the configuration file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypedDict, TypeVar, Union, get_args, get_origin

import msgspec
from msgspec import NODEFAULT, Meta

from mb_core.errors import LocalProtocolError
from mb_core.header import MAX_HEADER
from mb_core.wire import DEFAULT_MAX_PAYLOAD

__all__ = [
    "BrokerOptions",
    "BrokerSettings",
    "Option",
    "RouterOptions",
    "about",
    "complete_options",
    "option_table",
]

_DAY = 86_400_000
# A Link buffers this much before it reports congestion, so smaller limits would have no effect.
_LINK_BUFFER = 256 * 1024
# Clients accept 16 MiB, including the header.
_MAX_ANSWER = 16 * 1024 * 1024 - 1024

Count = Annotated[int, Meta(ge=1)]
Bytes = Annotated[int, Meta(ge=1, extra={"unit": "bytes"})]
Buffer = Annotated[int, Meta(ge=_LINK_BUFFER, extra={"unit": "bytes"})]
Milliseconds = Annotated[int, Meta(ge=1, le=_DAY, extra={"unit": "ms"})]
MillisecondsOr0 = Annotated[int, Meta(ge=0, le=_DAY, extra={"unit": "ms"})]
# Requests to system topics with ids must fit.
HeaderBytes = Annotated[int, Meta(ge=128, le=MAX_HEADER, extra={"unit": "bytes"})]

File = Annotated[str, Meta(min_length=1)]


def about(text: str) -> Meta:
    """The description of an option, as `mb serve --help` shows it."""
    return Meta(description=text)


class BrokerSettings(msgspec.Struct, kw_only=True):
    """Every option of a broker, with its default. Times are in milliseconds, sizes in bytes."""

    max_connections: Annotated[
        Count, about("Maximum number of clients; further ones are refused.")
    ] = 10_000
    max_payload: Annotated[Bytes, about("Largest payload that is accepted.")] = DEFAULT_MAX_PAYLOAD
    max_header: Annotated[
        HeaderBytes, about("Longest header that is accepted, including its newline.")
    ] = MAX_HEADER
    max_unread: Annotated[
        Buffer, about("Maximum unread output of one client; beyond it, the client is disconnected.")
    ] = 16 * 1024 * 1024
    max_unread_total: Annotated[
        Buffer,
        about("Maximum unread output of all clients; beyond it, the one with the most is cut off."),
    ] = 256 * 1024 * 1024
    max_subscriptions: Annotated[Count, about("Maximum number of subscriptions of one client.")] = (
        10_000
    )
    # Each takes about 600 bytes.
    max_subscriptions_total: Annotated[
        Count,
        about("Maximum for all clients together; then only clients below their share get more."),
    ] = 1_000_000
    max_outstanding: Annotated[
        Count,
        about(
            "Maximum number of pending requests; beyond it, one of the client with the most fails."
        ),
    ] = 10_000
    max_handshakes: Annotated[
        Count,
        about(
            "Limit of handshakes per port and unauthenticated clients; then the oldest is dropped."
        ),
    ] = 1_000
    handshake_timeout: Annotated[
        Milliseconds,
        about("Time limit for the handshakes of a connection, and for authenticating."),
    ] = 10_000
    close_timeout: Annotated[Milliseconds, about("Time limit for closing a connection.")] = 5_000
    request_timeout: Annotated[
        Milliseconds, about("Time limit for requests that do not set one.")
    ] = 5_000
    heartbeat_after: Annotated[
        Milliseconds, about("Silence after which a client is sent a heartbeat request.")
    ] = 30_000
    drop_after: Annotated[Milliseconds, about("Silence after which a client is dropped.")] = 60_000
    drain_timeout: Annotated[
        MillisecondsOr0, about("Time for answers to requests in flight during shutdown.")
    ] = 5_000
    origins: Annotated[
        list[str], about("Other sites whose pages may connect over WebSocket; * allows any.")
    ] = []
    page: Annotated[bool, about("Serve the page at / of the WebSocket port.")] = True
    metrics: Annotated[bool, about("Serve /metrics and /health on the WebSocket port.")] = True
    access: Annotated[
        File | None,
        Meta(
            description="File with users and roles; without one, anybody may do anything.",
            extra={"unit": "file", "form": "the name of a file"},
        ),
    ] = None


class BrokerOptions(TypedDict, total=False):
    """The options of `Broker`, as keyword arguments. None is required.

    Times are in milliseconds, from 1 to a day; sizes are in bytes. docs/serve.md explains the
    limits.

    Attributes:
        max_connections: How many clients can be connected at the same time; more are refused.
            Default: 10,000.
        max_payload: Largest payload to accept. Default: 16,384.
        max_header: Longest header to accept, including its newline; from 128 to 367. Default: 367.
        max_unread: How much output a client may leave unread before it is disconnected; at least
            256 KiB. Default: 16 MiB.
        max_unread_total: How much output all clients together may leave unread before the one with
            the most is disconnected; at least 256 KiB. Default: 256 MiB.
        max_subscriptions: How many subscriptions a client can have. Default: 10,000.
        max_subscriptions_total: How many subscriptions all clients together can have before those
            with more than an equal share get no more. Default: 1,000,000.
        max_outstanding: How many requests can wait for their answers before one of the client with
            the most fails. Default: 10,000.
        max_handshakes: How many handshakes can be in progress at each port, and how many clients
            can be connected without having authenticated, before the oldest is ended. Default:
            1,000.
        handshake_timeout: Time limit for the TLS and WebSocket handshakes of a connection, and for
            authenticating. Default: 10,000.
        close_timeout: Time limit for closing a connection. Default: 5,000.
        request_timeout: Time limit of requests that have none of their own. Default: 5,000.
        heartbeat_after: How long a client may be silent before the broker sends it a heartbeat.
            Default: 30,000.
        drop_after: How long a client may be silent before it is disconnected; longer than
            `heartbeat_after`. Default: 60,000.
        drain_timeout: How long to wait for answers to pending requests when closing; 0 for no wait.
            Default: 5,000.
        origins: Origins of other web sites whose pages may connect over WebSocket; `"*"` for any.
            Default: none.
        page: Whether to serve the broker's page at `/` of the WebSocket port. Default: True.
        metrics: Whether to serve `/metrics` and `/health` on the WebSocket port. Default: True.
        access: Path of the access file, which has users and roles (docs/access.md); without one,
            anybody may do anything. Default: None.
    """

    max_connections: int
    max_payload: int
    max_header: int
    max_unread: int
    max_unread_total: int
    max_subscriptions: int
    max_subscriptions_total: int
    max_outstanding: int
    max_handshakes: int
    handshake_timeout: int
    close_timeout: int
    request_timeout: int
    heartbeat_after: int
    drop_after: int
    drain_timeout: int
    origins: list[str]
    page: bool
    metrics: bool
    access: str | os.PathLike[str] | None


_DEFAULTS = BrokerSettings()


class RouterOptions(msgspec.Struct, frozen=True):
    """The options of a `Router`. Times are in seconds, sizes in bytes.

    They are those of `BrokerOptions` with the same names.

    Attributes:
        max_payload: Largest payload to accept.
        max_header: Longest header to accept.
        max_answer: Largest payload of the broker's own answers.
        max_subscriptions: How many subscriptions a client can have.
        max_subscriptions_total: How many subscriptions all clients together can have before those
            with more than an equal share get no more.
        max_outstanding: How many requests can wait for their answers before one of the client with
            the most fails.
        request_timeout: Time limit of requests that have none of their own.
        heartbeat_after: How long a client may be silent before the broker sends it a heartbeat.
            After the same time again, it sends another.
        drop_after: How long a client may be silent before it is disconnected.
        handshake_timeout: How long a client may take to authenticate, if it has to.
        max_handshakes: How many clients can be connected without having authenticated.
    """

    max_payload: int = _DEFAULTS.max_payload
    max_header: int = _DEFAULTS.max_header
    max_answer: int = _DEFAULTS.max_unread * 3 // 4
    max_subscriptions: int = _DEFAULTS.max_subscriptions
    max_subscriptions_total: int = _DEFAULTS.max_subscriptions_total
    max_outstanding: int = _DEFAULTS.max_outstanding
    request_timeout: float = _DEFAULTS.request_timeout / 1000
    heartbeat_after: float = _DEFAULTS.heartbeat_after / 1000
    drop_after: float = _DEFAULTS.drop_after / 1000
    handshake_timeout: float = _DEFAULTS.handshake_timeout / 1000
    max_handshakes: int = _DEFAULTS.max_handshakes

    @classmethod
    def of(cls, settings: BrokerSettings) -> RouterOptions:
        """Return the Router's part of a broker's settings."""
        return cls(
            max_payload=settings.max_payload,
            max_header=settings.max_header,
            max_answer=min(_MAX_ANSWER, settings.max_unread * 3 // 4),
            max_subscriptions=settings.max_subscriptions,
            max_subscriptions_total=settings.max_subscriptions_total,
            max_outstanding=settings.max_outstanding,
            request_timeout=settings.request_timeout / 1000,
            heartbeat_after=settings.heartbeat_after / 1000,
            drop_after=settings.drop_after / 1000,
            handshake_timeout=settings.handshake_timeout / 1000,
            max_handshakes=settings.max_handshakes,
        )


class Option(msgspec.Struct, frozen=True):
    """One row of the table; `kind` is the type of the values."""

    name: str
    kind: Any
    default: Any
    unit: str
    about: str


S = TypeVar("S", bound=BrokerSettings)


def option_table(settings: type[BrokerSettings] = BrokerSettings) -> Iterator[Option]:
    """Return all options of BrokerSettings, or of a Struct that extends it, in order."""
    for field in msgspec.structs.fields(settings):
        kind, metas = _parts(field.type)
        default = field.default if field.default is not NODEFAULT else field.default_factory()
        description = next(meta.description for meta in metas if meta.description is not None)
        yield Option(field.name, kind, default, _extra(metas).get("unit", ""), description)


def complete_options(
    given: Mapping[str, Any],
    settings: type[S],
    *,
    lax: bool = False,
    together: bool = True,
) -> S:
    """Check the given options, and return them with the defaults of the others.

    `together` is whether options are also checked against each other, which requires all of them.
    `lax` also accepts numbers and switches as strings, as in environment variables. Raises
    TypeError for an unknown name, and LocalProtocolError that names the option for an invalid
    value.
    """
    names = settings.__struct_fields__
    for name in given:
        if name not in names:
            near = get_close_matches(name, names, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"options are: {', '.join(names)}"
            raise TypeError(f"unknown option {name!r}; {hint}")
    try:
        complete = msgspec.convert(given, settings, strict=not lax)
    except msgspec.ValidationError as error:
        name = str(error).partition(" - at `$.")[2].rstrip("`").partition("[")[0]
        hints = {field.name: field.type for field in msgspec.structs.fields(settings)}
        text = f"invalid {name} {given.get(name)!r}: must be {_wanted(hints[name])}"
        raise LocalProtocolError(text) from None
    if together:
        _check_together(complete)
    return complete


def _check_together(options: BrokerSettings) -> None:
    """Raise LocalProtocolError for values that are valid by themselves but conflict."""
    if options.drop_after <= options.heartbeat_after:
        raise LocalProtocolError(
            f"drop_after ({options.drop_after} ms) must be longer than heartbeat_after "
            f"({options.heartbeat_after} ms): clients need time to answer a heartbeat request"
        )
    message = options.max_payload + options.max_header
    # Overhead of transports: TLS adds 29 bytes to each record of 16 KiB, the others less.
    wanted = message + message // 256 + 64
    for name in ("max_unread", "max_unread_total"):
        if getattr(options, name) < wanted:
            raise LocalProtocolError(
                f"{name} ({getattr(options, name)} bytes) must be {wanted} or more with "
                f"max_payload ({options.max_payload} bytes): a client that is sent one message of "
                f"that size would be cut off; raise {name} or lower max_payload"
            )


_UNITS = {"ms": " of milliseconds", "bytes": " of bytes"}


def _wanted(hint: Any) -> str:
    """Describe the values of this type in words; a Meta may override them with `form`."""
    kind, metas = _parts(hint)
    extra = _extra(metas)
    if "form" in extra:
        return str(extra["form"])
    if get_origin(kind) is Literal:
        return " or ".join(get_args(kind))
    if get_origin(kind) in (Union, UnionType):
        return " or ".join(_wanted(part) for part in get_args(kind) if part is not NoneType)
    if kind is not int:
        return {bool: "true or false", str: "a text"}.get(kind, "a list of strings")
    least = max((meta.ge for meta in metas if meta.ge is not None), default=0)
    most = min((meta.le for meta in metas if meta.le is not None), default=None)
    bounds = f", {least} or more" if most is None else f" from {least} to {most}"
    return f"a whole number{_UNITS.get(extra.get('unit', ''), '')}{bounds}"


def _parts(hint: Any) -> tuple[Any, list[Meta]]:
    """Return a type without its metadata, and the metadata."""
    if get_origin(hint) is not Annotated:
        return hint, []
    kind, *metas = get_args(hint)
    return kind, metas


def _extra(metas: list[Meta]) -> dict[str, Any]:
    return {key: value for meta in metas for key, value in (meta.extra or {}).items()}
