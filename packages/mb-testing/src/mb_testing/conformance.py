"""What the conformance suites share: requirements, time limits and event loops."""

from __future__ import annotations

import sys
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import Future

import msgspec
import pytest

__all__ = ["ContractBroken", "EventLoops", "Requirement", "expect", "in_time", "violation"]


class ContractBroken(AssertionError):
    """A plugin does not do what its contract says."""


class Requirement(msgspec.Struct, frozen=True):
    """What is expected of a plugin, and where that is documented."""

    text: str
    contract: str


def expect(requirement: Requirement, met: bool, found: str) -> None:
    """Raise ContractBroken, which shows what was `found`, unless the requirement was `met`."""
    __tracebackhide__ = True
    if not met:
        raise violation(requirement, found)


def violation(requirement: Requirement, found: str) -> ContractBroken:
    """Return the failure of a test: what was found, what is required, and where to read it."""
    return ContractBroken(
        f"{found}\n  Expected: {requirement.text}\n  Contract: {requirement.contract}"
    )


def in_time(seconds: float, function: Callable[[], None], requirement: Requirement) -> None:
    """Run in a thread, which is abandoned if it takes longer; the failure shows where it hangs."""
    outcome: Future[None] = Future()

    def run() -> None:
        try:
            function()
            outcome.set_result(None)
        except BaseException as error:
            outcome.set_exception(error)

    thread = threading.Thread(target=run, name="mb conformance suite", daemon=True)
    thread.start()
    try:
        outcome.result(seconds)
    except TimeoutError:
        if outcome.done():
            raise
        frame = sys._current_frames()[thread.ident or 0]
        stack = "".join(traceback.format_stack(frame)[-6:])
        raise violation(
            requirement, f"it was still busy after {seconds:g} s, here:\n{stack}"
        ) from None
    thread.join()


class EventLoops:
    """The event loops on which a suite runs."""

    @pytest.fixture(params=["asyncio", "trio"])
    def anyio_backend(self, request: pytest.FixtureRequest) -> str:
        """The event loop. It has the name of anyio's fixture, so plugins that choose loops work."""
        name: str = request.param
        if name == "trio":
            pytest.importorskip("trio", reason="trio is not installed")
        return name
