"""The pytest fixture `mb_broker`; pytest finds it when mb-broker is installed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mb_core.plugins import installed_plugins

from .broker import Broker
from .thread import running

__all__ = ["mb_broker"]


@pytest.fixture
def mb_broker() -> Iterator[Broker]:
    """A broker of the test's own, in a thread: `mb_broker.url`, `mb_broker.url_of("tcp")`.

    It listens in memory, and on a free port of 127.0.0.1 for tcp:// and ws:// as far as their
    packages are installed.
    """
    installed = installed_plugins().schemes()
    urls = [f"{scheme}://127.0.0.1:0" for scheme in ("tcp", "ws") if scheme in installed]
    with running("memory://", *urls) as broker:
        yield broker
