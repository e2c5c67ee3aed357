"""The pytest fixtures `mb_broker` and `virtual_clock`, and the marker virtual_clock.

pytest loads this module in every project that has it installed, so nothing but pytest is imported
until a test asks for a fixture.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .faulty_broker import FaultyBroker
    from .virtual_clock import VirtualClock

__all__ = ["mb_broker", "virtual_clock"]


@pytest.fixture
def mb_broker() -> Iterator[FaultyBroker]:
    """A broker for this test, in a thread: `mb_broker.url`, `mb_broker.url_of("tcp")`.

    It listens in memory and, if their packages are installed, on free ports of 127.0.0.1 for
    `tcp://` and `ws://`. `mb_broker.faults` breaks connections. `mb_broker.restart()` restarts it.
    To do that in two steps, call `kill()` or `stop()`, and later `start()`.
    """
    from mb_core.plugins import installed_plugins

    from .faulty_broker import running

    installed = installed_plugins().schemes()
    urls = [f"{scheme}://127.0.0.1:0" for scheme in ("tcp", "ws") if scheme in installed]
    with running("memory://", *urls) as broker:
        yield broker


@pytest.fixture
def virtual_clock() -> VirtualClock:
    """Runs async code in virtual time: `virtual_clock.run(main, backend="trio")`."""
    from .virtual_clock import VirtualClock

    return VirtualClock()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "virtual_clock(patience=0): run the async test, which anyio's plugin runs, in virtual "
        "time; patience is in milliseconds of real time",
    )


@pytest.hookimpl(trylast=True)  # after the plugins that look for the backend's name
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have tests that are marked with virtual_clock run on loops with a virtual clock."""
    for item in items:
        marker = item.get_closest_marker("virtual_clock")
        if marker is None:
            continue
        parameters: dict[str, Any] = getattr(getattr(item, "callspec", None), "params", {})
        backend = parameters.get("anyio_backend")
        if not isinstance(backend, str):
            if "anyio_backend" in getattr(item, "fixturenames", ()):
                remedy = (
                    "but its fixture anyio_backend has no names as params: write "
                    '@pytest.fixture(params=["asyncio"]) and return request.param'
                )
            else:
                remedy = "but not with anyio: add @pytest.mark.anyio"
            raise pytest.UsageError(
                f"{item.nodeid} is marked with virtual_clock, {remedy}, "
                "or use the fixture virtual_clock"
            )
        from .virtual_clock import VirtualClock

        clock = VirtualClock(**marker.kwargs)
        parameters["anyio_backend"] = clock.anyio_backend(backend)
