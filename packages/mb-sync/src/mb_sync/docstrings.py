"""Docstrings of the blocking client: those of the async client, in the words of threads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["blocking_doc", "documented_as"]

F = TypeVar("F", bound=Callable[..., Any])

_WORDS = {
    "await client.": "client.",
    "If cancelled": "If interrupted",
    "plain or async function": "plain function",
    "task": "thread",
}


def documented_as(method: Callable[..., Any]) -> Callable[[F], F]:
    """Give a function the docstring of the async method of which it is the blocking variant."""

    def document(function: F) -> F:
        function.__doc__ = blocking_doc(method.__doc__ or "")
        return function

    return document


def blocking_doc(doc: str) -> str:
    """Return the docstring of an async method for its blocking variant."""
    for word, own in _WORDS.items():
        doc = doc.replace(word, own)
    return doc
