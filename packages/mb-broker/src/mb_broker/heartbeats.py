"""Decide which silent clients are sent a heartbeat request, and which are dropped."""

from __future__ import annotations

from collections.abc import Callable

from mb_core.deadlines import Deadlines

from .registry import Service

__all__ = ["Heartbeats", "link_progress"]


class Heartbeats:
    """Finds silent clients.

    They are sent a heartbeat request every `ask_after` seconds of silence, and are dropped after
    `drop_after`.

    A client whose Link makes progress is not silent, even if no complete message has arrived:
    `progress` returns a number that changes with everything that a service's Link reads or writes.
    """

    def __init__(
        self, ask_after: float, drop_after: float, progress: Callable[[Service], int]
    ) -> None:
        self._ask_after = ask_after
        self._drop_after = drop_after
        self._progress = progress
        self._checks: Deadlines[Service] = Deadlines()
        # When `check` is due next, if at all; read after each batch of messages.
        self.next_deadline = self._checks.next

    def add(self, service: Service, now: float) -> None:
        """Start checking `service`, or reset its timer."""
        self._checks.add(service, now + self._ask_after)

    def discard(self, service: Service) -> None:
        self._checks.discard(service)

    def check(self, now: float) -> tuple[list[Service], list[Service]]:
        """Return the services to send a heartbeat request to, and those to drop."""
        ask: list[Service] = []
        drop: list[Service] = []
        for service in self._checks.pop_due(now):
            seen = max(service.last_seen, service.moved_at)
            progress = self._progress(service)
            if progress != service.progress:
                service.progress = progress
                if now >= seen + self._ask_after:
                    # It sent part of a message, or had to read something first.
                    seen = service.moved_at = now
            # Compare the same sums that set the deadlines: `now - seen` would round differently.
            ask_at = seen + self._ask_after
            drop_at = seen + self._drop_after
            if now >= drop_at:
                drop.append(service)
            elif now >= ask_at:
                ask.append(service)
                # If it answers, its next silence must not be noticed later than this one.
                self._checks.add(service, min(drop_at, now + self._ask_after))
            else:
                self._checks.add(service, ask_at)
        return ask, drop


def link_progress(service: Service) -> int:
    """Return how much a client's Link has read and written; 0 for a Link that does not count it."""
    return getattr(service.link, "progress", 0)
