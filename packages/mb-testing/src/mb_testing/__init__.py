"""For tests: of transports, of what speaks over Links, of programs (docs/testing.md)."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .clock import VirtualClock
    from .faults import Faults
    from .links import LinkEnd, memory_link_pair
    from .suite import TransportSuite

__all__ = [
    "Faults",
    "LinkEnd",
    "TransportSuite",
    "VirtualClock",
    "memory_link_pair",
]

# Imported when they are asked for: a program that runs a broker in a thread needs none of them,
# and TransportSuite needs pytest.
_MODULES = {
    "Faults": "faults",
    "LinkEnd": "links",
    "TransportSuite": "suite",
    "VirtualClock": "clock",
    "memory_link_pair": "links",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
