"""Clients that have to authenticate, and those whose connections are to be closed."""

from __future__ import annotations

from .rate_limit import MAX_UNAUTHENTICATED
from .registry import Service

__all__ = ["Unauthenticated"]

_MAX_WRONG_TOKENS = 3


class Unauthenticated:
    """Ends the connections of clients that don't authenticate.

    A client has `seconds` for it, and three tokens. There can be up to `most` such clients: one
    more ends the connection of the oldest, because real clients authenticate at once.
    """

    def __init__(self, seconds: float, most: int) -> None:
        self._seconds = seconds
        self._most = most
        # With the time at which each is rejected. All have the same time limit, so the first in
        # the dict is the first that is due.
        self._waiting: dict[Service, float] = {}
        self._rejected: dict[Service, str] = {}

    def add(self, service: Service, now: float) -> None:
        """Start the time limit of a client that has just connected."""
        self._waiting[service] = now + self._seconds
        if len(self._waiting) > self._most:
            self.reject(
                next(iter(self._waiting)),
                f"{self._most} newer connections have not authenticated either (max_handshakes)",
            )

    def discard(self, service: Service) -> None:
        """Forget a client that has authenticated or left."""
        self._waiting.pop(service, None)
        self._rejected.pop(service, None)

    def wrong_token(self, service: Service) -> None:
        """Count a wrong token; the third ends the connection."""
        service.wrong_tokens += 1
        if self.is_guessing(service):
            self.reject(service, f"sent {_MAX_WRONG_TOKENS} wrong tokens")

    def is_guessing(self, service: Service) -> bool:
        """Return whether a client has sent as many wrong tokens as it may."""
        return service.wrong_tokens >= _MAX_WRONG_TOKENS

    def is_rejected(self, service: Service) -> bool:
        """Return whether the connection of a client is about to be closed."""
        return service in self._rejected

    def too_many_messages(self, service: Service) -> None:
        """End the connection of a client that sends other messages instead of a token."""
        if service in self._waiting:
            self.reject(
                service, f"sent more than {MAX_UNAUTHENTICATED} messages without authenticating"
            )

    def next_deadline(self) -> float | None:
        """Return when `take_rejected` has to be called next; None if it doesn't."""
        if self._rejected:
            return 0.0  # now
        return next(iter(self._waiting.values()), None)

    def take_rejected(self, now: float) -> list[tuple[Service, str]]:
        """Return the clients whose connections have to be closed, and why."""
        while self._waiting:
            service, due = next(iter(self._waiting.items()))
            if now < due:
                break
            self.reject(
                service,
                f"did not authenticate within {self._seconds * 1000:.0f} ms (handshake_timeout)",
            )
        rejected, self._rejected = self._rejected, {}
        return list(rejected.items())

    def reject(self, service: Service, why: str) -> None:
        """Have the connection of a client closed."""
        self._waiting.pop(service, None)
        self._rejected[service] = why
