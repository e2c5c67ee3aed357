"""MB and its peers side by side: the same work, in turns, in one run.

Writes tables, JSON and plots.  Who is not installed is left out, with a line that says what to
install.  Machines are noisy: only the ratios of one run mean anything.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import psutil

from . import report, rounds
from .contenders import BY_NAME, CONTENDERS

ROOT = Path(__file__).parents[1]
QUIET = 10
"""Percent of the machine that others may use before a run is told to be of little worth."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--messages", type=int, default=50_000, help="publications in a round; default: 50000"
    )
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", choices=BY_NAME, help=f"of {', '.join(BY_NAME)}"
    )
    parser.add_argument(
        "--out", type=Path, default=ROOT / "docs" / "benchmarks", help="default: docs/benchmarks"
    )
    given = parser.parse_args()
    wanted = [contender for contender in CONTENDERS if contender.name in (given.only or BY_NAME)]
    here = rounds.present(wanted, say)
    if not here:
        parser.error("nothing to measure")
    busy = psutil.cpu_percent(interval=1)
    if busy > QUIET:
        say(f"{busy:.0f} % of this machine is busy: ratios of a broker in Python suffer most")
    results = report.Results.here(
        rounds.run(here, given.rounds, given.messages, say), given.messages
    )
    report.write(results, given.out)
    print(report.tables(results))


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
