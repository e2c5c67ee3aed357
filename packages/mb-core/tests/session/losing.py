"""Sessions that lose their connection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mb_core.session import (
    Event,
    Session,
)

Ready = Callable[..., Session]
Reconnect = Callable[..., list[Event]]
GREETING = b"publish:system.initialize:1.0.0\n{}"
LIMITS: dict[str, Any] = {"now": 0.0, "timeout": 1000}
