"""`tcp://` and `tls://` for MB: each message with its length before it."""

from .wire import LengthPrefixWire

__all__ = ["LengthPrefixWire"]
