"""Tokens that an identity provider has signed: JSON Web Tokens (docs/access.md).

PyJWT verifies signatures. It is imported only if the access file has the table.
"""

from __future__ import annotations

import base64
import binascii
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from mb_core.authenticators import Authenticate, Authenticator, Credentials, Identity
from mb_core.errors import UnauthorizedError

from .settings import convert

if TYPE_CHECKING:
    from .signing_keys import Key

__all__ = ["JWT"]

_MAX_TOKEN = 32_768
"""Characters. Those of providers have a few thousand."""

_MAX_NAME = 200
"""Characters of a user's name, which is logged."""

_MAX_LEEWAY = 300
_LAST = 253_402_300_799
"""The last second of the year 9999."""

_SIGNED = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]*)")
_ENCRYPTED = re.compile(r"([A-Za-z0-9_-]+)(\.[A-Za-z0-9_-]*){4}")
# Not those that are for something else, such as logout+jwt.
_TYPES = (None, "jwt", "at+jwt")

T = TypeVar("T")


class _Settings(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    issuer: str
    audience: str
    algorithms: list[str]
    key_file: str | None = None
    jwks_file: str | None = None
    roles_claim: str | None = None
    user_claim: str = "sub"
    typ: str | None = None
    leeway: float = 10


class _Header(msgspec.Struct):
    """What is read of a token's header. `jwk`, `jku`, `x5c` and `x5u` are not."""

    alg: str
    kid: str | None = None
    typ: str | None = None
    enc: str | None = None
    crit: Any = msgspec.UNSET
    b64: Any = msgspec.UNSET


_read_header = msgspec.json.Decoder(_Header).decode
_read_claims = msgspec.json.Decoder(dict[str, Any]).decode


def _create(table: Mapping[str, Any], folder: Path) -> Authenticate:
    settings = convert(table, _Settings)
    _check(settings)
    try:
        from . import signing_keys
    except ImportError as error:
        raise ValueError("needs PyJWT and cryptography: pip install 'mb-broker[jwt]'") from error
    algorithms = settings.algorithms
    signing_keys.check_algorithms(algorithms)
    if settings.key_file is not None:
        path = folder / settings.key_file
        key_of = _read("key_file", path, signing_keys.only_key, algorithms)
        return _Provider(settings, lambda header: key_of.get(header.alg))
    if signing_keys.uses_secret(algorithms):
        raise ValueError(
            f"jwks_file has public keys, but {algorithms[0]!r} needs a secret: use key_file, or "
            "the algorithm that the provider signs with, such as 'RS256'"
        )
    path = folder / (settings.jwks_file or "")
    keys = _read("jwks_file", path, signing_keys.keys_by_id, algorithms)
    return _Provider(settings, lambda header: keys.get((header.kid or "", header.alg)))


JWT = Authenticator("jwt", _create)
"""Identifies users by tokens that an identity provider has signed."""


def _check(settings: _Settings) -> None:
    for name in ("issuer", "audience", "key_file", "jwks_file", "roles_claim", "user_claim", "typ"):
        if getattr(settings, name) == "":
            raise ValueError(f"{name} must not be empty")
    if (settings.key_file is None) == (settings.jwks_file is None):
        given = "neither" if settings.key_file is None else "both"
        raise ValueError(
            f"{given} of key_file and jwks_file {'are' if given == 'both' else 'is'} set: set one, "
            "to the file with the keys of the provider"
        )
    if not 0 <= settings.leeway <= _MAX_LEEWAY:
        raise ValueError(
            f"invalid leeway {settings.leeway}: must be 0 to {_MAX_LEEWAY} (in seconds)"
        )


def _read(name: str, path: Path, read: Callable[[Path, list[str]], T], algorithms: list[str]) -> T:
    """Read a file with keys; errors start with the name of the setting."""
    try:
        return read(path, algorithms)
    except ValueError as error:
        raise ValueError(f"{name} {str(path)!r}: {error}") from error.__cause__


class _Provider:
    """Identifies the users of an identity provider by their tokens.

    What is cheap to see is seen first: a token costs a signature only if a key of the provider
    could have signed it. Errors never contain anything from the token.
    """

    def __init__(self, settings: _Settings, key_for: Callable[[_Header], Key | None]) -> None:
        self._settings = settings
        self._key_for = key_for
        self._types = (settings.typ.lower(),) if settings.typ is not None else _TYPES

    def __call__(self, credentials: Credentials) -> Identity | None:
        token = credentials.token
        if token is None:
            return None
        parts = _SIGNED.fullmatch(token) if len(token) <= _MAX_TOKEN else None
        if parts is None:
            _check_unsigned(token)
            return None
        header = _header_of(parts[1])
        if header is None:
            return None
        key = self._key_of(header)
        signature = _decoded(parts[3])
        if signature is None or not key.verifies(token[: parts.end(2)].encode(), signature):
            raise UnauthorizedError("the token's signature is invalid")
        return self._identity(_claims_of(parts[2]))

    def _key_of(self, header: _Header) -> Key:
        if header.crit is not msgspec.UNSET or header.b64 is not msgspec.UNSET:
            raise UnauthorizedError("the token uses extensions that this broker does not know")
        if header.alg not in self._settings.algorithms:
            raise UnauthorizedError(
                "the token is not signed with an algorithm that this broker accepts"
            )
        kind = header.typ.lower().removeprefix("application/") if header.typ is not None else None
        if kind not in self._types:
            raise UnauthorizedError("the token is of a type that this broker does not accept")
        key = self._key_for(header)
        if key is None:
            raise UnauthorizedError("the token is signed with a key that this broker does not know")
        return key

    def _identity(self, claims: dict[str, Any]) -> Identity:
        """Return whom verified claims are about."""
        settings, now = self._settings, time.time()
        if claims.get("iss") != settings.issuer:
            raise UnauthorizedError("the token is from another issuer")
        audience = claims.get("aud")
        if settings.audience not in (audience if isinstance(audience, list) else [audience]):
            raise UnauthorizedError("the token is not for this broker (audience)")
        expires_at = _time_of(claims, "exp")
        if expires_at is None:
            raise UnauthorizedError("the token never expires: it needs the claim 'exp'")
        if now >= expires_at + settings.leeway:
            raise UnauthorizedError("the token has expired")
        for name in ("nbf", "iat"):
            starts_at = _time_of(claims, name)
            if starts_at is not None and starts_at > now + settings.leeway:
                raise UnauthorizedError(
                    f"the token is not valid yet ({name}): check the clocks of this broker and of "
                    "the identity provider"
                )
        user = claims.get(settings.user_claim)
        if not isinstance(user, str) or not user.isprintable() or not 0 < len(user) <= _MAX_NAME:
            raise UnauthorizedError(
                f"the token's user ({settings.user_claim}) must have 1 to {_MAX_NAME} printable "
                "characters"
            )
        roles = None
        if settings.roles_claim is not None:
            roles = _roles_of(claims, settings.roles_claim)
        return Identity(user, roles, expires_at + settings.leeway)


def _check_unsigned(token: str) -> None:
    """Raise UnauthorizedError if this is a JWT that can't be used; other tokens may be anything."""
    if len(token) > _MAX_TOKEN:
        if _header_of(token[:_MAX_TOKEN].partition(".")[0]) is not None:
            raise UnauthorizedError(
                f"the token has {len(token)} characters, the limit is {_MAX_TOKEN}"
            )
    elif encrypted := _ENCRYPTED.fullmatch(token):
        header = _header_of(encrypted[1])
        if header is not None and header.enc is not None:
            raise UnauthorizedError(
                "the token is encrypted, and this broker needs a signed one: request it for this "
                "broker (audience)"
            )


def _header_of(part: str) -> _Header | None:
    """Return the header of a token; None if it is not a JWT."""
    decoded = _decoded(part)
    if decoded is None:
        return None
    try:
        return _read_header(decoded)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def _claims_of(part: str) -> dict[str, Any]:
    decoded = _decoded(part)
    if decoded is not None:
        try:
            return _read_claims(decoded)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            pass
    raise UnauthorizedError("the token's claims are not a JSON object")


def _decoded(part: str) -> bytes | None:
    """Decode base64url without padding; None if that is impossible."""
    try:
        return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
    except (binascii.Error, ValueError):
        return None


def _time_of(claims: dict[str, Any], name: str) -> float | None:
    if name not in claims:
        return None
    value = claims[name]
    # Not a bool, which is an int, nor a number that no clock shows, which may have any size.
    if type(value) not in (int, float) or not 0 <= value <= _LAST:
        raise UnauthorizedError(f"the token's {name} is not a time in seconds")
    return float(value)


def _roles_of(claims: dict[str, Any], path: str) -> tuple[str, ...]:
    """Return the roles in a claim: a list, or a text with spaces. No claim means no roles."""
    value: Any = claims
    if path in claims:  # the names of claims may have dots
        value = claims[path]
    else:
        for key in path.split("."):
            value = value.get(key) if isinstance(value, dict) else None
    if value is None:
        return ()
    roles = value.split() if isinstance(value, str) else value
    if not isinstance(roles, list) or not all(isinstance(role, str) for role in roles):
        raise UnauthorizedError(f"the token's roles ({path}) are not a list of texts")
    return tuple(roles)
