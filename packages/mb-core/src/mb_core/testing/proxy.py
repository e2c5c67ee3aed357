"""Moved to `mb_testing.proxy`; the names that were documented here still work, with a warning."""

from __future__ import annotations

from typing import Any

from . import moved

_NAMES = ("FAIR", "HALF_OPEN", "STALLED", "Cut", "Direction", "Flow", "Proxy", "Weather")


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return moved("mb_testing.proxy", name, __name__)
