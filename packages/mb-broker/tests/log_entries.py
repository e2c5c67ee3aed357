"""A log feed, and what it has told those who follow it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

SUCCESS = {"status": "success"}


@pytest.fixture(autouse=True)
def nothing_is_reported(reports: Callable[[], list[str]]) -> Iterator[None]:
    """As everywhere, but for the errors that these tests write themselves."""
    yield
    assert [text for text in reports() if text not in ("text", "x", "100 % of %s")] == []


def entry_of(message: bytes) -> dict[str, Any]:
    header, _, payload = message.partition(b"\n")
    assert header == b"response:system.log:1.0.0"
    entry: dict[str, Any] = json.loads(payload)
    return entry
