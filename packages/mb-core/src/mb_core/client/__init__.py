"""The async client: one code for asyncio and trio."""

from .client import MessageBrokerClient
from .queue import Overflow
from .raw import TCPSocketClient, WebSocketClient
from .subscription import Subscription

__all__ = [
    "MessageBrokerClient",
    "Overflow",
    "Subscription",
    "TCPSocketClient",
    "WebSocketClient",
]
