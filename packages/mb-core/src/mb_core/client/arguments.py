"""Arguments that can't be meant as they are, and errors that say what to write instead."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

from ..errors import LocalProtocolError
from ..header import Action

__all__ = [
    "ActionName",
    "CallbackMethods",
    "OverflowName",
    "actions_of",
    "check_handler",
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
    """Raise LocalProtocolError unless `handler` can be called, or is None."""
    if handler is not None and not callable(handler):
        hint = ": it was called; pass the function itself" if hasattr(handler, "__await__") else ""
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


def _shown(value: object) -> str:
    """What a value is called in an error: functions by their names."""
    name = getattr(value, "__name__", None)
    text = name if callable(value) and isinstance(name, str) else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
