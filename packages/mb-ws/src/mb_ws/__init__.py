"""`ws://` and `wss://` for MB: each message in a text frame, with the websockets library."""

from .wire import WebSocketWire, client_wire, server_wire

__all__ = ["WebSocketWire", "client_wire", "server_wire"]
