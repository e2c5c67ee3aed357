"""Tokens in the header `Authorization: Bearer TOKEN` of a handshake (RFC 6750)."""

from __future__ import annotations

import re

from websockets.datastructures import Headers

from mb_core.authenticators import NO_CREDENTIALS, Credentials

__all__ = ["bearer_credentials", "bearer_headers"]

_SENT = re.compile(r"[A-Za-z0-9._~+/-]+=*")
# Other senders have tokens with further characters, such as `|`.
_RECEIVED = re.compile(r"(?i:bearer) +([!-~]+)")


def bearer_headers(token: str | None) -> dict[str, str]:
    """Return the header that presents a token; none if the token can't be in a header."""
    if token is None or not _SENT.fullmatch(token):
        return {}
    return {"Authorization": f"Bearer {token}"}


def bearer_credentials(headers: Headers) -> Credentials:
    """Return the token in the headers of a handshake; other schemes are for proxies, so not ours.

    Raises:
        ValueError: The header is invalid. The text does not show it.
    """
    values = headers.get_all("Authorization")
    if len(values) > 1:
        # A proxy that adds one to a client's: which of them counts is anyone's guess.
        raise ValueError("two Authorization headers: expected one (a proxy has to replace it)")
    if not values or values[0].partition(" ")[0].lower() != "bearer":
        return NO_CREDENTIALS
    found = _RECEIVED.fullmatch(values[0])
    if found is None:
        raise ValueError("invalid Authorization header: expected 'Bearer TOKEN'")
    return Credentials(token=found[1])
