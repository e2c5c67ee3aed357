"""What a front-end plugin registers: a way to use the client."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

__all__ = ["Frontend"]


class Frontend(msgspec.Struct, frozen=True):
    """A way to use the client, by name: on an event loop, in threads, in a program of windows.

    `client(url, **options)` makes a client that is not connected yet, with the methods of
    `MessageBrokerClient` as far as they make sense there.  It is entered with `async with`, or,
    where it is `blocking`, with `with`.
    """

    name: str
    client: Callable[..., Any]
    blocking: bool = False
