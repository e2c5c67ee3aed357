"""Trees of exchanges: which message caused which, for `mb trace`.  No I/O; time is an argument.

A message's parent id is either of the two ids of the exchange that caused it.  A tree is finished
when no request in it is open, and nothing was added for a while: what an event causes comes after
it.  If a part of the feed is missing (it began in the middle, the reader was too slow), a request
stays open until its time limit.  Memory is bounded: at the limit the oldest tree is returned
unfinished, and what belongs to it later begins a tree of its own, which says so.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field

from mb_core.deadlines import Deadlines

from .audit import AuditEvent
from .exchanges import Exchange, Exchanges, Outcome, Step

__all__ = ["Node", "TreeBuilder"]

# Seconds beyond its time limit after which the end of a request will not be seen any more.
_MARGIN = 2.0
_DEFAULT_TIMEOUT = 5_000
# A longer chain of causes continues in a tree of its own.
_DEPTH = 60


@dataclass(eq=False, slots=True)
class Node:
    """An exchange and what it caused.

    `cause` is the id of the message that caused it, if that one is not above it in this tree.
    """

    exchange: Exchange
    tree: _Tree
    depth: int = 0
    cause: str | None = None
    children: list[Node] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        """Whether this exchange, or one that it caused, failed."""
        failures = (Outcome.FAILED, Outcome.UNSEEN)
        return any(node.exchange.outcome in failures for node in self.walk())

    def walk(self) -> Iterator[Node]:
        """Yield this node and all below it, a parent before its children."""
        nodes = [self]
        for node in nodes:
            yield node
            nodes += node.children


@dataclass(eq=False, slots=True)
class _Tree:
    """The root; how many nodes there are, and which of them are open requests."""

    root: Node | None = None
    size: int = 0
    open: set[Node] = field(default_factory=set)


class TreeBuilder:
    """Builds trees from audit events.

    A tree is finished `quiet` seconds after its last event.  At most `limit` exchanges are held,
    and `tree_limit` in one tree.  Messages to the broker's own topics are left out unless
    `system` is set.  Times are of a monotonic clock.
    """

    def __init__(
        self,
        *,
        quiet: float = 0.25,
        limit: int = 20_000,
        tree_limit: int = 2_000,
        system: bool = False,
    ) -> None:
        self._quiet = quiet
        self._limit = limit
        self._tree_limit = tree_limit
        self._exchanges = Exchanges(system=system)
        self._nodes: dict[Exchange, Node] = {}
        self._trees: OrderedDict[_Tree, None] = OrderedDict()
        self._time_limits: Deadlines[Node] = Deadlines()
        self._silences: Deadlines[_Tree] = Deadlines()
        self._finished: list[Node] = []

    def __len__(self) -> int:
        """Return how many exchanges are held."""
        return len(self._nodes)

    def take(self, event: AuditEvent, now: float) -> None:
        """Take the next event of the feed."""
        step, exchange = self._exchanges.take(event)
        if exchange is None:
            return
        if step is Step.SENT:
            self._add(exchange, event, now)
        elif (node := self._nodes.get(exchange)) is None:
            self._exchanges.forget(exchange)  # the feed began after it
        elif step is not Step.PASSED_ON:
            self._close(node, now)
        else:
            self._reschedule(node.tree, now)

    def next_deadline(self) -> float | None:
        """Return when `take_finished` may return something without another event, if at all."""
        times = [self._time_limits.next(), self._silences.next()]
        return min((time for time in times if time is not None), default=None)

    def take_finished(self, now: float) -> list[Node]:
        """Return the roots of the trees that are finished by now, each once."""
        for node in self._time_limits.pop_due(now):
            node.exchange.outcome = Outcome.UNSEEN
            self._close(node, now)
        for tree in self._silences.pop_due(now):
            self._finish(tree)
        finished, self._finished = self._finished, []
        return finished

    def _add(self, exchange: Exchange, event: AuditEvent, now: float) -> None:
        """Add an exchange below its cause, or begin a tree with it."""
        parent_id = event.message.header.parent_request_id
        cause = self._exchanges.get(parent_id)
        parent = self._nodes.get(cause) if cause is not None else None
        if parent is None or parent.depth >= _DEPTH:
            tree = _Tree()
            node = tree.root = Node(exchange, tree, cause=parent_id)
            self._trees[tree] = None
        else:
            tree = parent.tree
            node = Node(exchange, tree, depth=parent.depth + 1)
            parent.children.append(node)
        self._nodes[exchange] = node
        tree.size += 1
        if exchange.action == "request":
            tree.open.add(node)
            limit = event.timeout if event.timeout is not None else _DEFAULT_TIMEOUT
            self._time_limits.add(node, now + limit / 1000 + _MARGIN)
        self._reschedule(tree, now)
        if tree.size >= self._tree_limit:
            self._finish(tree)
        while len(self._nodes) > self._limit or len(self._exchanges) > 4 * self._limit:
            self._finish(next(iter(self._trees)))

    def _close(self, node: Node, now: float) -> None:
        """Nothing more is expected of an exchange itself."""
        self._time_limits.discard(node)
        node.tree.open.discard(node)
        self._reschedule(node.tree, now)

    def _reschedule(self, tree: _Tree, now: float) -> None:
        """Set when a tree to which something has just been added is finished."""
        if tree.open:
            self._silences.discard(tree)
        else:
            self._silences.add(tree, now + self._quiet)

    def _finish(self, tree: _Tree) -> None:
        """Return a tree with the next ones, and forget all of it."""
        assert tree.root is not None
        del self._trees[tree]
        self._silences.discard(tree)
        for node in tree.root.walk():
            del self._nodes[node.exchange]
            self._time_limits.discard(node)
            self._exchanges.forget(node.exchange)
        self._finished.append(tree.root)
