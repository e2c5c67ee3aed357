"""The report of a run: tables for people, JSON for programs, plots."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from .cases import CASES
from .contenders import BY_NAME
from .goals import GOALS
from .plots import draw_bars
from .rounds import Found
from .spread import Spread, ratio, spread

__all__ = ["Results", "tables", "write"]

BASELINE = "nats-py"
"""The peer to which all are set in relation."""


@dataclass(frozen=True, slots=True)
class Results:
    """A run: where it ran, with what, and what it found."""

    python: str
    cores: int
    messages: int
    versions: dict[str, str]
    found: Found

    @classmethod
    def here(cls, found: Found, messages: int) -> Results:
        """The results of a run of this interpreter on this machine."""
        versions: dict[str, str] = {}
        for name in found:
            versions |= BY_NAME[name].versions()
        return cls(platform.python_version(), os.cpu_count() or 1, messages, versions, found)

    @property
    def rounds(self) -> int:
        return len(next(iter(self.found.values())))


def write(results: Results, folder: Path) -> None:
    """Write results.json, results.md and a plot of each case into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(asdict(results), indent=1) + "\n")
    plots = "".join(f"\n![{case.name}]({case.file}.svg)\n" for case in CASES)
    (folder / "results.md").write_text(f"# Results\n\n{tables(results)}{plots}", encoding="utf-8")
    for case in CASES:
        figures = {
            name: spread([each[case.name] for each in rounds])
            for name, rounds in results.found.items()
        }
        draw_bars(
            folder / f"{case.file}.svg",
            case.name,
            figures,
            ours={name for name in figures if BY_NAME[name].ours},
            more_is_better=case.more_is_better,
        )


def tables(results: Results) -> str:
    """The tables in Markdown: medians, ratios to nats-py, goals."""
    parts = [_about(results), _medians(results)]
    if BASELINE in results.found:
        about = f"Ratios to {BASELINE} within each round, as the median and the quartiles:\n"
        parts += [about, _ratios(results)]
    goals = _goals(results)
    if goals:
        parts += ["Goals:\n", goals]
    return "\n".join(parts)


def _about(results: Results) -> str:
    with_ = ", ".join(f"{name} {version}" for name, version in results.versions.items())
    return (
        f"CPython {results.python}, {results.cores} cores{', ' + with_ if with_ else ''}. "
        f"The table shows medians of {results.rounds} rounds of {results.messages:,} messages, "
        "± half the distance between the quartiles.\n"
    )


def _medians(results: Results) -> str:
    rows = (
        [name, *(_figure(spread([each[case.name] for each in rounds])) for case in CASES)]
        for name, rounds in results.found.items()
    )
    return _table(["", *(case.name for case in CASES)], rows)


def _ratios(results: Results) -> str:
    theirs = results.found[BASELINE]
    rows = (
        [name, *(_times(ratio(mine, theirs, case.name)) for case in CASES)]
        for name, mine in results.found.items()
        if name != BASELINE
    )
    return _table(["", *(case.name for case in CASES)], rows)


def _goals(results: Results) -> str:
    rows = []
    for goal in GOALS:
        if goal.contender in results.found and goal.baseline in results.found:
            found = ratio(
                results.found[goal.contender], results.found[goal.baseline], goal.case.name
            )
            bound = f"{'at least' if goal.case.more_is_better else 'at most'} {goal.bound:.2f} x"
            met = "yes" if goal.met(found) else "no"
            who = f"{goal.contender} to {goal.baseline}"
            rows.append([who, goal.case.name, bound, _times(found), met])
    return _table(["", "case", "goal", "measured", "met"], rows) if rows else ""


def _figure(found: Spread) -> str:
    number = f"{found.median / 1000:,.1f} k" if found.median >= 10_000 else f"{found.median:,.0f}"
    return f"{number} ± {found.percent:.0f} %"


def _times(found: Spread) -> str:
    return f"{found.median:.2f} x ({found.low:.2f} to {found.high:.2f})"


def _table(head: list[str], rows: Iterable[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
