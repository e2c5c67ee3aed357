"""The embedded MB broker: memory://, a server."""

from .broker import Broker
from .options import BrokerOptions, RouterOptions
from .router import Router
from .running_broker import RunningBroker, running

__all__ = ["Broker", "BrokerOptions", "Router", "RouterOptions", "RunningBroker", "running"]
