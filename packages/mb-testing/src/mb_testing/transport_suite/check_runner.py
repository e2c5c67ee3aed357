"""How the tests of the suite run: within a time limit, and on an event loop of their own.

They are plain functions to pytest, so the suite needs none of its plugins.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import anyio
import pytest

from ..conformance import in_time
from .links_under_test import Network
from .requirements import IN_TIME, PROPORTION, violation
from .settings import Settings

__all__ = ["on_loops", "without_io"]

_Test = TypeVar("_Test", bound=Callable[..., Any])

_GRACE = 5.0
"""Seconds beyond the time limit after which an event loop counts as blocked."""


def without_io(test: _Test) -> _Test:
    """Mark a test of Wires, and give it a time limit, so that an endless loop is reported."""

    @functools.wraps(test)
    def run(self: Settings, *arguments: Any, **fixtures: Any) -> None:
        in_time(self.time_limit, lambda: test(self, *arguments, **fixtures), PROPORTION)

    return run  # type: ignore[return-value]


def on_loops(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Mark a test that takes a `net`: a Network on its own event loop."""

    @functools.wraps(test)
    def run(self: Settings, anyio_backend: str, **fixtures: Any) -> None:
        def on_loop() -> None:
            with TemporaryDirectory(prefix="mb") as folder:  # short: names of sockets have a limit
                main = functools.partial(_main, self, test, Path(folder), fixtures)
                anyio.run(main, backend=anyio_backend)

        in_time(self.time_limit + _GRACE, on_loop, PROPORTION)

    signature = inspect.signature(test)
    backend = inspect.Parameter("anyio_backend", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = [p if p.name != "net" else backend for p in signature.parameters.values()]
    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return run


async def _main(
    suite: Settings,
    test: Callable[..., Coroutine[Any, Any, None]],
    folder: Path,
    fixtures: dict[str, Any],
) -> None:
    failure: BaseException | None = None
    async with Network.open(suite, folder) as net:
        try:
            with anyio.fail_after(suite.time_limit):
                await test(suite, net, **fixtures)
        # Not within the Network's tasks, which would make a group of it.
        except (Exception, pytest.skip.Exception) as error:
            failure = _plain(error)
            net.has_failed = True
    if isinstance(failure, TimeoutError):
        text = f"the test was still waiting after {suite.time_limit:g} s, where the traceback says"
        raise violation(IN_TIME, text) from failure
    if failure is not None:
        raise failure


def _plain(error: BaseException) -> BaseException:
    """The first error of those that task groups have joined."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
