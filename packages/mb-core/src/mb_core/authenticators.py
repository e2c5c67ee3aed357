"""The contract of authenticators, which find out who a client is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

__all__ = ["NO_CREDENTIALS", "Authenticate", "Authenticator", "Credentials", "Identity"]


class Credentials(msgspec.Struct, frozen=True):
    """What a client has presented to identify itself. Its repr does not show the token.

    Attributes:
        token: The token that it has sent. The broker has not checked it.
        certificate: The names in its TLS certificate, which was verified: `URI:...` and `DNS:...`
            for alternative names, then `CN=...` for the common name. Empty if it has none.
    """

    token: str | None = None
    certificate: tuple[str, ...] = ()

    def __repr__(self) -> str:
        token = "***" if self.token is not None else None
        return f"Credentials(token={token}, certificate={self.certificate})"


NO_CREDENTIALS = Credentials()
"""The credentials of a client that has presented nothing."""


class Identity(msgspec.Struct, frozen=True):
    """Who a client is.

    Attributes:
        name: The name of the user, in printable characters: it is logged and shown.
        roles: The user's roles. Names that the access file does not define are ignored. None if the
            user of this name in the access file has its roles there.
        expires_at: When the credentials expire, in seconds since the epoch (as `time.time()`). The
            broker then ends the connection. None if they don't.
    """

    name: str
    roles: tuple[str, ...] | None = None
    expires_at: float | None = None


Authenticate = Callable[[Credentials], Identity | None]
"""Return who has these credentials; None if they are not for this authenticator.

It raises `UnauthorizedError` for credentials that are for this authenticator but invalid. The text
is sent to the client. It is called on the broker's event loop, so it has to return quickly.
"""


class Authenticator(msgspec.Struct, frozen=True):
    """A way to find out who a client is.

    Attributes:
        name: Its name: a table `[authenticators.NAME]` in the access file turns it on.
        create: `create(table, folder)` returns the function that identifies clients. `table` holds
            the settings in that table of the access file, and `folder` is the folder of the file,
            for relative paths. It is called whenever the broker reads the file. It raises
            ValueError for an invalid setting: the error shows its text after the table's name.
    """

    name: str
    create: Callable[[Mapping[str, Any], Path], Authenticate]
