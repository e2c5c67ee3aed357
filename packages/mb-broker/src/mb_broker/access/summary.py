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

__all__ = ["AccessSummary", "UserSummary", "summarize_access_file"]

# The names in certificates are not secrets, unlike whatever else users may be known by.
_SHOWN = ("certificate",)
_TOKEN = "token_sha256"
_NOT_PROOFS = ("name", "roles")
_LIMIT = "max_"


class UserSummary(msgspec.Struct, frozen=True):
    """A user of an access file.

    Attributes:
        name: Its name.
        known_by: How it authenticates, such as `token` or `certificate CN=billing`.
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
        authenticators: The names of the tables that configure authenticators.
    """

    users: list[UserSummary]
    roles: dict[str, dict[str, list[str]]]
    anonymous: list[str] | None
    authenticators: list[str]


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
        anonymous=None if anonymous is None else anonymous.get("roles", []),
        authenticators=list(content.get("authenticators", {})),
    )


def _user(stanza: dict[str, Any]) -> UserSummary:
    known_by = []
    limits = {}
    for key, value in stanza.items():
        if key.startswith(_LIMIT):
            limits[key] = value
        elif key not in _NOT_PROOFS:
            text = f"{key} {value}" if key in _SHOWN else key
            known_by.append("token" if key == _TOKEN else text)
    return UserSummary(stanza["name"], known_by, stanza.get("roles", []), limits)
