"""Tokens: secrets that identify a user. The broker keeps their SHA-256 hashes only."""

from __future__ import annotations

import hashlib
import secrets

__all__ = ["TOKEN_PREFIX", "new_token", "token_digest"]

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
