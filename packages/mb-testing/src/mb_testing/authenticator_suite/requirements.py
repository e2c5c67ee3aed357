"""What is required of an authenticator: each check of the suite belongs to one of these."""

from __future__ import annotations

from ..conformance import Requirement

__all__ = [
    "CREATES",
    "FOUND",
    "HIDDEN",
    "KNOWS",
    "MISTAKES",
    "NOBODY",
    "QUICK",
    "RAISES",
    "REFUSES",
    "STABLE",
    "TYPES",
    "UNKNOWN",
    "WORKS",
]

_PLUGINS = "docs/plugins.md"
_AUTHENTICATE = "mb_core.authenticators.Authenticate"
_CREATE = "mb_core.authenticators.Authenticator.create"

FOUND = Requirement(
    "an installed authenticator is found by its name, through an entry point of that name in the "
    "group mb.authenticators",
    _PLUGINS,
)
CREATES = Requirement(
    "create returns a function for valid settings, and leaves its table as it is", _CREATE
)
MISTAKES = Requirement(
    "create raises ValueError for an invalid setting, with a text of one line, and nothing else",
    _CREATE,
)
UNKNOWN = Requirement("create raises ValueError for a setting that it does not know", _CREATE)
NOBODY = Requirement("a client that has shown nothing is not known: return None", _AUTHENTICATE)
KNOWS = Requirement("the credentials of a user are known, under the user's name", _AUTHENTICATE)
TYPES = Requirement(
    "an authenticator returns None or an Identity: a name of printable characters, roles as a "
    "tuple of strings or None, and a time in the future or None",
    "mb_core.authenticators.Identity",
)
REFUSES = Requirement("wrong credentials are not accepted", _AUTHENTICATE)
RAISES = Requirement(
    "whatever a client has sent, an authenticator raises only UnauthorizedError, with a text of "
    "one line",
    _AUTHENTICATE,
)
STABLE = Requirement(
    "the same credentials give the same Identity, whatever was asked in between, and the same name "
    "and roles after the access file is read again",
    _AUTHENTICATE,
)
QUICK = Requirement(
    "an authenticator returns quickly: the broker's event loop waits", _AUTHENTICATE
)
HIDDEN = Requirement("no error, log or repr contains a token or another secret", _PLUGINS)
WORKS = Requirement("a broker knows its users by it, and refuses others", _PLUGINS)
