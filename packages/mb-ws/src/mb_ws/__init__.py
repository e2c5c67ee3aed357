"""ws:// and wss:// for MB: one text frame a message, on the websockets library driven sans-I/O."""

from .wire import WebSocketWire, client_wire, server_wire

__all__ = ["WebSocketWire", "client_wire", "server_wire"]
