"""Waiting for facts that nothing notifies of, by checking again and again."""

from __future__ import annotations

import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

import anyio

__all__ = ["until", "wait_until"]

T = TypeVar("T")

_PAUSE = 0.002


@overload
async def until(fact: Callable[[], Awaitable[T]], *, timeout: float = ...) -> T: ...
@overload
async def until(fact: Callable[[], T], *, timeout: float = ...) -> T: ...
async def until(fact: Callable[[], Any], *, timeout: float = 30.0) -> Any:
    """Wait until `fact()` returns something true, and return that.

    Example::

        await until(lambda: broker.connections == 1)

    Args:
        fact: A plain or async function without arguments.
        timeout: Time limit in seconds of real time, also on a virtual clock.

    Raises:
        TimeoutError: The time limit has passed.
    """
    end = time.monotonic() + timeout
    while True:
        value = fact()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return value
        _check(end, timeout)
        await anyio.sleep(_PAUSE)


def wait_until(fact: Callable[[], T], *, timeout: float = 30.0) -> T:
    """Block until `fact()` returns something true, and return that.

    Args:
        fact: A plain function without arguments.
        timeout: Time limit in seconds.

    Raises:
        TimeoutError: The time limit has passed.
    """
    end = time.monotonic() + timeout
    while not (value := fact()):
        _check(end, timeout)
        time.sleep(_PAUSE)
    return value


def _check(end: float, timeout: float) -> None:
    if time.monotonic() > end:
        raise TimeoutError(f"what was waited for did not happen within {timeout:g} s")
