"""Filter the entries of the broker's log for a client: by level, and by a regular expression.

A pathological expression keeps Python's `re` busy for hours. So expressions of untrusted clients
run in RE2, whose time is proportional to the text; without RE2 they are refused. RE2 has no
look-around and no back-references.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import msgspec

from mb_core.errors import InvalidRequestError

__all__ = ["LEVELS", "LogFilter", "compile_search", "read_log_filter"]

# The protocol's names of levels, with the standard library's numbers.
LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
}

_MAX_LENGTH = 1024
_MAX_MEMORY = 1024 * 1024


class LogFilter(msgspec.Struct, frozen=True):
    """Passes entries of these levels whose text matches."""

    levels: frozenset[int]
    search: Callable[[str], bool] | None

    def matches(self, level: int, text: str) -> bool:
        return level in self.levels and (self.search is None or self.search(text))


def read_log_filter(levels: Any, regex: Any) -> LogFilter:
    """Return the filter that a client requests; raises InvalidRequestError."""
    if not isinstance(levels, list):
        raise InvalidRequestError("levels must be a list", details={"levels": levels})
    for level in levels:
        if not isinstance(level, str) or level not in LEVELS:
            raise InvalidRequestError(
                f"a level must be one of {', '.join(LEVELS)}", details={"level": level}
            )
    search = None
    if regex is not None:
        try:
            search = compile_search(regex)
        except ValueError as error:
            text = f"invalid regex: {error}"
            raise InvalidRequestError(text, details={"regex": regex}) from error
    return LogFilter(frozenset(LEVELS[level] for level in levels), search)


def compile_search(expression: object) -> Callable[[str], bool]:
    """Return a function that searches a text for a match; raises ValueError with a reason."""
    if not isinstance(expression, str):
        raise ValueError("it must be a string")
    if len(expression) > _MAX_LENGTH:
        raise ValueError(f"it has {len(expression)} characters, the limit is {_MAX_LENGTH}")
    if not expression:
        return lambda text: True
    try:
        import re2
    except ImportError:
        raise ValueError("google-re2 is not installed here: pip install google-re2") from None
    options = re2.Options()
    options.log_errors = False
    options.max_mem = _MAX_MEMORY
    try:
        compiled = re2.compile(expression, options)
    except re2.error as error:
        reason = error.args[0] if error.args else error
        text = reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)
        raise ValueError(text) from None
    return lambda text: compiled.search(text) is not None
