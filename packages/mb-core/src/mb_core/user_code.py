"""Users' functions: checking, calling and naming them, and their errors."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from .errors import LocalProtocolError

__all__ = [
    "call",
    "check_handler",
    "check_response_handler",
    "failure",
    "name_of",
    "shown",
    "text_of",
]


async def call(function: Callable[..., Any], *args: Any) -> Any:
    """Call a plain or an async function, and return its result."""
    result = function(*args)
    if hasattr(type(result), "__await__"):  # looked up on the class, as `await` does
        return await result
    return result


def failure(error: BaseException) -> Exception:
    """Return an error of user code to report; raise it if it is not a failure of that code.

    On asyncio, a task that awaits something that was cancelled elsewhere gets a CancelledError
    although the task itself is not cancelled: that must not end it. Neither must a library's own
    BaseException, such as pytest's for a failed test.
    """
    if isinstance(error, Exception):
        return error
    # Not imported just for this: only one of them may be in use.
    asyncio, trio = sys.modules.get("asyncio"), sys.modules.get("trio")
    if asyncio is not None and isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        if task is not None and not task.cancelling():
            fault = RuntimeError("something awaited was cancelled")
            fault.__cause__ = error
            return fault
    ends = [GeneratorExit, KeyboardInterrupt, SystemExit]
    ends += [asyncio.CancelledError] if asyncio is not None else []
    ends += [trio.Cancelled] if trio is not None else []
    if _includes(error, tuple(ends)):
        raise error
    kind, text = type(error).__name__, text_of(error)
    fault = RuntimeError(kind if text == kind else f"{kind}: {text}")
    fault.__cause__ = error
    return fault


def text_of(error: BaseException) -> str:
    """Return the text of an error, or its type if it has none."""
    try:
        return str(error) or type(error).__name__
    except Exception:  # for an exception whose own code fails
        return type(error).__name__


def _includes(error: BaseException, kinds: tuple[type[BaseException], ...]) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return error.subgroup(kinds) is not None
    return isinstance(error, kinds)


def name_of(handler: Callable[..., Any]) -> str:
    """Return the name of a handler for reports."""
    name = getattr(handler, "__qualname__", None)
    return name if isinstance(name, str) else repr(handler)


def check_handler(handler: Any, name: str = "handler") -> None:
    """Raise LocalProtocolError unless `handler` can be called; a subscription's may be None."""
    if callable(handler) or (handler is None and name == "handler"):
        return
    called = handler is None or hasattr(handler, "__await__")
    hint = ": it was called; pass the function itself" if called else ""
    raise LocalProtocolError(f"invalid {name} {shown(handler)}: expected a function{hint}")


def check_response_handler(handler: Any) -> None:
    """Raise LocalProtocolError unless `request`'s third argument can be called, or is None."""
    if handler is None or callable(handler):
        return
    hint = ""
    if isinstance(handler, int | float) and not isinstance(handler, bool):
        hint = f" (a time limit is passed by its name: timeout={handler!r})"
    raise LocalProtocolError(
        f"invalid response_handler {shown(handler)}: expected a function{hint}"
    )


def shown(value: object) -> str:
    """Return how an error shows a value: functions by name."""
    name = getattr(value, "__name__", None)
    text = name if callable(value) and isinstance(name, str) else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
