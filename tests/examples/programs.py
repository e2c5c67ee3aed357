"""Programs of examples/, each in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["EXAMPLES", "PATIENCE", "started"]

EXAMPLES = Path(__file__).parents[2] / "examples"
# Seconds after which a program counts as hanging.
PATIENCE = 30


@contextmanager
def started(
    *arguments: str | Path,
    url: str,
    cwd: Path = EXAMPLES,
    new_session: bool = False,
    connect_to: str = "",
) -> Iterator[subprocess.Popen[str]]:
    """Run Python with these arguments and the broker's URL; it is killed if it still runs."""
    environ = {"MB_URL": url, "PYTHONUNBUFFERED": "1", "PYTHONWARNINGS": "error"}
    if connect_to:
        environ["MB_CONNECT_TO"] = connect_to
    with subprocess.Popen(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=new_session,
    ) as process:
        try:
            yield process
        finally:
            process.kill()
