"""What MB is to reach, as ratios of one run."""

from __future__ import annotations

from dataclasses import dataclass

from .cases import PUBLISH, PUBLISH_TO_HANDLER, REQUEST_P50, REQUESTS_IN_FLIGHT, Case
from .spread import Spread

__all__ = ["GOALS", "Goal"]


@dataclass(frozen=True, slots=True)
class Goal:
    contender: str
    baseline: str
    case: Case
    bound: float
    """The least ratio to the baseline; the greatest where less is better."""

    def met(self, found: Spread) -> bool:
        """Whether the median of the rounds' ratios reaches it."""
        if self.case.more_is_better:
            return found.median >= self.bound
        return found.median <= self.bound


GOALS = (
    Goal("mb tcp", "nats-py", PUBLISH_TO_HANDLER, 3.0),
    Goal("mb tcp", "nats-py", PUBLISH, 2.0),
    Goal("mb tcp", "nats-py", REQUESTS_IN_FLIGHT, 2.5),
    Goal("mb tcp", "nats-py", REQUEST_P50, 0.6),
    Goal("mb ws", "websockets relay", PUBLISH_TO_HANDLER, 2.0),
    Goal("mb ws", "nats-py", PUBLISH_TO_HANDLER, 1.0),
    Goal("mb tcp, trio", "mb tcp", PUBLISH_TO_HANDLER, 0.6),
    Goal("mb tcp, trio", "mb tcp", PUBLISH, 0.6),
    Goal("mb tcp, trio", "mb tcp", REQUESTS_IN_FLIGHT, 0.6),
    Goal("mb tcp, trio", "mb tcp", REQUEST_P50, 1 / 0.6),
    Goal("mb_sync tcp, service apart", "mb tcp, service apart", REQUEST_P50, 1.5),
    Goal("mb_sync tcp, service apart", "mb tcp, service apart", PUBLISH, 0.5),
)
