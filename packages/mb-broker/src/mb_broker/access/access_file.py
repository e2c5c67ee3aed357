"""The access file: roles, users and what anonymous clients may do, in TOML (docs/access.md)."""

from __future__ import annotations

import math
import os
import re
import stat
import tomllib
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from mb_core.errors import LocalProtocolError
from mb_core.topic import is_pattern, is_system

from .grants import Grants, Role
from .users import Access, User

__all__ = ["read_access_file"]

_HASH = re.compile(r"[0-9a-f]{64}")
_PATTERNS = ("publish", "request", "subscribe", "respond")
_TABLES = ("roles", "users", "anonymous")

S = TypeVar("S", bound=msgspec.Struct)


class _UserStanza(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    token_sha256: str
    roles: list[str]
    max_priority: float | None = None
    max_connections: int | None = None


class _AnonymousStanza(msgspec.Struct, forbid_unknown_fields=True):
    roles: list[str]


class _Invalid(Exception):
    """What is wrong with the file, without its name."""


def read_access_file(path: str | os.PathLike[str]) -> Access:
    """Read an access file.

    Raises:
        LocalProtocolError: It can't be read, or it is invalid. The text is one line that names the
            stanza and the remedy.
    """
    try:
        return _access(_content(Path(path)))
    except _Invalid as error:
        raise LocalProtocolError(f"access file {os.fspath(path)}: {error}") from error.__cause__


def _content(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if os.name == "posix" and mode & (stat.S_IWGRP | stat.S_IWOTH):
                raise _Invalid(f"other users of this machine can write it: chmod go-w {path}")
            return tomllib.load(file)
    except OSError as error:
        raise _Invalid(f"can't be read: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise _Invalid(f"is not valid TOML: {error}") from error


def _access(content: dict[str, Any]) -> Access:
    for name in content:
        if name not in _TABLES:
            raise _Invalid(f"unknown table [{name}]{_hint(name, _TABLES)}")
    given = content.get("roles", {})
    if not isinstance(given, dict):
        raise _Invalid("roles must be tables, such as [roles.reader]")
    roles = {name: _role(name, stanza) for name, stanza in given.items()}
    open_to_all = content.get("anonymous")
    everybody: list[str] = []
    if open_to_all is not None:
        everybody = _convert("[anonymous]", open_to_all, _AnonymousStanza).roles
    # Clients with the same roles share one object, and with it what is remembered about it.
    shared: dict[frozenset[str], Grants] = {}

    def grants(where: str, names: list[str]) -> Grants:
        for name in names:
            if name not in roles:
                hint = _hint(name, roles) if roles else "; there are no roles"
                raise _Invalid(f"{where}: unknown role {name!r}{hint}")
        key = frozenset(names)
        if key not in shared:
            shared[key] = Grants(roles[name] for name in names)
        return shared[key]

    anonymous = grants("[anonymous]", everybody) if open_to_all is not None else None
    users = _users(content.get("users", []), everybody, grants)
    if not users and anonymous is None:
        raise _Invalid("has no [[users]] and no [anonymous], so nobody could do anything")
    return Access(users, anonymous)


def _role(name: str, stanza: Any) -> Role:
    where = f"[roles.{name}]"
    role = _convert(where, stanza, Role)
    for key in _PATTERNS:
        for pattern in getattr(role, key):
            if not is_pattern(pattern):
                raise _Invalid(
                    f"{where}: invalid pattern {pattern!r} in {key}: 1 to 5 segments of letters "
                    "and digits joined by '.', with + for exactly one segment and a final # for "
                    "any number"
                )
            if is_system(pattern.lower()):
                raise _Invalid(
                    f"{where}: {pattern!r} in {key} belongs to the broker: use "
                    'system = ["message", "log", "metrics", "services", "topics"]'
                )
    return role


def _users(
    given: Any, everybody: list[str], grants: Callable[[str, list[str]], Grants]
) -> list[User]:
    if not isinstance(given, list):
        raise _Invalid("users must be an array of tables: write [[users]] before each")
    by_name: dict[str, User] = {}
    by_token: dict[str, User] = {}
    for number, stanza in enumerate(given, 1):
        where = _user_named(number, stanza)
        user = _convert(where, stanza, _UserStanza)
        if not user.name or not user.name.isprintable():
            raise _Invalid(f"{where}: invalid name {user.name!r}: expected printable characters")
        if user.name in by_name:
            raise _Invalid(f"{where}: there are two users of this name; rename one of them")
        digest = user.token_sha256.lower()
        if not _HASH.fullmatch(digest):
            # Not shown: it may be the token itself.
            raise _Invalid(
                f"{where}: token_sha256 has {len(digest)} characters that are not a SHA-256 hash: "
                "expected 64 hexadecimal digits, as `mb token` prints them"
            )
        if digest in by_token:
            raise _Invalid(
                f"{where}: has the same token as {by_token[digest].name!r}; create one with "
                "`mb token` for each user"
            )
        if user.max_priority is not None and not math.isfinite(user.max_priority):
            raise _Invalid(
                f"{where}: invalid max_priority {user.max_priority}: must be a number; leave it "
                "out for no limit"
            )
        if user.max_connections is not None and user.max_connections < 1:
            raise _Invalid(
                f"{where}: invalid max_connections {user.max_connections}: must be 1 or more"
            )
        # Not less than anonymous clients may: authenticating must not take anything away.
        allowed = grants(where, [*user.roles, *everybody])
        known = User(user.name, digest, allowed, user.max_priority, user.max_connections)
        by_name[user.name] = by_token[digest] = known
    return list(by_name.values())


def _user_named(number: int, stanza: Any) -> str:
    name = stanza.get("name") if isinstance(stanza, Mapping) else None
    return f"[[users]] {name!r}" if isinstance(name, str) else f"[[users]] number {number}"


def _convert(where: str, stanza: Any, kind: type[S]) -> S:
    try:
        return msgspec.convert(stanza, kind)
    except msgspec.ValidationError as error:
        text, _, path = str(error).partition(" - at `$")
        what = path.strip(".`")
        text = text[0].lower() + text[1:]
        hint = ""
        if text.startswith("object contains unknown field"):
            unknown = text.split("`")[1]
            text = f"unknown key {unknown!r}"
            hint = _hint(unknown, kind.__struct_fields__)
        elif text.startswith("object missing required field"):
            text = f"the key {text.split('`')[1]!r} is missing"
        raise _Invalid(f"{where}: {f'{what}: ' if what else ''}{text}{hint}") from None


def _hint(name: str, known: Iterable[str]) -> str:
    near = get_close_matches(name, list(known), 1)
    return f"; did you mean {near[0]!r}?" if near else f"; expected one of: {', '.join(known)}"
