"""What the screen shows, as values: the broker as a whole, and a row for each thing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum

__all__ = ["Audit", "ErrorRow", "Head", "Rate", "ServiceRow", "TopicRow", "View"]


class Audit(Enum):
    """The audit feed: not wanted; on; or wanted and not given by the broker."""

    OFF = "off"
    ON = "on"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Rate:
    """A total of the broker's, a second, and its past; `now` is None where it is not known."""

    name: str
    now: float | None
    past: Sequence[float]


@dataclass(frozen=True, slots=True)
class Head:
    """The broker as a whole: None is what it did not tell.

    `uptime` in seconds, `cpu` as a share (0..1) of a core, `memory` in bytes.
    """

    uptime: float | None
    connections: float | None
    cpu: float | None
    memory: float | None
    rates: tuple[Rate, ...]


@dataclass(frozen=True, slots=True)
class ServiceRow:
    """A connected client; `topics` are those it answers.

    Answers a second, latencies in milliseconds, errors of the last minute: None where nothing
    tells them.
    """

    id: str
    name: str
    description: str
    topics: tuple[str, ...]
    rate: float | None
    p50: int | None
    p99: int | None
    errors: int | None
    since: datetime | None


@dataclass(frozen=True, slots=True)
class TopicRow:
    """A topic with traffic, or a pattern that somebody subscribed to; latencies of requests.

    `subscribers` are ids of services, `unheard` the publications of the last minute that reached
    nobody.
    """

    action: str
    topic: str
    subscribers: tuple[str, ...]
    rate: float | None
    p50: int | None
    p99: int | None
    errors: int | None
    unheard: int | None

    @property
    def id(self) -> str:
        """Tells this row from the others."""
        return f"{self.action}:{self.topic}"


@dataclass(frozen=True, slots=True)
class ErrorRow:
    """An error that somebody was answered with; `who` is a name, or an id without one."""

    number: int
    time: datetime
    topic: str
    code: str
    message: str
    who: str

    @property
    def id(self) -> str:
        """Tells this row from the others."""
        return str(self.number)


@dataclass(frozen=True, slots=True)
class View:
    """All that the screen shows, as of one moment.

    `trouble` says why there is no connection, and is empty where there is one.  `missing` has
    the system topics that the broker does not answer, with its reasons.  `skipped` counts
    messages of the audit feed that came faster than they could be looked at, `unreadable` those
    that are no JSON.
    """

    trouble: str
    audit: Audit
    missing: Mapping[str, str]
    skipped: int
    unreadable: int
    head: Head
    services: tuple[ServiceRow, ...]
    topics: tuple[TopicRow, ...]
    errors: tuple[ErrorRow, ...]
