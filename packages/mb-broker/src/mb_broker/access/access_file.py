"""The access file: roles, users and what anonymous clients may do, in TOML (docs/access.md)."""

from __future__ import annotations

import math
import os
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from mb_core.authenticators import Authenticator
from mb_core.errors import LocalProtocolError, PluginError
from mb_core.topic import is_pattern, is_system

from .certificates import CERTIFICATES
from .grants import Grants, Role
from .settings import convert, hint, read_trusted
from .tokens import TOKENS
from .users import Access, Authentication, Limits, User

__all__ = ["read_access_file"]

_HASH = re.compile(r"[0-9a-f]{64}")
_CERTIFICATE = re.compile(r"(URI:|DNS:|CN=)\S(.*\S)?")
_PATTERNS = ("publish", "request", "subscribe", "respond")
_TABLES = ("roles", "users", "anonymous", "authenticators")
# What tables of [authenticators] have besides the settings of the authenticator.
_LIMITS = ("max_priority", "max_connections", "max_rate")

S = TypeVar("S", bound=msgspec.Struct)


class _LimitsStanza(msgspec.Struct, forbid_unknown_fields=True):
    max_priority: float | None = None
    max_connections: int | None = None
    max_rate: float | None = None


class _UserStanza(_LimitsStanza, forbid_unknown_fields=True, kw_only=True):
    name: str
    roles: list[str]
    token_sha256: str | None = None
    certificate: str | None = None


class _AnonymousStanza(msgspec.Struct, forbid_unknown_fields=True):
    roles: list[str]


class _Invalid(Exception):
    """What is wrong with the file, without its name."""


def read_access_file(
    path: str | os.PathLike[str], find: Callable[[str], Authenticator] | None = None
) -> Access:
    """Read an access file.

    Args:
        path: The file.
        find: Returns the authenticator with a name, such as `installed_plugins().authenticator`;
            raises PluginError. Without it, the file may not have `[authenticators]`.

    Raises:
        LocalProtocolError: It can't be read, or it is invalid. The text is one line that names the
            stanza and the remedy.
    """
    try:
        return _Reader(_content(Path(path)), Path(path).parent, find).access()
    except _Invalid as error:
        raise LocalProtocolError(f"access file {os.fspath(path)}: {error}") from error.__cause__


