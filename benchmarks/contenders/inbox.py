"""Requests for peers that have publications alone: each has a number, and so has its answer."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

from ..workload import decode

__all__ = ["Inbox"]


class Inbox:
    """The answers that are waited for, by the number that request and answer carry."""

    def __init__(self) -> None:
        self._waiting: dict[bytes, asyncio.Future[Any]] = {}
        self._numbers = itertools.count()

    def expect(self) -> tuple[bytes, asyncio.Future[Any]]:
        """A number for the next request, and the future of its answer."""
        number = b"%d" % next(self._numbers)
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        return number, answer

    def receive(self, number: bytes, body: bytes) -> None:
        self._waiting.pop(number).set_result(decode(body))
