"""Regular expressions from untrusted clients: in linear time, or not at all.

A pathological expression keeps Python's `re` busy for hours.  RE2 takes time in proportion to the
text, whatever the expression; it knows no look-around and no back-references, and says so.
"""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Search", "compile_search"]

Search = Callable[[str], bool]

_MAX_LENGTH = 1024
_MAX_MEMORY = 1024 * 1024


def compile_search(expression: object) -> Search:
    """A function that tells whether a text has a match; raises ValueError that says why not."""
    if not isinstance(expression, str):
        raise ValueError("it is a text")
    if len(expression) > _MAX_LENGTH:
        raise ValueError(f"it has {len(expression)} characters, the limit is {_MAX_LENGTH}")
    try:
        import re2
    except ImportError:
        raise ValueError("the broker has no google-re2: pip install 'mb-broker[server]'") from None
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