def _content(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(read_trusted(path).decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise _Invalid(f"is not valid TOML: {error}") from error
    except RecursionError:
        raise _Invalid("is nested too deep") from None
    except ValueError as error:
        raise _Invalid(str(error)) from error.__cause__


class _Reader:
    """Turns the content of an access file into an Access; raises _Invalid."""

    def __init__(
        self,
        content: dict[str, Any],
        folder: Path,
        find: Callable[[str], Authenticator] | None,
    ) -> None:
        for name in content:
            if name not in _TABLES:
                raise _Invalid(f"unknown table [{name}]{hint(name, _TABLES)}")
        self._content = content
        self._folder = folder
        self._find_plugin = find
        self._roles = {
            name: _role(name, stanza) for name, stanza in self._tables("roles", "reader").items()
        }
        self._everybody: list[str] = []  # the roles that all clients have
        # Clients with the same roles share one object, and with it what is remembered about it.
        self._shared: dict[frozenset[str], Grants] = {}

    def access(self) -> Access:
        anonymous: Grants | None = None
        if (stanza := self._content.get("anonymous")) is not None:
            self._everybody = _convert("[anonymous]", stanza, _AnonymousStanza).roles
            anonymous = self._grants("[anonymous]", [])
        tables = self._tables("authenticators", "jwt")
        users, tokens, certificates = self._users(bool(tables))
        if not users and anonymous is None and not tables:
            raise _Invalid("has no [[users]] and no [anonymous], so nobody could do anything")
        authentications = [
            Authentication(each.name, each.create({"users": given}, self._folder))
            for each, given in ((TOKENS, tokens), (CERTIFICATES, certificates))
        ]
        authentications += [self._authentication(name, table) for name, table in tables.items()]
        return Access(users, anonymous, authentications, self._grants_of)

    def _tables(self, name: str, example: str) -> dict[str, Any]:
        given = self._content.get(name, {})
        if isinstance(given, dict) and all(isinstance(each, dict) for each in given.values()):
            return given
        raise _Invalid(f"{name} must be tables, such as [{name}.{example}]")

    def _grants(self, where: str, roles: Iterable[str]) -> Grants:
        """Return what these roles allow, and those of anonymous clients.

        Authenticating must not take anything away.
        """
        names = frozenset([*roles, *self._everybody])
        for name in names:
            if name not in self._roles:
                near = hint(name, self._roles) if self._roles else "; there are no roles"
                raise _Invalid(f"{where}: unknown role {name!r}{near}")
        if names not in self._shared:
            self._shared[names] = Grants(self._roles[name] for name in names)
        return self._shared[names]

    def _grants_of(self, roles: Iterable[str]) -> Grants:
        """Return what an authenticator's roles allow; it may know roles for other programs."""
        return self._grants("", [name for name in roles if name in self._roles])

    def _users(self, others: bool) -> tuple[list[User], dict[str, str], dict[str, str]]:
        """Return the users, and their names by the hash of the token and by the certificate.

        `others` says that there are other authenticators.
        """
        given = self._content.get("users", [])
        if not isinstance(given, list):
            raise _Invalid("users must be an array of tables: write [[users]] before each")
        users: dict[str, User] = {}
        tokens: dict[str, str] = {}
        certificates: dict[str, str] = {}
        for number, stanza in enumerate(given, 1):
            where = _user_named(number, stanza)
            user = _convert(where, stanza, _UserStanza)
            if not user.name or not user.name.isprintable():
                raise _Invalid(
                    f"{where}: invalid name {user.name!r}: expected printable characters"
                )
            if user.name in users:
                raise _Invalid(f"{where}: there are two users of this name; rename one of them")
            if user.token_sha256 is not None:
                digest = _digest(where, user.token_sha256)
                if digest in tokens:
                    raise _Invalid(
                        f"{where}: has the same token as {tokens[digest]!r}; create one with "
                        "`mb token` for each user"
                    )
                tokens[digest] = user.name
            if user.certificate is not None:
                certificate = _certificate(where, user.certificate)
                if certificate in certificates:
                    raise _Invalid(
                        f"{where}: has the same certificate as {certificates[certificate]!r}; "
                        "remove it from one of them"
                    )
                certificates[certificate] = user.name
            if user.token_sha256 is None and user.certificate is None and not others:
                raise _Invalid(
                    f"{where}: has neither a token_sha256 nor a certificate; create a token with "
                    "`mb token`"
                )
            grants = self._grants(where, user.roles)
            users[user.name] = User(user.name, grants, _limits(where, user))
        return list(users.values()), tokens, certificates

    def _authentication(self, name: str, table: dict[str, Any]) -> Authentication:
        where = f"[authenticators.{name}]"
        if name in (TOKENS.name, CERTIFICATES.name):
            raise _Invalid(f"{where}: needs no table: set token_sha256 or certificate in [[users]]")
        given = {key: value for key, value in table.items() if key in _LIMITS}
        limits = _limits(where, _convert(where, given, _LimitsStanza))
        settings = {key: value for key, value in table.items() if key not in _LIMITS}
        authenticator = self._find(where, name)
        try:
            authenticate = authenticator.create(settings, self._folder)
            if not callable(authenticate):
                raise TypeError(f"its create returned {authenticate!r}, not a function")
        except ValueError as error:
            raise _Invalid(f"{where}: {error}") from error
        except (Exception, SystemExit) as error:
            raise _Invalid(f"{where}: the plugin has failed: {error!r}") from error
        return Authentication(name, authenticate, limits)

    def _find(self, where: str, name: str) -> Authenticator:
        if self._find_plugin is None:
            raise _Invalid(f"{where}: authenticators other than [[users]] can't be used here")
        try:
            return self._find_plugin(name)
        except PluginError as error:
            raise _Invalid(f"{where}: {error}") from error


def _digest(where: str, text: str) -> str:
    digest = text.lower()
    if not _HASH.fullmatch(digest):
        # Not shown: it may be the token itself.
        raise _Invalid(
            f"{where}: token_sha256 has {len(digest)} characters that are not a SHA-256 hash: "
            "expected 64 hexadecimal digits, as `mb token` prints them"
        )
    return digest


def _certificate(where: str, text: str) -> str:
    if not _CERTIFICATE.fullmatch(text):
        raise _Invalid(
            f"{where}: invalid certificate {text!r}: expected 'URI:...' or 'DNS:...' for an "
            "alternative name, or 'CN=...' for the common name"
        )
    kind = text[:4]
    return kind + text[4:].lower() if kind == "DNS:" else text


def _limits(where: str, given: _LimitsStanza) -> Limits:
    if given.max_priority is not None and not math.isfinite(given.max_priority):
        raise _Invalid(
            f"{where}: invalid max_priority {given.max_priority}: must be a number; leave it out "
            "for no limit"
        )
    if given.max_connections is not None and given.max_connections < 1:
        raise _Invalid(
            f"{where}: invalid max_connections {given.max_connections}: must be 1 or more"
        )
    if given.max_rate is not None and not 0 < given.max_rate < math.inf:
        raise _Invalid(
            f"{where}: invalid max_rate {given.max_rate}: must be a number of messages per second "
            "above 0; leave it out for no limit"
        )
    return Limits(given.max_priority, given.max_connections, given.max_rate)


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


def _user_named(number: int, stanza: Any) -> str:
    name = stanza.get("name") if isinstance(stanza, Mapping) else None
    return f"[[users]] {name!r}" if isinstance(name, str) else f"[[users]] number {number}"


def _convert(where: str, stanza: Any, kind: type[S]) -> S:
    try:
        return convert(stanza, kind)
    except ValueError as error:
        raise _Invalid(f"{where}: {error}") from None
