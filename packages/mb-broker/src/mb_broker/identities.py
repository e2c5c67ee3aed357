"""Who the connected clients are."""

from __future__ import annotations

from collections import Counter

from mb_core.errors import InvalidRequestError, ServiceUnavailableError, UnauthorizedError
from mb_core.header import HeaderReader

from .access import Access, Grants, User
from .options import RouterOptions
from .registry import Service
from .unauthenticated import Unauthenticated

__all__ = ["Identities"]


class Identities:
    """Gives each client its grants: those of new clients, and its user's when it authenticates.

    The clients with the same grants share a reader of headers, which remembers where their messages
    go. So what they may send is looked up once, not with each message.

    Attributes:
        restricted: Whether clients can authenticate.
        unauthenticated: The clients that have to authenticate.
    """

    def __init__(self, access: Access, options: RouterOptions) -> None:
        self.restricted = access.restricted
        self.unauthenticated = Unauthenticated(options.handshake_timeout, options.max_handshakes)
        self._access = access
        self._max_header = options.max_header
        self._readers: dict[Grants, HeaderReader] = {}
        self._connections: Counter[User] = Counter()

    def add(self, service: Service, now: float) -> None:
        """Add a client that has just connected."""
        self._grant(service, self._access.initial)
        if not service.grants.known:
            self.unauthenticated.add(service, now)

    def discard(self, service: Service) -> None:
        """Forget a client that has left."""
        self.unauthenticated.discard(service)
        if service.user is not None:
            self._connections[service.user] -= 1

    def authenticate(self, service: Service, token: str) -> User:
        """Make a client the user with this token.

        Raises UnauthorizedError if there is none, ServiceUnavailableError if it has too many
        connections, and InvalidRequestError if the connection is another user's.
        """
        user = self._access.user_of(token)
        if user is None:
            self.unauthenticated.wrong_token(service)
            raise UnauthorizedError("the token is invalid")
        if service.user is user:
            return user
        if service.user is not None:
            raise InvalidRequestError(
                f"this connection belongs to {service.user.name!r}: open another one to use "
                "another token"
            )
        limit = user.max_connections
        if limit is not None and self._connections[user] >= limit:
            # Not FORBIDDEN: a connection that was lost counts until the broker notices that.
            count = f"{limit} connection{'s'[: limit > 1]}"
            raise ServiceUnavailableError(
                f"the user {user.name!r} already has {count} (max_connections)"
            )
        self._connections[user] += 1
        service.user = user
        self._grant(service, user.grants)
        self.unauthenticated.discard(service)
        return user

    def _grant(self, service: Service, grants: Grants) -> None:
        if grants not in self._readers:
            self._readers[grants] = HeaderReader(self._max_header)
        service.grants, service.read = grants, self._readers[grants].read
