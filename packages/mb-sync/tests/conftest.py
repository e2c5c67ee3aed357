"""A blocking client of a broker of the test's own, and what is left of it: nothing."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from mb_broker import RunningBroker
from mb_sync import MessageBrokerClient


def own_threads() -> list[str]:
    """The names of the threads that mb_sync has started."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("mb_sync")]


class Heard(list[Any]):
    """A callback that keeps what it was called with."""

    def __init__(self) -> None:
        super().__init__()
        self._any = threading.Event()

    def __call__(self, value: Any) -> None:
        self.append(value)
        self._any.set()

    def wait(self) -> bool:
        """Wait for the first call."""
        return self._any.wait(5)


@pytest.fixture(params=["tcp"])
def url(request: pytest.FixtureRequest, mb_broker: RunningBroker) -> str:
    """The URL of a broker in another thread; tests/matrix uses all transports."""
    return mb_broker.url_of(request.param)


@pytest.fixture
def client(mb_broker: RunningBroker) -> Iterator[MessageBrokerClient]:
    with MessageBrokerClient(mb_broker.url) as client:
        yield client
