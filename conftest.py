"""Test settings for the whole workspace: async tests run on asyncio and on trio."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest

_BACKENDS = ("asyncio", "trio")
_WORKSPACE_TESTS = Path(__file__).parent / "tests"
_MEASURED = "COVERAGE_PROCESS_CONFIG"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--backend",
        action="append",
        choices=_BACKENDS,
        help="run async tests on this event loop only (may be given twice; default: both)",
    )


def pytest_configure() -> None:
    # Where these are ignored (nohup, a shell's background job), programs that tests start inherit
    # that, and never end by the signal that a test sends them.
    for name, handler in (
        ("SIGINT", signal.default_int_handler),
        ("SIGHUP", signal.SIG_DFL),
        ("SIGQUIT", signal.SIG_DFL),
    ):
        number = getattr(signal, name, None)  # Windows has SIGINT only
        if number is not None and signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


def pytest_collection_finish() -> None:
    _freeze_heap()


def _freeze_heap() -> None:
    """Leave what is in memory now out of all later collections.

    Many tests collect garbage to see what they left behind.  Most of the heap is older than the
    test, and a worker's heap grows with each module that a test imports: without this, more than
    half of the time of all tests went into these collections.
    """
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    gc.unfreeze()  # others, who look behind the last test, find everything


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    try:
        with _unmeasured(item):
            return (yield)
    finally:
        if nextitem is not None and nextitem.path != item.path:
            _freeze_heap()


@contextmanager
def _unmeasured(item: pytest.Item) -> Iterator[None]:
    """Do not measure programs that a test of the whole workspace starts: those of packages do.

    Measuring its coverage costs each program a tenth of a second, as much as all of its imports.
    """
    measured = os.environ.get(_MEASURED)
    if measured is None or not item.path.is_relative_to(_WORKSPACE_TESTS):
        yield
        return
    del os.environ[_MEASURED]
    try:
        yield
    finally:
        os.environ[_MEASURED] = measured


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    chosen = (*(config.getoption("--backend") or _BACKENDS), None)
    kept = [item for item in items if _backend_of(item) in chosen]
    if len(kept) < len(items):
        config.hook.pytest_deselected(items=list(set(items) - set(kept)))
        items[:] = kept


def _backend_of(item: pytest.Item) -> str | None:
    """The event loop of an async test, None for one that needs none."""
    callspec = getattr(item, "callspec", None)
    return callspec.params.get("anyio_backend") if callspec is not None else None


@pytest.fixture
def needs_re2() -> None:
    """Skip the test on a Python for which google-re2 has no wheels."""
    gil = getattr(sys, "_is_gil_enabled", lambda: True)()
    if find_spec("re2") is None and (sys.version_info >= (3, 15) or not gil):
        pytest.skip("google-re2 has no wheels for this Python")


@pytest.fixture(scope="module", params=_BACKENDS)
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """The event loop of an async test; TransportSuite has one of this name of its own."""
    name: str = request.param
    return name
