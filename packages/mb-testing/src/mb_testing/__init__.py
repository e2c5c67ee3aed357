"""Tools for testing programs and plugins that use MB (docs/testing.md)."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .authenticator_suite import AuthenticatorSuite
    from .faults import Faults
    from .faulty_broker import FaultyBroker, running
    from .links import LinkEnd, memory_link_pair
    from .polling import until, wait_until
    from .transport_suite import TransportSuite
    from .virtual_clock import VirtualClock

__all__ = [
    "AuthenticatorSuite",
    "Faults",
    "FaultyBroker",
    "LinkEnd",
    "TransportSuite",
    "VirtualClock",
    "memory_link_pair",
    "running",
    "until",
    "wait_until",
]

# Imported when they are asked for: pytest loads this package with each start, for the plugin in it.
_MODULES = {
    "AuthenticatorSuite": "authenticator_suite",
    "Faults": "faults",
    "FaultyBroker": "faulty_broker",
    "LinkEnd": "links",
    "TransportSuite": "transport_suite",
    "VirtualClock": "virtual_clock",
    "memory_link_pair": "links",
    "running": "faulty_broker",
    "until": "polling",
    "wait_until": "polling",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
