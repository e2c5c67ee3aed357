"""What a subclass of the suite sets for its transport."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import ClassVar

from mb_core.transport import Transport, WireTransport
from mb_core.wire import Limits

from .certificates import own_certificates

__all__ = ["LIMITS", "Settings"]

LIMITS = Limits(max_payload=100_000, max_message=100_000)
"""Of all Wires and Links of the suite, where a test does not need others."""


class Settings:
    """What a subclass of the suite sets for its transport. Only `transport` is required."""

    transport: ClassVar[Transport]
    """The transport to test."""
    time_limit: ClassVar[float] = 20.0
    """Time limit for each test, in seconds. A single wait gets a quarter of it."""

    def url(self, tmp_path: Path) -> str:
        """Return where to listen, with port 0 for a free port.

        Args:
            tmp_path: An empty folder, another one for each call.
        """
        return f"{self.transport.scheme}://127.0.0.1:0"

    def ssl_contexts(self) -> tuple[ssl.SSLContext, ssl.SSLContext]:
        """Return the TLS contexts of a server and of a client that trusts it, if `secure`."""
        return own_certificates()

    @property
    def over_streams(self) -> WireTransport | None:
        """The transport if it has Wires; None if it provides Links."""
        transport = self.transport
        return transport if isinstance(transport, WireTransport) else None
