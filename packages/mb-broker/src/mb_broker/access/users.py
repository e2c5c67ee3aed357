"""The users of a broker, found by what a client shows of itself."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Iterable, Sequence

import msgspec

from mb_core.authenticators import Authenticate, Credentials, Identity
from mb_core.errors import ServiceUnavailableError, UnauthorizedError
from mb_core.throttle import Throttle
from mb_core.url import without_secrets

from .grants import ANYBODY, NOBODY, Grants

__all__ = ["NO_LIMITS", "Access", "Authentication", "Limits", "User"]

_log = logging.getLogger("mb_broker.access")
_throttle = Throttle()

# Of what authenticators return: characters of a name, and seconds since the epoch (in 33,658).
_MAX_NAME = 1_000
_LAST = 1e12


class Limits(msgspec.Struct, frozen=True):
    """What limits a user besides its roles; None for no limit.

    Attributes:
        max_priority: The highest priority for its subscriptions to requests.
        max_connections: How many connections it may have at the same time.
        max_rate: How many messages it may send per second, over all connections.
    """

    max_priority: float | None = None
    max_connections: int | None = None
    max_rate: float | None = None


NO_LIMITS = Limits()


class User(msgspec.Struct, frozen=True):
    """A user.

    Attributes:
        name: Its name, as it is logged.
        grants: What its roles allow.
        limits: Its limits.
        known_by: The name of the authenticator that knows its roles; empty if the access file does.
    """

    name: str
    grants: Grants
    limits: Limits = NO_LIMITS
    known_by: str = ""

    @property
    def key(self) -> tuple[str, str]:
        """What identifies it. Users of different authenticators may have the same name."""
        return self.known_by, self.name


class Authentication(msgspec.Struct, frozen=True):
    """An authenticator in use.

    Attributes:
        name: Its name.
        authenticate: Identifies clients.
        limits: For users whose roles it knows.
    """

    name: str
    authenticate: Authenticate
    limits: Limits = NO_LIMITS


class Access:
    """Who may connect to a broker, and what they may do.

    Args:
        users: The users of the access file; None if everybody may do everything.
        anonymous: What clients may do that have not authenticated; None if they may do nothing.
        authentications: How clients are identified: the first that knows one counts.
        grants_of: Returns what roles allow, by their names.

    Attributes:
        initial: The grants of a client that has just connected.
        restricted: Whether clients can authenticate.
    """

    def __init__(
        self,
        users: Iterable[User] | None = None,
        anonymous: Grants | None = None,
        authentications: Sequence[Authentication] = (),
        grants_of: Callable[[Iterable[str]], Grants] = lambda roles: NOBODY,
    ) -> None:
        self.restricted = users is not None
        self.initial = ANYBODY if users is None else anonymous or NOBODY
        self._users = {user.name: user for user in users or ()}
        self._authentications = authentications
        self._grants_of = grants_of

    def user_of(self, credentials: Credentials) -> tuple[User, float | None]:
        """Return the user with these credentials, and when they expire (as `time.time()`).

        Raises:
            UnauthorizedError: There is none.
            ServiceUnavailableError: An authenticator has failed.
        """
        listed = True
        for each in self._authentications:
            identity = _identity(each, credentials)
            if identity is None:
                continue
            if identity.roles is not None:
                grants = self._grants_of(identity.roles)
                user = User(identity.name, grants, each.limits, each.name)
            elif identity.name in self._users:
                user = self._users[identity.name]
            else:
                listed = False
                continue
            return user, identity.expires_at
        if not listed:
            raise UnauthorizedError("this broker does not know the user of the token")
        if credentials.token is not None:
            raise UnauthorizedError("the token is invalid")
        raise UnauthorizedError("the certificate belongs to no user")


def _identity(authentication: Authentication, credentials: Credentials) -> Identity | None:
    """Call an authenticator, which may be a plugin's, and check what it returns."""
    try:
        identity = authentication.authenticate(credentials)
        if identity is not None:
            _check(identity)
        return identity
    except UnauthorizedError as error:
        text = str(error.message).encode(errors="backslashreplace").decode()
        raise UnauthorizedError(text, details=error.details) from error
    except (Exception, SystemExit) as error:
        # Clients cause it, as often as they like.
        if _throttle.allow(authentication.name):
            # The error of a look-up, for example, quotes the token.
            trace = "".join(traceback.format_exception(error))
            trace = without_secrets(trace, [credentials.token] if credentials.token else [])
            name = authentication.name
            _log.error("internal error: the authenticator %r has failed\n%s", name, trace)
        raise ServiceUnavailableError(
            "the broker can't authenticate clients now; its log says why"
        ) from error


def _check(identity: Identity) -> None:
    """Raise TypeError or ValueError if this would fail later, or could not be shown."""
    if not isinstance(identity, Identity):  # not shown: it may be the token
        raise TypeError(f"it returned a {type(identity).__name__}: expected an Identity or None")
    name, roles, expires_at = identity.name, identity.roles, identity.expires_at
    if not isinstance(name, str) or not name.isprintable() or not 0 < len(name) <= _MAX_NAME:
        raise ValueError(f"invalid name: expected 1 to {_MAX_NAME} printable characters")
    if roles is not None and not (
        isinstance(roles, tuple | list) and all(isinstance(role, str) for role in roles)
    ):
        raise TypeError(f"invalid roles {roles!r}: expected a tuple of strings, or None")
    if expires_at is not None and not (
        isinstance(expires_at, int | float) and abs(expires_at) <= _LAST
    ):
        raise ValueError(
            f"invalid expires_at {expires_at!r}: expected seconds since the epoch, or None"
        )
