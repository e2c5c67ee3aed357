"""Limiting how many messages a client sends: a user per second, all others in total."""

from __future__ import annotations

from mb_core.errors import ServiceUnavailableError

__all__ = ["MAX_UNAUTHENTICATED", "Allowance", "RateLimit"]

MAX_UNAUTHENTICATED = 20
"""How many messages a client may send without authenticating, if it has to."""

# These don't count: a service must be able to answer whatever others ask it, and a client must be
# able to show that it is alive.
_FREE = (b"response:", b"request:system.heartbeat:")


class RateLimit:
    """A token bucket for the messages of one user, over all of its connections.

    After a pause, a user may send the messages of one second at once. Refused messages do not
    count, so a user that sends too fast still gets `per_second` messages through.
    """

    __slots__ = ("_at", "_left", "_most", "_per_second", "_user")

    def __init__(self, user: str, per_second: float, now: float) -> None:
        self._user = user
        self._per_second = per_second
        self._most = self._left = max(1.0, per_second)
        self._at = now

    @property
    def per_second(self) -> float:
        """The limit."""
        return self._per_second

    def split(self, messages: list[bytes], now: float) -> tuple[list[bytes], list[bytes]]:
        """Return the messages to handle, and those beyond the limit."""
        self._left = min(self._most, self._left + (now - self._at) * self._per_second)
        self._at = now
        allowed: list[bytes] = []
        excess: list[bytes] = []
        for data in messages:
            if data.startswith(_FREE):
                allowed.append(data)
            elif self._left >= 1:
                self._left -= 1
                allowed.append(data)
            else:
                excess.append(data)
        return allowed, excess

    def give_back(self, messages: list[bytes]) -> None:
        """Take back messages that were allowed, but will be split again later."""
        count = sum(not data.startswith(_FREE) for data in messages)
        self._left = min(self._most, self._left + count)

    def error(self) -> ServiceUnavailableError:
        """The error for a message beyond the limit."""
        return ServiceUnavailableError(
            f"the user {self._user!r} sends more than {self._per_second:g} messages per second "
            "(max_rate)",
            details={"user": self._user, "max_rate": self._per_second},
        )


class Allowance:
    """The messages that a client may send before it has authenticated.

    Refusing a message takes longer than sending one. Otherwise, a thousand clients without a token
    would keep the broker busy.
    """

    __slots__ = ("_left",)

    def __init__(self, messages: int = MAX_UNAUTHENTICATED) -> None:
        self._left = messages

    def split(self, messages: list[bytes], now: float) -> tuple[list[bytes], list[bytes]]:
        """Return the messages to handle, and those beyond the limit."""
        allowed, excess = messages[: self._left], messages[self._left :]
        self._left -= len(allowed)
        return allowed, excess

    def give_back(self, messages: list[bytes]) -> None:
        """Take back messages that were allowed, but will be split again later."""
        self._left += len(messages)
