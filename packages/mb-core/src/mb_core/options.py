"""All options of clients and brokers: valid values, conversion, and errors."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self, get_args

import msgspec

from .errors import LocalProtocolError
from .header import MAX_HEADER, Action, check_timeout
from .plugins import Plugins, installed_plugins
from .url import redacted
from .user_code import shown
from .wire import Limits

if TYPE_CHECKING:
    import ssl

__all__ = [
    "ActionName",
    "ClientOptions",
    "LogLevel",
    "OverflowName",
    "Token",
    "actions_of",
    "check_concurrency",
    "check_options",
    "check_priority",
    "log_filter_of",
]

ActionName = Literal["publish", "request", "both"]
OverflowName = Literal["drop_newest", "drop_oldest", "error"]
LogLevel = Literal["debug", "info", "warn", "error"]
"""The level of an entry in the broker's log."""
Token = str | Callable[[], str | Awaitable[str]]
"""A token that identifies a user, or a function that returns it."""

_ACTIONS: dict[str, tuple[Action, ...]] = {
    "publish": (Action.PUBLISH,),
    "request": (Action.REQUEST,),
    "both": (Action.PUBLISH, Action.REQUEST),
}
# The largest message that a client accepts: lists of services and topics may be long.
_MAX_RECEIVED = 16 * 1024 * 1024
_RESTORING = 3.0
"""Seconds for an attempt in progress: a busy broker restores many clients at once."""


class ClientOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How a client connects, stays connected and closes; see MessageBrokerClient.

    Times are in seconds here.  `ssl_context` is None for the default, which verifies certificate
    and host name; `given_plugins` is None for those that are installed.
    """

    connect_timeout: float
    close_timeout: float
    limits: Limits
    drain_timeout: float = 0.0
    ssl_context: ssl.SSLContext | None = None
    given_plugins: Plugins | None = None
    reconnect: bool = False
    retry_connect: bool = False
    backoff_min: float = 0.0
    backoff_max: float = 0.0
    reconnect_timeout: float | None = None
    heartbeat_interval: float | None = None
    inherit_deadlines: bool = True
    # A function even if a string was given: the one place that holds the string.
    token: Callable[[], str | Awaitable[str]] | None = None

    def __repr__(self) -> str:
        # Without `token`: a partial, or an object that can be called, may show a secret.
        names = [name for name in self.__struct_fields__ if name != "token"]
        return f"ClientOptions({', '.join(f'{name}={getattr(self, name)!r}' for name in names)})"

    @classmethod
    def checked(cls, *, max_payload: int, plugins: Plugins | None, **given: Any) -> Self:
        """Create from a client's arguments, with times in milliseconds.

        Raises LocalProtocolError for invalid values.
        """
        check_options(max_payload=max_payload, plugins=plugins, **given)
        shortest, longest = given.get("backoff_min", 0), given.get("backoff_max", 0)
        if shortest > longest:
            raise LocalProtocolError(
                f"backoff_min ({shortest} ms) is longer than backoff_max ({longest} ms)"
            )
        for name in _TIMES & given.keys():
            if given[name] is not None:
                given[name] /= 1000
        if isinstance(token := given.get("token"), str):
            given["token"] = lambda: token
        limits = Limits(max_payload, max(_MAX_RECEIVED, max_payload + MAX_HEADER))
        return cls(limits=limits, given_plugins=plugins, **given)

    @property
    def plugins(self) -> Plugins:
        """Return the given plugins, or find the installed ones."""
        return self.given_plugins if self.given_plugins is not None else installed_plugins()

    @property
    def settling(self) -> float:
        """How much longer other clients with the same options may need to reconnect."""
        return self.backoff_max + _RESTORING


def check_options(**given: Any) -> None:
    """Raise LocalProtocolError for invalid options of clients and brokers.

    The table has a line for each option of any constructor.
    """
    for name, value in given.items():
        _CHECKS[name](value, name)


def _instance(kind: Callable[[], Any], wanted: str) -> Callable[[Any, str], None]:
    """Return a check for None or an instance of `kind()`."""

    def check(value: Any, name: str) -> None:
        if value is not None and not isinstance(value, kind()):
            raise _invalid(name, value, f"{wanted} or None")

    return check


def _check_url(url: Any, name: str) -> None:
    if url is None or isinstance(url, str):
        return
    several = isinstance(url, Sequence) and not isinstance(url, bytes | bytearray | memoryview)
    for wrong in (each for each in url if not isinstance(each, str)) if several else (url,):
        raise LocalProtocolError(
            f"invalid {name} {redacted(repr(wrong))}: expected a string such as "
            "'tcp://localhost:8081', or a list of them"
        )


def _check_host(host: Any, name: str) -> None:
    if not isinstance(host, str):
        raise LocalProtocolError(
            f"invalid {name} {redacted(repr(host))}: expected a string such as 'localhost'"
        )


def _check_switch(value: Any, name: str) -> None:
    if not isinstance(value, bool):
        raise _invalid(name, value, "True or False")


def _check_size(value: Any, name: str) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise _invalid(name, value, "a whole number of bytes, at least 1")


def _check_timeout_or_none(value: Any, name: str) -> None:
    if value is not None:
        check_timeout(value, name)


def _check_timeout_or_0(value: Any, name: str) -> None:
    if type(value) is not int or value != 0:
        check_timeout(value, name)


def _check_codec(codec: Any, name: str) -> None:
    if isinstance(codec, str):
        return  # only the plugins know the valid names
    if not all(callable(getattr(codec, method, None)) for method in ("encode", "decode")):
        raise _invalid(name, codec, "a codec's name, or an object with encode() and decode()")


def _check_token(token: Any, name: str) -> None:
    if isinstance(token, str):  # not shown in the error
        if not token or not token.isprintable():
            what = "it is empty" if not token else "it has characters that can't be printed"
            raise LocalProtocolError(f"invalid {name}: {what}")
    elif token is not None and not callable(token):
        wanted = "a string, a function that returns one, or None"
        if isinstance(token, bytes | bytearray | list | tuple | dict):  # may contain a token
            kind = type(token).__name__
            raise LocalProtocolError(f"invalid {name} of type {kind}: expected {wanted}")
        raise _invalid(name, token, wanted)


def _ssl_context() -> Any:
    import ssl  # imported here so that programs without TLS need not load it

    return ssl.SSLContext


_CHECKS: dict[str, Callable[[Any, str], object]] = {
    "url": _check_url,
    "host": _check_host,
    "use_tls": _check_switch,
    "connect_timeout": check_timeout,
    "close_timeout": check_timeout,
    "drain_timeout": _check_timeout_or_0,
    "max_payload": _check_size,
    "ssl_context": _instance(_ssl_context, "an ssl.SSLContext"),
    "plugins": _instance(lambda: Plugins, "an mb_core.Plugins"),
    "reconnect": _check_switch,
    "retry_connect": _check_switch,
    "backoff_min": check_timeout,
    "backoff_max": check_timeout,
    "reconnect_timeout": _check_timeout_or_none,
    "heartbeat_interval": _check_timeout_or_none,
    "inherit_deadlines": _check_switch,
    "codec": _check_codec,
    "token": _check_token,
    "wrap_accept": _instance(lambda: Callable, "a function"),
}


_TIMES = {name for name in _CHECKS if name.endswith(("_timeout", "_interval", "_min", "_max"))}


def actions_of(action: str) -> tuple[Action, ...]:
    """Return the actions of `action`; raises LocalProtocolError for an unknown one."""
    actions = _ACTIONS.get(action) if isinstance(action, str) else None
    if actions is None:
        raise LocalProtocolError(f"invalid action {action!r}: one of 'publish', 'request', 'both'")
    return actions


def check_priority(priority: Any) -> None:
    """Raise LocalProtocolError unless `priority` is a finite number."""
    if (
        isinstance(priority, int | float)
        and not isinstance(priority, bool)
        and math.isfinite(priority)
    ):
        return
    hint = ""
    if callable(priority):
        hint = f" (pass a handler by its name: handler={shown(priority)})"
    elif isinstance(priority, str) and priority in _ACTIONS:
        hint = f" (pass an action by its name: action={priority!r})"
    raise LocalProtocolError(f"invalid priority {shown(priority)}: expected a number{hint}")


def check_concurrency(concurrency: int) -> None:
    """Raise LocalProtocolError unless `concurrency` is a whole number of at least 1."""
    if not isinstance(concurrency, int) or isinstance(concurrency, bool) or concurrency < 1:
        raise LocalProtocolError(f"concurrency must be at least 1, got {concurrency!r}")


def log_filter_of(levels: Sequence[str], regex: str | None) -> dict[str, Any]:
    """Return the payload that asks the broker for these entries of its log.

    Raises LocalProtocolError for unknown levels, and for a regex that is not a string.
    """
    known = get_args(LogLevel)
    wanted = [] if isinstance(levels, str) or not isinstance(levels, Iterable) else list(levels)
    if not wanted or any(level not in known for level in wanted):
        raise LocalProtocolError(
            f"invalid levels {levels!r}: expected a list of {', '.join(map(repr, known))}"
        )
    if regex is not None and not isinstance(regex, str):
        raise LocalProtocolError(f"invalid regex {regex!r}: expected a string")
    wishes: dict[str, Any] = {"levels": [level for level in known if level in wanted]}
    return wishes if regex is None else {**wishes, "regex": regex}


def _invalid(name: str, value: object, wanted: str) -> LocalProtocolError:
    return LocalProtocolError(f"invalid {name} {shown(value)}: expected {wanted}")
