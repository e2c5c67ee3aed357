"""Messages and ports that the tests of the Broker share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from mb_core.url import parse_url

Connect = Callable[..., Awaitable[Any]]
EVERYWHERE = ["tcp://127.0.0.1:0", "ws://127.0.0.1:0", "memory://"]
STREAMS = ["tcp://127.0.0.1:0", "ws://127.0.0.1:0"]


def port_of(url: str) -> int:
    port = parse_url(url).port
    assert port
    return port
