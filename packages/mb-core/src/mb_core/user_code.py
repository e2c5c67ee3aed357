"""Calling functions that users gave, and what they raise: handlers, callbacks, transports."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

__all__ = ["call", "failure", "name_of", "text_of"]


async def call(function: Callable[..., Any], *args: Any) -> Any:
    """Call a plain or an async function; give what it returns."""
    result = function(*args)
    if hasattr(type(result), "__await__"):  # of the class, as Python's own await has it
        return await result
    return result


def failure(error: BaseException) -> Exception:
    """What user code raised, to be reported; raises it if it is not a failure of that code.

    On asyncio a task that awaits what somebody else has cancelled gets a CancelledError, though
    nobody cancels the task: that must not end it.  Nor must a BaseException of a library's own,
    such as pytest's of a test that has failed.
    """
    if isinstance(error, Exception):
        return error
    # Not imported for this: the one that does not run may never be.
    asyncio, trio = sys.modules.get("asyncio"), sys.modules.get("trio")
    if asyncio is not None and isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        if task is not None and not task.cancelling():
            fault = RuntimeError("something that was awaited has been cancelled")
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
    """The text of an error, or what it is where it has none."""
    try:
        return str(error) or type(error).__name__
    except Exception:  # of an exception whose own code fails
        return type(error).__name__


def _includes(error: BaseException, kinds: tuple[type[BaseException], ...]) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return error.subgroup(kinds) is not None
    return isinstance(error, kinds)


def name_of(handler: Callable[..., Any]) -> str:
    """What a handler is called in reports."""
    name = getattr(handler, "__qualname__", None)
    return name if isinstance(name, str) else repr(handler)
