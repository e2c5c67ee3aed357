"""The blocking client of MB, for plain threads. It has the names of the async client."""

from .client import MessageBrokerClient
from .subscription import Subscription

__all__ = ["MessageBrokerClient", "Subscription"]
