"""The async client: one code for asyncio and trio."""

from .callbacks import Registration
from .client import LogLevel, MessageBrokerClient
from .queue import Overflow
from .subscription import Subscription

__all__ = [
    "LogLevel",
    "MessageBrokerClient",
    "Overflow",
    "Registration",
    "Subscription",
]
