"""A TCP proxy that does to connections what networks do to them."""

from .connection import Cut, Direction
from .pipe import FAIR, HALF_OPEN, STALLED, Flow, Weather
from .proxy import Gate, Proxy, Seen, Where

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
