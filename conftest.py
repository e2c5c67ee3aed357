"""Test settings for the whole workspace: async tests run on asyncio and on trio."""

from __future__ import annotations

import pytest

_BACKENDS = ("asyncio", "trio")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--backend",
        action="append",
        choices=_BACKENDS,
        help="run async tests on this event loop only (may be given twice; default: both)",
    )
    parser.addoption(
        "--async-only",
        action="store_true",
        help="leave out the tests that need no event loop",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--async-only"):
        plain = [item for item in items if "anyio_backend" not in getattr(item, "fixturenames", ())]
        items[:] = [item for item in items if item not in set(plain)]
        config.hook.pytest_deselected(items=plain)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "anyio_backend" in metafunc.fixturenames:
        chosen = metafunc.config.getoption("--backend") or _BACKENDS
        metafunc.parametrize("anyio_backend", chosen, scope="module")


@pytest.fixture(scope="module")
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """The event loop of an async test; parametrized by pytest_generate_tests above."""
    name: str = request.param
    return name
