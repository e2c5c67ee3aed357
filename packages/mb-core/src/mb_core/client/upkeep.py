"""How a client is kept connected: the options, checked and in seconds."""

from __future__ import annotations

import msgspec

from ..errors import LocalProtocolError
from .arguments import check_options

__all__ = ["UpkeepOptions"]

_RESTORING = 3.0
"""Seconds for a try that has begun: a busy broker restores many clients at once."""


class UpkeepOptions(msgspec.Struct, frozen=True):
    """How a client is kept connected; times in seconds, see MessageBrokerClient."""

    reconnect: bool
    retry_connect: bool
    backoff_min: float
    backoff_max: float
    reconnect_timeout: float | None
    heartbeat_interval: float | None
    drain_timeout: float

    @property
    def settling(self) -> float:
        """How long other clients with the same options may need to be back after this one."""
        return self.backoff_max + _RESTORING

    @classmethod
    def of(
        cls,
        *,
        reconnect: bool,
        retry_connect: bool,
        backoff_min: int,
        backoff_max: int,
        reconnect_timeout: int | None,
        heartbeat_interval: int | None,
        drain_timeout: int,
    ) -> UpkeepOptions:
        """From a client's arguments, with times in milliseconds.

        Raises LocalProtocolError for invalid values.
        """
        check_options(
            reconnect=reconnect,
            retry_connect=retry_connect,
            backoff_min=backoff_min,
            backoff_max=backoff_max,
            reconnect_timeout=reconnect_timeout,
            heartbeat_interval=heartbeat_interval,
            drain_timeout=drain_timeout,
        )
        if backoff_min > backoff_max:
            raise LocalProtocolError(
                f"backoff_min ({backoff_min} ms) is longer than backoff_max ({backoff_max} ms)"
            )
        return cls(
            reconnect=reconnect,
            retry_connect=retry_connect,
            backoff_min=backoff_min / 1000,
            backoff_max=backoff_max / 1000,
            reconnect_timeout=_seconds(reconnect_timeout),
            heartbeat_interval=_seconds(heartbeat_interval),
            drain_timeout=drain_timeout / 1000,
        )


def _seconds(milliseconds: int | None) -> float | None:
    return milliseconds / 1000 if milliseconds is not None else None
