"""The core of MB: the message model, the Session, the contracts of transports, the client."""

from .client import (
    ClientStats,
    Latency,
    MessageBrokerClient,
    Overflow,
    Subscription,
    TCPSocketClient,
    WebSocketClient,
)
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
from .header import Action, MessageHeader
from .hookspecs import hookimpl
from .message import Message, create_message, parse_message
from .plugins import Plugins, installed_plugins
from .session import BufferOverflow, Session
from .topic import matches
from .transport import LinkTransport, WireTransport
from .url import URL
from .wire import Limits, Wire, WireState

__all__ = [
    "URL",
    "Action",
    "BufferOverflow",
    "ClientStats",
    "ConnectError",
    "ConnectionLost",
    "ForbiddenError",
    "InternalError",
    "InvalidRequestError",
    "InvalidRequestIdError",
    "Latency",
    "Limits",
    "LinkTransport",
    "LocalProtocolError",
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
    "RemoteProtocolError",
    "RequestTimeoutError",
    "ResponseError",
    "ServiceUnavailableError",
    "Session",
    "SlowConsumer",
    "Subscription",
    "TCPSocketClient",
    "TopicNotSupportedError",
    "UnauthorizedError",
    "VersionNotSupportedError",
    "WebSocketClient",
    "Wire",
    "WireState",
    "WireTransport",
    "create_message",
    "hookimpl",
    "installed_plugins",
    "matches",
    "parse_message",
]
