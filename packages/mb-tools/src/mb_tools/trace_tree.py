"""The tree of cause and effect behind the audit feed, as a machine that touches nothing.

Events and the time go in; finished trees come out.  The feed shows one message up to four times:

    1  from its sender             begins an Exchange; its parent id hangs it below another
    2  to whom it is passed on     its receiver, and the id under which that one sees it
    3  the receiver's response     ends it
    4  to the sender               ends it too, where 3 is missing: the broker's own errors

A parent id is either of the two ids of the message that caused this one.  A message without an id
is told from others by its place: 2, and the broker's refusal, follow 1 before anything else.

A tree is finished when no request in it is open, and it was quiet for a while: what an event
causes comes after it.  Whatever is lost of the feed (it began in the middle, the reader was too
slow) leaves a request open; that ends at its time limit.  Memory has a limit: above it the oldest
tree is given as it is, and what belongs to it later begins a tree of its own, which says so.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from enum import Enum

from mb_core.deadlines import Deadlines

from .audit import AuditEvent, error_of, is_unheard

__all__ = ["Exchange", "Outcome", "TraceBuilder"]

# Seconds beyond its time limit after which the end of a request will not be seen any more.
_MARGIN = 2.0
_DEFAULT_TIMEOUT = 5_000
# Receivers that are named; of more only their number is kept.
_RECEIVERS = 50
# A chain of causes that is longer goes on in a tree of its own.
_DEPTH = 60


class Outcome(Enum):
    """What became of a message."""

    OPEN = "open"
    DELIVERED = "delivered"
    ANSWERED = "answered"
    FAILED = "failed"
    UNHEARD = "unheard"
    """Nobody is subscribed to a publication."""
    UNSEEN = "unseen"
    """The end of a request was not in the feed."""


@dataclass(eq=False, slots=True)
class Exchange:
    """A request with its answer, or a publication with its copies, and what it caused.

    Times are the broker's, in seconds.  `cause` is the id of the message that caused it, where
    that one is not above it in this tree.  `count` is how many receivers there were; `receivers`
    names the first of them.
    """

    action: str
    topic: str
    sender: str
    began: float
    cause: str | None = None
    receivers: list[str] = field(default_factory=list)
    count: int = 0
    ended: float | None = None
    outcome: Outcome = Outcome.OPEN
    error_code: str | None = None
    error_text: str = ""
    children: list[Exchange] = field(default_factory=list)
    own_id: str | None = None
    ids: set[str] = field(default_factory=set)
    depth: int = 0

    @property
    def seconds(self) -> float | None:
        """How long its answer took."""
        return None if self.ended is None else max(0.0, self.ended - self.began)

    @property
    def failed(self) -> bool:
        """Whether it, or something that it caused, went wrong."""
        return any(
            each.outcome in (Outcome.FAILED, Outcome.UNSEEN) for each in self.with_descendants()
        )

    def with_descendants(self) -> list[Exchange]:
        """This one and all below it, a parent before its children."""
        found = [self]
        for each in found:
            found += each.children
        return found


class TraceBuilder:
    """Builds trees of Exchanges from audit events.

    `quiet` is how many seconds after its last event a tree is finished; `limit` how many
    Exchanges are held at most, `tree_limit` in one tree.  Messages to the broker's own topics are
    left out unless `system` is set.  Times are of a clock that does not go back.
    """

    def __init__(
        self,
        *,
        quiet: float = 0.25,
        limit: int = 20_000,
        tree_limit: int = 2_000,
        system: bool = False,
    ) -> None:
        self._quiet_after = quiet
        self._limit = limit
        self._tree_limit = tree_limit
        self._system = system
        self._by_id: dict[str, Exchange] = {}
        self._tree_of: dict[Exchange, _Tree] = {}
        self._trees: OrderedDict[_Tree, None] = OrderedDict()
        self._time_limits: Deadlines[Exchange] = Deadlines()
        self._silences: Deadlines[_Tree] = Deadlines()
        self._finished: list[Exchange] = []
        self._current: Exchange | None = None

    def __len__(self) -> int:
        """How many Exchanges are held."""
        return len(self._tree_of)

    def feed(self, event: AuditEvent, now: float) -> None:
        """Take one event, in the order of the feed."""
        header = event.message.header
        if event.sender is not None:
            if header.action == "response":
                self._response(event, now)
            else:
                self._message(event, event.sender, now)
        elif header.action == "response":
            self._reply(event, now)
        else:
            self._passed_on(event, now)

    def next_deadline(self) -> float | None:
        """When `take_finished` may have something without another event, if at all."""
        times = [self._time_limits.next(), self._silences.next()]
        return min((time for time in times if time is not None), default=None)

    def take_finished(self, now: float) -> list[Exchange]:
        """The roots of the trees that are finished, in the order in which they were."""
        for exchange in self._time_limits.pop_due(now):
            self._close(exchange, Outcome.UNSEEN, None, now)
        for tree in self._silences.pop_due(now):
            self._give(tree)
        finished, self._finished = self._finished, []
        return finished

    def take_all(self) -> list[Exchange]:
        """The roots of all trees as they are: nothing more will come."""
        for tree in list(self._trees):
            self._give(tree)
        finished, self._finished = self._finished, []
        return finished

    # The four kinds of events

    def _message(self, event: AuditEvent, sender: str, now: float) -> None:
        self._current = None
        header = event.message.header
        if header.topic.lower().startswith("system.") and not self._system:
            return
        exchange = Exchange(
            header.action, header.topic, sender, event.seconds, own_id=header.request_id
        )
        tree = self._plant(exchange, header.parent_request_id)
        self._current = exchange
        if header.request_id is not None:
            self._name(exchange, header.request_id)
        if header.action == "request":
            tree.open += 1
            limit = event.timeout if event.timeout is not None else _DEFAULT_TIMEOUT
            self._time_limits.add(exchange, now + limit / 1000 + _MARGIN)
        self._touch(tree, now)
        if tree.size >= self._tree_limit:
            self._give(tree)
        while len(self._tree_of) > self._limit or len(self._by_id) > 4 * self._limit:
            self._give(next(iter(self._trees)))

    def _passed_on(self, event: AuditEvent, now: float) -> None:
        header = event.message.header
        exchange = self._current
        if event.masked_id is not None:
            exchange = self._by_id.get(event.masked_id)
        if (
            exchange is None
            or event.to is None
            or exchange.action != header.action
            or exchange.topic.lower() != header.topic.lower()
        ):
            return
        exchange.count += 1
        if len(exchange.receivers) < _RECEIVERS:
            exchange.receivers.append(event.to)
        if header.request_id is not None and len(exchange.ids) <= _RECEIVERS:
            self._name(exchange, header.request_id)
        if exchange.action == "publish":
            exchange.outcome = Outcome.DELIVERED
        self._touch(self._tree_of[exchange], now)

    def _response(self, event: AuditEvent, now: float) -> None:
        self._current = None
        exchange = self._by_id.get(event.message.header.request_id or "")
        if exchange is not None and event.sender in exchange.receivers:
            self._end(exchange, event, now)

    def _reply(self, event: AuditEvent, now: float) -> None:
        header = event.message.header
        exchange = self._by_id.get(header.request_id or "")
        current = self._current
        if exchange is None and current is not None and current.own_id is None:
            exchange = current  # refused under an id that the broker made
        if (
            exchange is not None
            and exchange.sender == event.to
            and exchange.topic.lower() == header.topic.lower()
        ):
            self._end(exchange, event, now)

    # Within

    def _plant(self, exchange: Exchange, parent_id: str | None) -> _Tree:
        """Hang a new Exchange below its parent, or begin a tree with it."""
        parent = self._by_id.get(parent_id or "")
        if parent is None or parent.depth >= _DEPTH:
            exchange.cause = parent_id
            tree = _Tree(exchange)
            self._trees[tree] = None
        else:
            exchange.depth = parent.depth + 1
            parent.children.append(exchange)
            tree = self._tree_of[parent]
        tree.size += 1
        self._tree_of[exchange] = tree
        return tree

    def _end(self, exchange: Exchange, event: AuditEvent, now: float) -> None:
        """A response is there: an answer, an error, or the confirmation of a publication."""
        if exchange.outcome is not Outcome.OPEN:
            return
        error = error_of(event)
        if error is None:
            answered = exchange.action == "request"
            outcome = Outcome.ANSWERED if answered else Outcome.DELIVERED
        elif is_unheard(exchange.action, error):
            outcome = Outcome.UNHEARD
        else:
            outcome = Outcome.FAILED
            exchange.error_code, exchange.error_text = error.code, error.message
        self._close(exchange, outcome, event.seconds, now)

    def _close(self, exchange: Exchange, outcome: Outcome, ended: float | None, now: float) -> None:
        exchange.outcome = outcome
        exchange.ended = ended
        self._time_limits.discard(exchange)
        tree = self._tree_of[exchange]
        if exchange.action == "request":
            tree.open -= 1
        self._touch(tree, now)

    def _name(self, exchange: Exchange, message_id: str) -> None:
        exchange.ids.add(message_id)
        self._by_id[message_id] = exchange

    def _touch(self, tree: _Tree, now: float) -> None:
        if tree.open:
            self._silences.discard(tree)
        else:
            self._silences.add(tree, now + self._quiet_after)

    def _give(self, tree: _Tree) -> None:
        """A tree is finished: forget all of it."""
        del self._trees[tree]
        self._silences.discard(tree)
        for exchange in tree.root.with_descendants():
            del self._tree_of[exchange]
            self._time_limits.discard(exchange)
            for message_id in exchange.ids:
                if self._by_id.get(message_id) is exchange:
                    del self._by_id[message_id]
            if exchange is self._current:
                self._current = None
        self._finished.append(tree.root)


@dataclass(eq=False, slots=True)
class _Tree:
    """A root with all below it: how many Exchanges, and how many of them are open requests."""

    root: Exchange
    size: int = 0
    open: int = 0
