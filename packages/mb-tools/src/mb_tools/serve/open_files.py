"""The limit of open files of the process of `mb serve`."""

from __future__ import annotations

import logging

__all__ = ["allow_open_files"]

_log = logging.getLogger("mb_tools.serve")

# Open files that are not connections: listeners, the event loop, logs, plugins.
_OTHER_FILES = 64


def allow_open_files(connections: int) -> None:
    """Raise the process's limit of open files as far as allowed: each connection needs one."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    wanted = connections + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    if soft == unlimited or soft >= wanted:
        return
    allowed = wanted if hard == unlimited else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < wanted:
        _log.warning(
            "this process may open %d files, too few for max_connections %d: "
            "raise the limit with ulimit -n",
            allowed,
            connections,
        )
