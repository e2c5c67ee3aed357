"""Trees of exchanges: which message caused which, for `mb trace`.  No I/O; time is an argument.

A message's parent id is one of the two ids of the exchange that caused it. A tree is finished when
no request in it is open and nothing was added for a while, because the messages that an event
causes follow it. If part of the feed is missing (it began in the middle, or the reader was too
slow), a request stays open until its time limit. Memory is bounded: at the limit, the oldest tree
is returned unfinished; messages that belong to it but arrive later start a new tree, which says so.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field

from mb_core.deadlines import Deadlines

from .audit import AuditEvent
from .exchanges import Exchange, Exchanges, Outcome, Step

__all__ = ["Node", "TreeBuilder"]

# Seconds past its time limit after which we stop waiting for the end of a request.
_MARGIN = 2.0
_DEFAULT_TIMEOUT = 5_000
# A longer chain of causes continues in a new tree.
_DEPTH = 60


@dataclass(eq=False, slots=True)
class Node:
    """An exchange and what it caused.

    `cause` is the id of the message that caused it, if that message is not above it in this tree.
    """

    exchange: Exchange
    tree: _Tree
    depth: int = 0
    cause: str | None = None
    children: list[Node] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        """Whether this exchange or one that it caused failed."""
        failures = (Outcome.FAILED, Outcome.UNSEEN)
        return any(node.exchange.outcome in failures for node in self.walk())

    def walk(self) -> Iterator[Node]:
        """Yield this node and all nodes below it, parents before their children."""
        nodes = [self]
        for node in nodes:
            yield node
            nodes += node.children


@dataclass(eq=False, slots=True)
class _Tree:
    """The root, the number of nodes, and the open requests among them."""

    root: Node | None = None
    size: int = 0
    open: set[Node] = field(default_factory=set)


class TreeBuilder:
    """Builds trees from audit events.

    A tree is finished `quiet` seconds after its last event. At most `limit` exchanges are held, and
    at most `tree_limit` in one tree. Messages to the broker's own topics are ignored unless
    `system` is set. Times are from a monotonic clock.
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
        """Return the number of exchanges held."""
        return len(self._nodes)

    def take(self, event: AuditEvent, now: float) -> None:
        """Process the next event of the feed."""
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
        """Return when `take_finished` may next return a tree even if no event arrives, or None."""
        times = [self._time_limits.next(), self._silences.next()]
        return min((time for time in times if time is not None), default=None)

    def take_finished(self, now: float) -> list[Node]:
        """Return the roots of the trees that have finished, each of them once."""
        for node in self._time_limits.pop_due(now):
            node.exchange.outcome = Outcome.UNSEEN
            self._close(node, now)
        for tree in self._silences.pop_due(now):
            self._finish(tree)
        finished, self._finished = self._finished, []
        return finished

    def _add(self, exchange: Exchange, event: AuditEvent, now: float) -> None:
        """Add an exchange below its cause, or start a tree with it."""
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
        """Mark an exchange as complete; others may still be added below it."""
        self._time_limits.discard(node)
        node.tree.open.discard(node)
        self._reschedule(node.tree, now)

    def _reschedule(self, tree: _Tree, now: float) -> None:
        """Update the time at which a tree is finished, after something was added to it."""
        if tree.open:
            self._silences.discard(tree)
        else:
            self._silences.add(tree, now + self._quiet)

    def _finish(self, tree: _Tree) -> None:
        """Queue a tree to be returned, and forget all its exchanges."""
        assert tree.root is not None
        del self._trees[tree]
        self._silences.discard(tree)
        for node in tree.root.walk():
            del self._nodes[node.exchange]
            self._time_limits.discard(node)
            self._exchanges.forget(node.exchange)
        self._finished.append(tree.root)
