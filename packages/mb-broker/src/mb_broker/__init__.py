"""The MB broker: inside your program, as a server, and `memory://`."""

from .broker import Broker
from .options import BrokerOptions, RouterOptions
from .router import Router
from .running_broker import RunningBroker, running

__all__ = ["Broker", "BrokerOptions", "Router", "RouterOptions", "RunningBroker", "running"]
