"""The embedded MB broker: memory://, a server, a pytest fixture."""

from .broker import Broker
from .router import Router, RouterOptions
from .thread import running

__all__ = ["Broker", "Router", "RouterOptions", "running"]
