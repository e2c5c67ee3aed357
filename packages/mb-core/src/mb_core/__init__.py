"""The core of MB: messages, the Session, the contracts of transports, and the client."""

from .client import (
    LogLevel,
    MessageBrokerClient,
    Overflow,
    Registration,
    Subscription,
)
from .codec import Codec
from .errors import (
    ConnectError,
    ConnectionLost,
    ForbiddenError,
    InternalError,
    InvalidRequestError,
    InvalidRequestIdError,
    LocalProtocolError,
    MalformedMessageError,
    MBError,
    MessageTooLarge,
    NoRouteFoundError,
    PluginError,
    ProtocolError,
    RemoteProtocolError,
    RequestTimeoutError,
    ResponseError,
    ServiceUnavailableError,
    SlowConsumer,
    TopicNotSupportedError,
    UnauthorizedError,
    VersionNotSupportedError,
)
from .frontends import connect, frontends
from .header import Action, MessageHeader
from .hookspecs import hookimpl
from .message import Message, create_message, parse_message
from .plugins import InstalledPlugin, Plugins, installed_plugins
from .raw_clients import TCPSocketClient, WebSocketClient
from .session import BufferOverflow, Session
from .stats import ClientStats, Latency
from .topic import matches
from .transport import Frontend, LinkTransport, SocketAddress, Sockets, WireTransport
from .url import URL
from .wire import Limits, Wire, WireState

__all__ = [
    "URL",
    "Action",
    "BufferOverflow",
    "ClientStats",
    "Codec",
    "ConnectError",
    "ConnectionLost",
    "ForbiddenError",
    "Frontend",
    "InstalledPlugin",
    "InternalError",
    "InvalidRequestError",
    "InvalidRequestIdError",
    "Latency",
    "Limits",
    "LinkTransport",
    "LocalProtocolError",
    "LogLevel",
    "MBError",
    "MalformedMessageError",
    "Message",
    "MessageBrokerClient",
    "MessageHeader",
    "MessageTooLarge",
    "NoRouteFoundError",
    "Overflow",
    "PluginError",
    "Plugins",
    "ProtocolError",
    "Registration",
    "RemoteProtocolError",
    "RequestTimeoutError",
    "ResponseError",
    "ServiceUnavailableError",
    "Session",
    "SlowConsumer",
    "SocketAddress",
    "Sockets",
    "Subscription",
    "TCPSocketClient",
    "TopicNotSupportedError",
    "UnauthorizedError",
    "VersionNotSupportedError",
    "WebSocketClient",
    "Wire",
    "WireState",
    "WireTransport",
    "connect",
    "create_message",
    "frontends",
    "hookimpl",
    "installed_plugins",
    "matches",
    "parse_message",
]
