"""Arguments that can't be meant as they are, and errors that say what to write instead."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from ..errors import LocalProtocolError
from ..header import Action, check_timeout
from ..plugins import Plugins
from ..url import redacted

__all__ = [
    "ActionName",
    "CallbackMethods",
    "OverflowName",
    "actions_of",
    "check_handler",
    "check_options",
    "check_priority",
    "check_response_handler",
]

ActionName = Literal["publish", "request", "both"]
OverflowName = Literal["drop_newest", "drop_oldest", "error"]

_ACTIONS: dict[str, tuple[Action, ...]] = {
    "publish": (Action.PUBLISH,),
    "request": (Action.REQUEST,),
    "both": (Action.PUBLISH, Action.REQUEST),
}
_CALLBACKS = frozenset({"on_message", "on_connect", "on_disconnect", "on_error"})


class CallbackMethods:
    """A base of clients, whose methods `on_*` take handlers and can't be assigned to."""

    if not TYPE_CHECKING:  # or type checkers would accept any attribute

        def __setattr__(self, name: str, value: object) -> None:
            if name in _CALLBACKS:
                raise LocalProtocolError(
                    f"{name} is a method, and assigning to it registers nothing: call "
                    f"client.{name}(handler)"
                )
            super().__setattr__(name, value)


def check_options(**given: Any) -> None:
    """Raise LocalProtocolError for options of clients and brokers that can't be meant.

    Each option that a constructor takes has its line in the table, whoever takes it.
    """
    for name, value in given.items():
        _CHECKS[name](value, name)


def _instance(kind: Callable[[], Any], wanted: str) -> Callable[[Any, str], None]:
    """A check for None or an instance of `kind()`."""

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
        return  # the plugins know which there are
    if not all(callable(getattr(codec, method, None)) for method in ("encode", "decode")):
        raise _invalid(name, codec, "a codec's name, or an object with encode() and decode()")


def _ssl_context() -> Any:
    import ssl  # programs without TLS do not pay for it

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
    "wrap_accept": _instance(lambda: Callable, "a function"),
}


def actions_of(action: str) -> tuple[Action, ...]:
    """Return what `action` stands for; raises LocalProtocolError for an unknown one."""
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
        hint = f" (pass a handler by its name: handler={_shown(priority)})"
    elif isinstance(priority, str) and priority in _ACTIONS:
        hint = f" (pass an action by its name: action={priority!r})"
    raise LocalProtocolError(f"invalid priority {_shown(priority)}: expected a number{hint}")


def check_handler(handler: Any, name: str = "handler") -> None:
    """Raise LocalProtocolError unless `handler` can be called; a subscription's may be None."""
    if callable(handler) or (handler is None and name == "handler"):
        return
    called = handler is None or hasattr(handler, "__await__")
    hint = ": it was called; pass the function itself" if called else ""
    raise LocalProtocolError(f"invalid {name} {_shown(handler)}: expected a function{hint}")


def check_response_handler(handler: Any) -> None:
    """Raise LocalProtocolError unless `request`'s third argument can be called, or is None."""
    if handler is None or callable(handler):
        return
    hint = ""
    if isinstance(handler, int | float) and not isinstance(handler, bool):
        hint = f" (a time limit is passed by its name: timeout={handler!r})"
    raise LocalProtocolError(
        f"invalid response_handler {_shown(handler)}: expected a function{hint}"
    )


def _invalid(name: str, value: object, wanted: str) -> LocalProtocolError:
    return LocalProtocolError(f"invalid {name} {_shown(value)}: expected {wanted}")


def _shown(value: object) -> str:
    """What a value is called in an error: functions by their names."""
    name = getattr(value, "__name__", None)
    text = name if callable(value) and isinstance(name, str) else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
