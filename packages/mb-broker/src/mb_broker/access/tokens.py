"""Tokens: secrets that identify a user. The access file has only their SHA-256 hashes."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mb_core.authenticators import Authenticate, Authenticator, Credentials, Identity

__all__ = ["TOKENS", "TOKEN_PREFIX", "new_token", "token_digest"]

TOKEN_PREFIX = "mb_"
"""The prefix of new tokens, by which scanners for leaked secrets can find them."""

_BYTES = 32


def new_token() -> str:
    """Return a new token with 256 random bits."""
    return TOKEN_PREFIX + secrets.token_urlsafe(_BYTES)


def token_digest(token: str) -> str:
    """Return the hash of a token, as `token_sha256` in the access file has it.

    Tokens are random, so a fast hash is enough: nobody can try out 2**256 of them.
    """
    return hashlib.sha256(token.encode(errors="surrogatepass")).hexdigest()


def _by_token(table: Mapping[str, Any], folder: Path) -> Authenticate:
    # Found by a keyed hash, so the time that a look-up takes says nothing about other tokens.
    key = secrets.token_bytes(_BYTES)

    def keyed(digest: str) -> bytes:
        return hmac.digest(key, digest.encode(), "sha256")

    identities = {keyed(digest): Identity(name) for digest, name in table["users"].items()}

    def authenticate(credentials: Credentials) -> Identity | None:
        if credentials.token is None:
            return None
        return identities.get(keyed(token_digest(credentials.token)))

    return authenticate


TOKENS = Authenticator("tokens", _by_token)
"""Identifies users by `token_sha256`. Its table has `users`: their names, by the hash."""
