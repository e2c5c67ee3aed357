"""A broker in a thread whose connections a test can break."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from mb_broker import RunningBroker

from .faults import Faults

__all__ = ["FaultyBroker", "running"]


def running(*urls: str, faults: Faults | None = None, **options: Any) -> FaultyBroker:
    """Run a Broker in a thread for the duration of a `with` block, and break its connections.

    Example::

        with mb_testing.running("tcp://127.0.0.1:0") as broker:
            broker.faults.cut()

    Messages take longer than with `mb_broker.running`. Entering the block raises the same
    errors as entering a `Broker`.

    Args:
        *urls: Where to listen; by default on `memory://` under a new name.
        faults: The faults to use, such as those of another broker; new ones by default.
        **options: The other arguments of `mb_broker.Broker`.
    """
    return FaultyBroker(*urls, faults=faults, **options)


class FaultyBroker(RunningBroker):
    """A broker that runs in a thread, and whose connections a test can break.

    `running` returns it.

    Attributes:
        faults: Breaks the connections.
    """

    def __init__(self, *urls: str, faults: Faults | None = None, **options: Any) -> None:
        self.faults = faults if faults is not None else Faults()
        super().__init__(*urls, wrap_accept=self.faults.wrap_accept, **options)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.faults.clear()  # connections can't be closed cleanly while messages are held
        super().__exit__(kind, error, traceback)
