"""A TCP proxy that does to connections what networks do to them."""

from .connection import Cut, Direction
from .pipe import HALF_OPEN, NORMAL, STALLED, Conditions, Flow
from .proxy import Proxy, ProxyStats

__all__ = [
    "HALF_OPEN",
    "NORMAL",
    "STALLED",
    "Conditions",
    "Cut",
    "Direction",
    "Flow",
    "Proxy",
    "ProxyStats",
]
