"""Who the connected clients are."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable

from msgspec.structs import replace

from mb_core.authenticators import NO_CREDENTIALS, Credentials
from mb_core.deadlines import Deadlines
from mb_core.errors import (
    InvalidRequestError,
    ResponseError,
    ServiceUnavailableError,
    UnauthorizedError,
)
from mb_core.header import HeaderReader

from .access import NOBODY, Access, Grants, User
from .log_feed import LogFeed
from .metrics import BrokerMetrics
from .options import RouterOptions
from .rate_limit import Allowance, RateLimit
from .registry import Service
from .unauthenticated import Unauthenticated

__all__ = ["Identities"]

# How many rate limits of users without a connection are kept.
_MAX_RATE_LIMITS = 10_000


class Identities:
    """Gives each client its grants: those of new clients, and its user's when it authenticates.

    The clients with the same grants share a reader of headers, which remembers where their messages
    go. So what they may send is looked up once, not with each message.

    Attributes:
        restricted: Whether clients can authenticate.
    """

    def __init__(
        self, access: Access, options: RouterOptions, metrics: BrokerMetrics, log: LogFeed
    ) -> None:
        self.restricted = access.restricted
        self._access = access
        self._metrics = metrics
        self._log = log
        self._unauthenticated = Unauthenticated(options.handshake_timeout, options.max_handshakes)
        self._max_header = options.max_header
        self._readers: dict[Grants, HeaderReader] = {}
        self._connections: Counter[tuple[str, str]] = Counter()
        self._expiring: Deadlines[Service] = Deadlines()
        self._rate_limits: dict[tuple[str, str], RateLimit] = {}

    def add(self, service: Service, credentials: Credentials, now: float) -> None:
        """Add a client that has just connected, with what its connection says about it."""
        self._grant(service, self._access.initial)
        if self.restricted and credentials != NO_CREDENTIALS:
            self._identify(service, credentials, now)
        if not service.grants.known:
            service.rate_limit = Allowance()
            self._unauthenticated.add(service, now)

    def discard(self, service: Service) -> None:
        """Forget a client that has left."""
        self._unauthenticated.discard(service)
        self._set_user(service, None)

    def authenticate(self, service: Service, token: str, now: float) -> User:
        """Make a client the user with this token.

        Raises UnauthorizedError if there is none, ServiceUnavailableError if it has too many
        connections, and InvalidRequestError if the connection is another user's.
        """
        if self._unauthenticated.is_guessing(service):  # its connection is about to be closed
            raise UnauthorizedError("this connection has sent too many wrong tokens")
        if service.user is not None and token == service.credentials.token:
            return service.user  # the connection ends when it expires; verifying it takes time
        credentials = replace(service.credentials, token=token)
        try:
            user, expires_at = self._access.user_of(credentials)
        except UnauthorizedError:
            self._unauthenticated.wrong_token(service)
            raise
        known = service.user
        if known is not None and (service.subscriptions or service.name):
            what = None
            if known.key != user.key:
                what = f"this connection belongs to {known.name!r}"
            elif known.grants is not user.grants:
                what = f"this token gives {known.name!r} other roles than the one before"
            if what is not None:
                raise InvalidRequestError(f"{what}: open another connection to use this token")
        self._become(service, user, credentials, expires_at, now)
        return user

    def too_many_messages(self, service: Service) -> None:
        """End the connection of a client that has used up its Allowance."""
        self._unauthenticated.too_many_messages(service)

    def next_deadline(self) -> float | None:
        """Return when `take_rejected` has to be called next; None if it doesn't."""
        rejection, expiry = self._unauthenticated.next_deadline(), self._expiring.next()
        if rejection is None or expiry is None:
            return expiry if rejection is None else rejection
        return min(rejection, expiry)

    def take_rejected(self, now: float) -> list[tuple[Service, str]]:
        """Return the clients whose connections have to be closed, and why."""
        for service in self._expiring.pop_due(now):
            self._reject(service, "has a token that has expired")
        rejected = self._unauthenticated.take_rejected(now)
        self._metrics.unauthorized.add(int(now), len(rejected))
        return rejected

    def replace(self, access: Access, services: Iterable[Service], now: float) -> list[Service]:
        """Apply new users and roles, and return the clients that may do something else now.

        A client that is no longer who it was is rejected.
        """
        self._access = access
        self._readers.clear()
        changed: list[Service] = []
        for service in services:
            before = service.grants
            if service.user is not None:
                self._check_again(service, service.user, now)
            elif before.known and not access.initial.known:
                self._reject(service, "has not authenticated, and anonymous clients may do nothing")
            else:
                self._grant(service, access.initial)
                if not self._unauthenticated.is_rejected(service):
                    self._check_anew(service, now)
            changed.append(service)
        return changed

    def _identify(self, service: Service, credentials: Credentials, now: float) -> None:
        """Find out who a client is by what its connection says: a header, then a certificate."""
        service.credentials = replace(credentials, token=None)
        tries = [credentials, service.credentials] if credentials.token else [service.credentials]
        for given in tries:
            if service.user is not None or given == NO_CREDENTIALS:
                break
            try:
                user, expires_at = self._access.user_of(given)
                self._become(service, user, given, expires_at, now)
            except ResponseError as error:
                # Not every certificate belongs to a user: such a client can send a token.
                if given.token is None and isinstance(error, UnauthorizedError):
                    continue
                # It is not answered, as the client has not sent a message. If a proxy sends the
                # header, it is up to the operator.
                self._metrics.unauthorized.add(int(now))
                what = "certificate" if given.token is None else "Authorization header"
                text = f"[{error.code}] {error.message} (in the {what} of a connection)"
                self._write_log("warn", text, f"{error.code} {what}", service, now)

    def _become(
        self,
        service: Service,
        user: User,
        credentials: Credentials,
        expires_at: float | None,
        now: float,
    ) -> None:
        """Make a client this user; raises ServiceUnavailableError if that has too many."""
        known = service.user
        if known is None or known.key != user.key:
            limit = user.limits.max_connections
            if limit is not None and self._connections[user.key] >= limit:
                # Not FORBIDDEN: a connection that was lost counts until the broker notices that.
                count = f"{limit} connection{'s'[: limit > 1]}"
                raise ServiceUnavailableError(
                    f"the user {user.name!r} already has {count} (max_connections)"
                )
            self._write_log("info", f"{user.name} authenticated", "authenticated", service, now)
        self._set_user(service, user)
        service.credentials = credentials
        service.rate_limit = self._rate_limit(user, now)
        self._grant(service, user.grants)
        if not self._unauthenticated.is_guessing(service):  # its connection will be closed anyway
            self._unauthenticated.discard(service)
        if expires_at is not None:
            self._expiring.add(service, now + expires_at - time.time())

    def _check_again(self, service: Service, known: User, now: float) -> None:
        """See who a client is now."""
        try:
            user, expires_at = self._access.user_of(service.credentials)
            if user.key == known.key:
                self._become(service, user, service.credentials, expires_at, now)
                return
        except ResponseError:
            pass
        self._reject(service, f"was {known.name}, which was removed or has other credentials now")

    def _check_anew(self, service: Service, now: float) -> None:
        """See whether a client without a user has one now, or no longer needs one."""
        self._identify(service, service.credentials, now)
        if service.user is None and service.grants.known:
            service.rate_limit = None
            self._unauthenticated.discard(service)

    def _reject(self, service: Service, why: str) -> None:
        """Take everything from a client, and have its connection closed."""
        self._set_user(service, None)
        self._grant(service, NOBODY)
        service.rate_limit = Allowance(0)
        self._unauthenticated.reject(service, why)

    def _rate_limit(self, user: User, now: float) -> RateLimit | None:
        """Return what limits a user.

        It is kept when the user leaves, so that reconnecting does not reset it.
        """
        per_second = user.limits.max_rate
        if per_second is None:
            return None
        limit = self._rate_limits.get(user.key)
        if limit is None or limit.per_second != per_second:
            limit = self._rate_limits[user.key] = RateLimit(user.name, per_second, now)
            if len(self._rate_limits) > _MAX_RATE_LIMITS + len(self._connections):
                self._forget_rate_limits()
        return limit

    def _forget_rate_limits(self) -> None:
        """Forget those of users that have left, as an authenticator may know any number."""
        self._rate_limits = {
            key: limit for key, limit in self._rate_limits.items() if key in self._connections
        }

    def _set_user(self, service: Service, user: User | None) -> None:
        self._expiring.discard(service)
        if service.user is not None:
            self._connections[service.user.key] -= 1
            if not self._connections[service.user.key]:
                del self._connections[service.user.key]
        if user is not None:
            self._connections[user.key] += 1
        service.user = user
        if user is None:
            service.rate_limit = None

    def _grant(self, service: Service, grants: Grants) -> None:
        if grants not in self._readers:
            self._readers[grants] = HeaderReader(self._max_header)
        service.grants, service.read = grants, self._readers[grants].read

    def _write_log(self, level: str, text: str, cause: str, service: Service, now: float) -> None:
        second = int(now)
        self._log.write(level, "registry", text, cause=cause, second=second, serviceId=service.id)
