"""Moved to `mb_testing`; the names that were documented here still work, with a warning."""

from __future__ import annotations

import importlib
import warnings
from typing import Any

_NAMES = ("Faults", "LinkEnd", "TransportSuite", "VirtualClock", "memory_link_pair")


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return moved(f"{__name__}.{name}", "mb_testing", name)


def moved(old: str, module: str, name: str) -> Any:
    """Return `module.name`, which was `old`; raises ImportError if mb-testing is not installed."""
    # Imported by its name: mb_testing depends on mb_core, and must not be needed by it.
    try:
        value = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "mb_testing":
            raise  # it is installed, and something that it needs is missing
        raise ImportError(f"{old} is now {module}.{name}: pip install mb-testing") from error
    text = f"{old} is deprecated: use {module}.{name}"
    warnings.warn(text, DeprecationWarning, stacklevel=3)
    return value
