"""The blocking front end of MB: the async client's names, in plain threads."""

from .client import MessageBrokerClient
from .subscription import Subscription

__all__ = ["MessageBrokerClient", "Subscription"]
