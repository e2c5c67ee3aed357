"""A client that gets an error, and whose connection is then closed."""

from __future__ import annotations

from mb_core.errors import MBError
from mb_core.link import Link

__all__ = ["RejectedClient"]


class RejectedClient:
    """A client that was refused because the broker is full: its messages are ignored."""

    def __init__(self, rejected: set[Link], link: Link) -> None:
        self._rejected = rejected
        self._link = link

    def messages_received(self, messages: list[bytes]) -> None:
        pass

    def link_lost(self, error: MBError | None) -> None:
        self._rejected.discard(self._link)
