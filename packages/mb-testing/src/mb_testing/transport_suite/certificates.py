"""Certificates for secure transports under test, and TLS contexts that use them."""

from __future__ import annotations

import functools
import ssl

__all__ = ["own_certificates"]


@functools.cache
def own_certificates() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return contexts of a server and of a client that trusts it, by an authority made here."""
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
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(client)
    return server, client
