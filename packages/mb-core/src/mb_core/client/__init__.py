"""The async client: one code for asyncio and trio."""

from .callbacks import Registration
from .client import LogLevel, MessageBrokerClient
from .frontends import connect, frontends
from .queue import Overflow
from .raw import TCPSocketClient, WebSocketClient
from .stats import ClientStats, Latency
from .subscription import Subscription

__all__ = [
    "ClientStats",
    "Latency",
    "LogLevel",
    "MessageBrokerClient",
    "Overflow",
    "Registration",
    "Subscription",
    "TCPSocketClient",
    "WebSocketClient",
    "connect",
    "frontends",
]
