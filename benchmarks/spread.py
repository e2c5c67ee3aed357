"""Medians, and how far the rounds lay apart."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from .cases import Figures

__all__ = ["Spread", "ratio", "spread"]


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of some rounds, and the quartiles on both sides of it."""

    median: float
    low: float
    high: float

    @property
    def percent(self) -> float:
        """Half the distance of the quartiles, in percent of the median."""
        return 50 * (self.high - self.low) / self.median


def spread(values: Sequence[float]) -> Spread:
    """The spread of at least one value; of a single one it is that value."""
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(median, low, high)


def ratio(mine: Sequence[Figures], theirs: Sequence[Figures], case: str) -> Spread:
    """The spread of the ratios within each round."""
    return spread([a[case] / b[case] for a, b in zip(mine, theirs, strict=True)])
