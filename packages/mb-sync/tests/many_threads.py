"""What the tests with many threads share."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from mb_core import (
    NoRouteFoundError,
)
from mb_sync import MessageBrokerClient

MANY = 32
# Seconds after which what was to come is not coming any more.
PATIENCE = 20


class Together:
    """Functions in threads of their own, which begin at the same moment; all end well."""

    def __init__(self) -> None:
        self._functions: list[Callable[[], object]] = []
        self._errors: list[BaseException] = []

    def add(self, function: Callable[..., object], *args: Any) -> None:
        self._functions.append(lambda: function(*args))

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        begin = threading.Barrier(len(self._functions) + 1)
        threads = [
            threading.Thread(target=self._call, args=(begin, function), daemon=True)
            for function in self._functions
        ]
        for thread in threads:
            thread.start()
        begin.wait(PATIENCE)
        yield
        for thread in threads:
            thread.join(PATIENCE)
        assert [thread for thread in threads if thread.is_alive()] == []
        if self._errors:
            raise self._errors[0]

    def run(self) -> None:
        with self.running():
            pass

    def _call(self, begin: threading.Barrier, function: Callable[[], object]) -> None:
        begin.wait(PATIENCE)
        try:
            function()
        except BaseException as error:
            self._errors.append(error)


@pytest.fixture
def together() -> Together:
    return Together()


def unheard(client: MessageBrokerClient, topic: str) -> bool:
    """Whether nobody is subscribed to `topic`, as the broker knows it."""
    try:
        client.publish(topic, None, confirm=True)
    except NoRouteFoundError:
        return True
    return False
