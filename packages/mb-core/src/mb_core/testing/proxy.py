"""Moved to `mb_testing.proxy`; the names that were documented here still work, with a warning."""

from __future__ import annotations

from typing import Any

from . import moved

_NEW_NAMES = {
    "FAIR": "NORMAL",
    "HALF_OPEN": "HALF_OPEN",
    "STALLED": "STALLED",
    "Cut": "Cut",
    "Direction": "Direction",
    "Flow": "Flow",
    "Proxy": "Proxy",
    "Weather": "Conditions",
}


def __getattr__(name: str) -> Any:
    if name not in _NEW_NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return moved(f"{__name__}.{name}", "mb_testing.proxy", _NEW_NAMES[name])
