"""The users of a broker, found by what a client shows of itself."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence

import msgspec

from mb_core.authenticators import Authenticate, Credentials, Identity
from mb_core.errors import ServiceUnavailableError, UnauthorizedError

from .grants import ANYBODY, NOBODY, Grants

__all__ = ["NO_LIMITS", "Access", "Authentication", "Limits", "User"]

_log = logging.getLogger("mb_broker.access")


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
    """Call an authenticator, which may be a plugin's."""
    try:
        return authentication.authenticate(credentials)
    except UnauthorizedError:
        raise
    except Exception as error:
        _log.exception("internal error: the authenticator %r has failed", authentication.name)
        raise ServiceUnavailableError(
            "the broker can't authenticate clients now; its log says why"
        ) from error
