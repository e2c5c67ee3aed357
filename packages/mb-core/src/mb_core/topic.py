"""Topics, subscription patterns, and the table that finds subscribers.

A topic is 1 to 5 segments joined by dots; each segment is a letter followed by letters and
digits; 255 characters at most; matched case-insensitively.  In a pattern, `+` matches exactly one
segment, and a final `#` any number of them, including none; wildcards do not match the broker's
own topics, `system.*` (docs/protocol.md, "Topics").
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import Generic, TypeVar

from .errors import LocalProtocolError

__all__ = [
    "AUTHENTICATE",
    "MAX_TOPIC_LENGTH",
    "TopicTable",
    "check_pattern",
    "check_topic",
    "is_pattern",
    "is_system",
    "is_topic",
    "matches",
]

MAX_TOPIC_LENGTH = 255

AUTHENTICATE = "system.authenticate"
"""The broker's topic for tokens. The payload of its requests is a secret."""

_SEGMENT = "[A-Za-z][A-Za-z0-9]*"
_TOPIC = re.compile(rf"{_SEGMENT}(?:\.{_SEGMENT}){{0,4}}")
_LEVEL = rf"(?:{_SEGMENT}|\+)"
_PATTERN = re.compile(rf"#|{_LEVEL}(?:\.{_LEVEL}){{0,4}}|{_LEVEL}(?:\.{_LEVEL}){{0,3}}\.#")

T = TypeVar("T")


def is_topic(text: str) -> bool:
    """Whether `text` is a topic that a message can be sent to."""
    return len(text) <= MAX_TOPIC_LENGTH and _TOPIC.fullmatch(text) is not None


def is_pattern(text: str) -> bool:
    """Whether `text` can be subscribed to: a topic, in which `+` and `#` may stand for segments."""
    return len(text) <= MAX_TOPIC_LENGTH and _PATTERN.fullmatch(text) is not None


def check_topic(topic: str) -> str:
    """Return `topic` as it is, or raise LocalProtocolError that says what a topic looks like."""
    if isinstance(topic, str) and is_topic(topic):
        return topic
    raise LocalProtocolError(
        f"invalid topic {_shown(topic)}: a topic is 1 to 5 segments joined by '.', each a letter "
        f"followed by letters and digits, {MAX_TOPIC_LENGTH} characters at most "
        "(wildcards are for subscriptions only)"
    )


def check_pattern(pattern: str) -> str:
    """Return `pattern` as it is, or raise LocalProtocolError that says what a pattern may be."""
    if isinstance(pattern, str) and is_pattern(pattern):
        return pattern
    raise LocalProtocolError(
        f"invalid topic pattern {_shown(pattern)}: 1 to 5 segments joined by '.', each a letter "
        "followed by letters and digits, or '+' for any one segment; '#' for any number of "
        f"segments may stand last; {MAX_TOPIC_LENGTH} characters at most"
    )


def matches(pattern: str, topic: str) -> bool:
    """Whether a subscription to `pattern` receives messages of `topic`.

    `+` matches exactly one segment; `#` at the end matches any number, including none. Case is
    ignored. Wildcards don't match the broker's own topics, `system.*`.

    Example::

        assert matches("order.#", "order.paid")
        assert not matches("order.+", "order.paid.late")
    """
    key = topic.lower()
    if pattern.lower() == key:
        return True
    if is_system(key):
        return False
    levels = pattern.lower().split(".")
    segments = key.split(".")
    if levels[-1] == "#":
        levels.pop()
        if len(segments) < len(levels):
            return False
        segments = segments[: len(levels)]
    return len(levels) == len(segments) and all(
        level in ("+", segment) for level, segment in zip(levels, segments, strict=True)
    )


def is_system(topic: str) -> bool:
    """Whether a topic in lower case is the broker's own."""
    return topic.startswith("system.")


class TopicTable(Generic[T]):
    """Values stored under patterns, found by the topics that match.

    A lookup costs the same with ten patterns as with a hundred thousand: exact topics take one
    dictionary access, and wildcards a walk through a tree that is no deeper than a topic.
    """

    __slots__ = ("_exact", "_root")

    def __init__(self) -> None:
        self._exact: dict[str, dict[T, None]] = {}
        self._root: _Node[T] = _Node()

    def add(self, pattern: str, value: T) -> bool:
        """Store `value` under `pattern`; False if it was there already."""
        values = self._values(pattern.lower(), create=True)
        assert values is not None
        if value in values:
            return False
        values[value] = None
        return True

    def remove(self, pattern: str, value: T) -> bool:
        """Remove `value` from `pattern`; False if it was not there."""
        key = pattern.lower()
        values = self._values(key, create=False)
        if values is None or value not in values:
            return False
        del values[value]
        if not values:
            self._forget(key)
        return True

    def match(self, topic: str) -> Iterator[T]:
        """Yield each value whose pattern matches `topic`, the exact ones first.

        A value that is stored under several matching patterns comes several times.
        """
        key = topic.lower()
        yield from self._exact.get(key, ())
        if (self._root.children or self._root.tail) and not is_system(key):
            yield from self._root.match(key.split("."), 0)

    def filed(self, pattern: str) -> Collection[T]:
        """Return the values under exactly this pattern, in the order in which they were added."""
        return self._values(pattern.lower(), create=False) or ()

    def _values(self, key: str, *, create: bool) -> dict[T, None] | None:
        if "+" not in key and "#" not in key:
            return self._exact.setdefault(key, {}) if create else self._exact.get(key)
        node = self._root
        levels = key.split(".")
        for level in levels[:-1] if levels[-1] == "#" else levels:
            child = node.children.get(level)
            if child is None:
                if not create:
                    return None
                child = node.children[level] = _Node()
            node = child
        values = node.tail if levels[-1] == "#" else node.values
        return values if values or create else None

    def _forget(self, key: str) -> None:
        if key in self._exact:
            del self._exact[key]
        else:
            self._root.prune(key.split("."), 0)


class _Node(Generic[T]):
    """A prefix of patterns: `values` end here, `tail` ends here with `#`, `children` go on."""

    __slots__ = ("children", "tail", "values")

    def __init__(self) -> None:
        self.children: dict[str, _Node[T]] = {}
        self.values: dict[T, None] = {}
        self.tail: dict[T, None] = {}

    def match(self, segments: list[str], depth: int) -> Iterator[T]:
        yield from self.tail
        if depth == len(segments):
            yield from self.values
            return
        for level in (segments[depth], "+"):
            child = self.children.get(level)
            if child is not None:
                yield from child.match(segments, depth + 1)

    def prune(self, levels: list[str], depth: int) -> bool:
        """Drop the branch of `levels` where nothing is left in it; True when this node is empty."""
        if depth < len(levels) and levels[depth] != "#":
            child = self.children.get(levels[depth])
            if child is not None and child.prune(levels, depth + 1):
                del self.children[levels[depth]]
        return not (self.children or self.values or self.tail)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:60]}... ({len(text)} characters)"
