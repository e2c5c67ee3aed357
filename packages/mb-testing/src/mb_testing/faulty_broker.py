"""A broker in a thread, whose connections a test can break."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from mb_broker import RunningBroker

from .faults import Faults

__all__ = ["FaultyBroker", "running"]


def running(*urls: str, faults: Faults | None = None, **options: Any) -> FaultyBroker:
    """Run a Broker in a thread while the block lasts, as `mb_broker.running` does, with `faults`.

        with mb_testing.running("tcp://127.0.0.1:0") as broker:
            broker.faults.cut()

    Each message takes longer on its way through them.  Entering raises what entering a Broker
    raises.
    """
    return FaultyBroker(*urls, faults=faults, **options)


class FaultyBroker(RunningBroker):
    """A RunningBroker with `faults`, which break its connections."""

    def __init__(self, *urls: str, faults: Faults | None = None, **options: Any) -> None:
        self.faults = faults if faults is not None else Faults()
        super().__init__(*urls, wrap_accept=self.faults.wrap_accept, **options)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.faults.clear()  # connections can't be closed in order while messages are held
        super().__exit__(kind, error, traceback)
