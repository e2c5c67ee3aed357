"""TLS settings that are safe unless the user chose others."""

from __future__ import annotations

import ssl

__all__ = ["client_ssl_context"]


def client_ssl_context() -> ssl.SSLContext:
    """TLS 1.2 or newer with the system's certificates; certificate and host name are verified."""
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
