"""What a subclass of the suite says of its transport."""

from __future__ import annotations

import functools
import ssl
from pathlib import Path
from typing import ClassVar

from mb_core.transport import Transport, WireTransport
from mb_core.wire import Limits

__all__ = ["LIMITS", "Settings"]

LIMITS = Limits(max_payload=100_000, max_message=100_000)
"""Of all Wires and Links of the suite, where a test does not need others."""


class Settings:
    """`transport` and `url` are to be given, the rest where it differs.

    `time_limit` is in seconds, for each test; what a test waits for gets a quarter of it.
    """

    transport: ClassVar[Transport]
    """The WireTransport, or the LinkTransport."""
    time_limit: ClassVar[float] = 20.0

    def url(self, tmp_path: Path) -> str:
        """Where to listen: `tmp_path` is an empty folder, another one for another place.

        A port of 0 asks for a free one.
        """
        return f"{self.transport.scheme}://127.0.0.1:0"

    def ssl_contexts(self) -> tuple[ssl.SSLContext, ssl.SSLContext]:
        """For a `secure` transport: the server's settings, and those of a client that trusts it."""
        return _own_authority()

    @property
    def over_streams(self) -> WireTransport | None:
        """The transport where it has Wires, None where it has Links of its own."""
        transport = self.transport
        return transport if isinstance(transport, WireTransport) else None


@functools.cache
def _own_authority() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    try:
        import trustme
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "the suite makes certificates with trustme: pip install trustme, or override "
            "ssl_contexts"
        ) from error
    authority = trustme.CA()
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost", "127.0.0.1", "::1").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return server, client
