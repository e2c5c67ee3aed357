"""Client certificates as identities: which user a name in a certificate is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mb_core.authenticators import Authenticate, Authenticator, Credentials, Identity

__all__ = ["CERTIFICATES"]


def _by_certificate(table: Mapping[str, Any], folder: Path) -> Authenticate:
    identities = {certificate: Identity(name) for certificate, name in table["users"].items()}

    def authenticate(credentials: Credentials) -> Identity | None:
        if credentials.token is not None:  # it says more than the certificate of the machine
            return None
        found = (identities.get(name) for name in credentials.certificate)
        return next(filter(None, found), None)

    return authenticate


CERTIFICATES = Authenticator("certificates", _by_certificate)
"""Identifies users by `certificate`. Its table has `users`: their names, by that of the
certificate. Of several names in a certificate, the first that a user has counts."""
