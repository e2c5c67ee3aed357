"""Users for tests: the token of `x` is `mb_x`, and the name in its certificate is `CN=x`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from mb_broker.access import Access, Grants, User, token_digest
from mb_broker.access.certificates import CERTIFICATES
from mb_broker.access.tokens import TOKENS
from mb_broker.access.users import Authentication


def access_of(users: Iterable[User], anonymous: Grants | None = None) -> Access:
    """Return who these users are, as an access file with them would."""
    given = list(users)
    tokens = {token_digest(f"mb_{user.name}"): user.name for user in given}
    certificates = {f"CN={user.name}": user.name for user in given}
    return Access(
        given,
        anonymous,
        [
            Authentication("tokens", TOKENS.create({"users": tokens}, Path())),
            Authentication("certificates", CERTIFICATES.create({"users": certificates}, Path())),
        ],
    )
