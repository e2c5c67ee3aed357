"""What an access file contains, without its secrets, for operators to check."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from mb_core.authenticators import Authenticator

from .access_file import read_access_file
from .users import Limits

__all__ = ["AccessSummary", "UserSummary", "summarize_access_file"]


class UserSummary(msgspec.Struct, frozen=True):
    """A user of an access file.

    Attributes:
        name: Its name.
        known_by: How it authenticates: `token`, or a certificate such as `certificate CN=billing`.
            Empty if only other authenticators know it.
        roles: The names of its roles.
        limits: Its limits, such as `max_connections`, by name.
    """

    name: str
    known_by: list[str]
    roles: list[str]
    limits: dict[str, float]


class AccessSummary(msgspec.Struct, frozen=True):
    """The contents of an access file, without tokens and their hashes.

    Attributes:
        users: Its users, in the order of the file.
        roles: What each role allows: patterns or parts of the broker, by key.
        anonymous: The roles of anonymous clients; None if they are rejected.
        authenticators: The limits of users of other authenticators, by the authenticator's name.
    """

    users: list[UserSummary]
    roles: dict[str, dict[str, list[str]]]
    anonymous: list[str] | None
    authenticators: dict[str, dict[str, float]]


def summarize_access_file(
    path: str | os.PathLike[str], find: Callable[[str], Authenticator] | None = None
) -> AccessSummary:
    """Check an access file and return what it contains, without its secrets.

    Args:
        path: The file.
        find: As for `read_access_file`.

    Raises:
        LocalProtocolError: It can't be read, or it is invalid. The text is one line that names the
            stanza and the remedy.
    """
    read_access_file(path, find)
    content = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    anonymous = content.get("anonymous")
    return AccessSummary(
        users=[_user(stanza) for stanza in content.get("users", [])],
        roles=content.get("roles", {}),
        anonymous=None if anonymous is None else anonymous["roles"],
        authenticators={
            name: _limits(table) for name, table in content.get("authenticators", {}).items()
        },
    )


def _user(stanza: dict[str, Any]) -> UserSummary:
    known_by = []
    if "token_sha256" in stanza:
        known_by.append("token")
    if "certificate" in stanza:
        known_by.append(f"certificate {stanza['certificate']}")
    return UserSummary(stanza["name"], known_by, stanza["roles"], _limits(stanza))


def _limits(stanza: dict[str, Any]) -> dict[str, float]:
    return {key: value for key, value in stanza.items() if key in Limits.__struct_fields__}
