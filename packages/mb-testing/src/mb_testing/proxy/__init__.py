"""A TCP proxy that does to connections what networks do to them."""

from .pipe import FAIR, HALF_OPEN, STALLED, Flow, Weather
from .proxy import Gate, Proxy, Seen, Where
from .relay import Cut, Direction

__all__ = [
    "FAIR",
    "HALF_OPEN",
    "STALLED",
    "Cut",
    "Direction",
    "Flow",
    "Gate",
    "Proxy",
    "Seen",
    "Weather",
    "Where",
]
