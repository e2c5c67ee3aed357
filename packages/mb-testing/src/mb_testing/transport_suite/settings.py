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
    """`transport` is required; the rest has defaults.

    `time_limit` is in seconds, for each test; a single wait in it gets a quarter of them.
    """

    transport: ClassVar[Transport]
    """The WireTransport, or the LinkTransport."""
    time_limit: ClassVar[float] = 20.0

    def url(self, tmp_path: Path) -> str:
        """Return where to listen; each call gets another empty folder as `tmp_path`.

        A port of 0 asks for a free one.
        """
        return f"{self.transport.scheme}://127.0.0.1:0"

    def ssl_contexts(self) -> tuple[ssl.SSLContext, ssl.SSLContext]:
        """Return the contexts of the server and of a client that trusts it, if it is `secure`."""
        return own_certificates()

    @property
    def over_streams(self) -> WireTransport | None:
        """The transport if it has Wires, None if it has its own Links."""
        transport = self.transport
        return transport if isinstance(transport, WireTransport) else None
