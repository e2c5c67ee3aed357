"""The async client, with the same code for asyncio and trio."""

from ..options import LogLevel
from .callbacks import Registration
from .client import MessageBrokerClient
from .queue import Overflow
from .subscription import Subscription

__all__ = [
    "LogLevel",
    "MessageBrokerClient",
    "Overflow",
    "Registration",
    "Subscription",
]
