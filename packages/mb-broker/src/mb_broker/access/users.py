"""The users of a broker, found by their tokens."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Iterable

import msgspec

from .grants import ANYBODY, NOBODY, Grants
from .tokens import token_digest

__all__ = ["Access", "User"]


class User(msgspec.Struct, frozen=True, eq=False):
    """A user of the access file.

    Attributes:
        name: Its name, as it is logged.
        token_sha256: The hash of its token, in lower case.
        grants: What its roles allow.
        max_priority: The highest priority for its subscriptions to requests; None for any.
        max_connections: How many connections it may have at the same time; None for any number.
    """

    name: str
    token_sha256: str
    grants: Grants
    max_priority: float | None = None
    max_connections: int | None = None


class Access:
    """Who may connect to a broker, and what they may do.

    Args:
        users: All users. Their tokens differ.
        anonymous: What clients may do that have not authenticated; None if they may do nothing.
            By default, everybody may do everything.

    Attributes:
        initial: The grants of a client that has just connected.
        restricted: Whether there are users, so that a client can authenticate.
    """

    def __init__(self, users: Iterable[User] | None = None, anonymous: Grants | None = None):
        self.restricted = users is not None
        self.initial = ANYBODY if users is None else anonymous or NOBODY
        # Found by a keyed hash, so the time that a look-up takes says nothing about other tokens.
        self._key = secrets.token_bytes(32)
        self._users = {self._keyed(user.token_sha256): user for user in users or ()}

    def user_of(self, token: str) -> User | None:
        """Return the user with this token; None if there is none."""
        return self._users.get(self._keyed(token_digest(token)))

    def _keyed(self, digest: str) -> bytes:
        return hmac.digest(self._key, digest.encode(), "sha256")
