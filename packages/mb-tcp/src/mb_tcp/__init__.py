"""tcp:// and tls:// for MB: each message behind its length."""

from .wire import LengthPrefixWire

__all__ = ["LengthPrefixWire"]
