"""Moved to `mb_testing`; the names that were documented here still work, with a warning."""

from __future__ import annotations

import importlib
import warnings
from typing import Any

_NAMES = ("Faults", "LinkEnd", "TransportSuite", "VirtualClock", "memory_link_pair")


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return moved("mb_testing", name)


def moved(module: str, name: str, old: str = __name__) -> Any:
    """Return `name` from a module of mb_testing; raises ImportError if it is not installed."""
    # Imported by name, because mb_core doesn't depend on mb_testing: that is the other way round.
    try:
        value = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        raise ImportError(f"{old} is now {module}: pip install mb-testing") from error
    text = f"{old}.{name} is deprecated: import it from {module}"
    warnings.warn(text, DeprecationWarning, stacklevel=3)
    return value
