"""For tests: of transports, of what speaks over Links, of programs (docs/testing.md)."""

from typing import TYPE_CHECKING, Any

from .clock import VirtualClock
from .faults import Faults
from .links import LinkEnd, memory_link_pair

if TYPE_CHECKING:
    from .suite import TransportSuite

__all__ = [
    "Faults",
    "LinkEnd",
    "TransportSuite",
    "VirtualClock",
    "memory_link_pair",
]


def __getattr__(name: str) -> Any:
    # Needs pytest, which those who want the rest need not have installed.
    if name == "TransportSuite":
        from .suite import TransportSuite

        return TransportSuite
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
