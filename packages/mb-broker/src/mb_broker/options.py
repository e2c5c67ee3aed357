"""The broker's settings: one table, from which `Broker(...)`, `mb serve`, the environment and the
configuration file take their names, defaults and bounds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    TypedDict,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    overload,
)

import msgspec
from msgspec import Meta

from mb_core.errors import LocalProtocolError
from mb_core.header import MAX_HEADER
from mb_core.wire import DEFAULT_MAX_PAYLOAD

__all__ = ["BrokerOptions", "Option", "complete_options", "option_table"]

T = TypeVar("T")

_DAY = 86_400_000


def _milliseconds(default: int, about: str, *, least: int = 1) -> Meta:
    return Meta(ge=least, le=_DAY, description=about, extra={"default": default, "unit": "ms"})


def _bytes(default: int, about: str, *, least: int = 1) -> Meta:
    return Meta(ge=least, description=about, extra={"default": default, "unit": "bytes"})


def _count(default: int, about: str) -> Meta:
    return Meta(ge=1, description=about, extra={"default": default, "unit": ""})


def _switch(default: bool, about: str) -> Meta:
    return Meta(description=about, extra={"default": default, "unit": ""})


class BrokerOptions(TypedDict, total=False):
    """The keyword arguments of Broker; times in milliseconds, sizes in bytes.

    Each has its default, its bounds and what it does as metadata; `option_table` lists them.
    """

    max_connections: Annotated[int, _count(10_000, "Clients at a time; more are refused.")]
    max_payload: Annotated[int, _bytes(DEFAULT_MAX_PAYLOAD, "Largest payload that is taken.")]
    # Requests to system topics, with their ids, have to fit.
    max_header: Annotated[
        int,
        Meta(
            ge=128,
            le=MAX_HEADER,
            description="Longest header that is taken, its newline included.",
            extra={"default": MAX_HEADER, "unit": "bytes"},
        ),
    ]
    # At least what a Link buffers before it is congested: less would not be noticed.
    max_unread: Annotated[
        int,
        _bytes(
            16 * 1024 * 1024,
            "Output that a client may leave unread; then it is cut off.",
            least=256 * 1024,
        ),
    ]
    max_unread_total: Annotated[
        int,
        _bytes(
            256 * 1024 * 1024,
            "Output that all clients together may leave unread; then the one with most is cut off.",
            least=256 * 1024,
        ),
    ]
    max_subscriptions: Annotated[int, _count(10_000, "Subscriptions of one client.")]
    # Each takes some 600 bytes.
    max_subscriptions_total: Annotated[
        int,
        _count(
            1_000_000,
            "Subscriptions of all clients; then those with more than their share get no more.",
        ),
    ]
    max_outstanding: Annotated[
        int,
        _count(
            10_000,
            "Requests that wait for an answer at a time; then one fails of the client with most.",
        ),
    ]
    max_handshakes: Annotated[
        int, _count(1_000, "Handshakes under way at each port; then the oldest is ended.")
    ]
    handshake_timeout: Annotated[
        int, _milliseconds(10_000, "Time for the TLS and WebSocket handshakes of a connection.")
    ]
    close_timeout: Annotated[int, _milliseconds(5_000, "Time that closing a connection may take.")]
    request_timeout: Annotated[int, _milliseconds(5_000, "Time limit of requests that name none.")]
    heartbeat_after: Annotated[
        int, _milliseconds(30_000, "Silence after which a client is asked for a sign of life.")
    ]
    drop_after: Annotated[int, _milliseconds(60_000, "Silence after which a client is dropped.")]
    drain_timeout: Annotated[
        int, _milliseconds(5_000, "Time for the answers to requests in flight at the end.", least=0)
    ]
    origins: Annotated[
        list[str],
        Meta(
            description="Other sites whose pages may connect over WebSocket; *, any.",
            extra={"default": [], "unit": ""},
        ),
    ]
    page: Annotated[bool, _switch(True, "Serve the page at / of the WebSocket port.")]
    metrics: Annotated[bool, _switch(True, "Serve /metrics and /health on the WebSocket port.")]


@dataclass(frozen=True, slots=True)
class Option:
    """One line of the table: `kind` is the type of its values."""

    name: str
    kind: Any
    default: Any
    unit: str
    about: str


def option_table(options: type[Any] = BrokerOptions) -> Iterator[Option]:
    """All options of BrokerOptions, or of a TypedDict made like it, in their order."""
    for name, hint in get_type_hints(options, include_extras=True).items():
        kind, *_, meta = get_args(hint)
        extra = meta.extra
        yield Option(name, kind, extra["default"], extra["unit"], meta.description)


@overload
def complete_options(
    given: Mapping[str, Any], *, lax: bool = False, together: bool = True
) -> BrokerOptions: ...
@overload
def complete_options(
    given: Mapping[str, Any], options: type[T], *, lax: bool = False, together: bool = True
) -> T: ...
def complete_options(
    given: Mapping[str, Any],
    options: type[Any] = BrokerOptions,
    *,
    lax: bool = False,
    together: bool = True,
) -> Any:
    """The given options, checked, and the defaults of the others.

    `together` is whether options are also checked against each other, which takes all of them.
    `lax` also takes numbers and switches as texts, as the environment has them.  Raises TypeError
    for an unknown name, and LocalProtocolError that names the option for an invalid value.
    """
    table = {option.name: option.default for option in option_table(options)}
    for name in given:
        if name not in table:
            near = get_close_matches(name, table, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(table)}"
            raise TypeError(f"there is no option {name!r}; {hint}")
    try:
        complete = msgspec.convert({**table, **given}, options, strict=not lax)
    except msgspec.ValidationError as error:
        name = str(error).partition(" - at `$.")[2].rstrip("`").partition("[")[0]
        wanted = _wanted(get_type_hints(options, include_extras=True)[name])
        text = f"invalid {name} {given.get(name)!r}: must be {wanted}"
        raise LocalProtocolError(text) from None
    if together:
        _check_together(complete)
    return complete


def _check_together(options: Mapping[str, Any]) -> None:
    """Raise LocalProtocolError for values that are valid alone, but not beside each other."""
    if options["drop_after"] <= options["heartbeat_after"]:
        raise LocalProtocolError(
            f"drop_after ({options['drop_after']} ms) must be longer than heartbeat_after "
            f"({options['heartbeat_after']} ms): clients need time for a sign of life"
        )
    message = options["max_payload"] + options["max_header"]
    # What transports add: TLS 29 bytes to each record of 16 KiB, the others less.
    wanted = message + message // 256 + 64
    for name in ("max_unread", "max_unread_total"):
        if options[name] < wanted:
            raise LocalProtocolError(
                f"{name} ({options[name]} bytes) must be {wanted} or more beside max_payload "
                f"({options['max_payload']} bytes): a client that is sent one message of that "
                f"size would be cut off; raise {name} or lower max_payload"
            )


_UNITS = {"ms": " of milliseconds", "bytes": " of bytes"}


def _wanted(hint: Any) -> str:
    """What the values of this type are, in words; a Meta may bring its own as `form`."""
    kind, *metas = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    extra = {key: value for meta in metas for key, value in (meta.extra or {}).items()}
    if "form" in extra:
        return str(extra["form"])
    if get_origin(kind) is Literal:
        return " or ".join(get_args(kind))
    if get_origin(kind) in (Union, UnionType):
        return " or ".join(_wanted(part) for part in get_args(kind) if part is not NoneType)
    if kind is not int:
        return {bool: "true or false", str: "a text"}.get(kind, "a list of texts")
    least = max((meta.ge for meta in metas if meta.ge is not None), default=0)
    most = min((meta.le for meta in metas if meta.le is not None), default=None)
    bounds = f", {least} or more" if most is None else f" from {least} to {most}"
    return f"a whole number{_UNITS.get(extra.get('unit', ''), '')}{bounds}"
