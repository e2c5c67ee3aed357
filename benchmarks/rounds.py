"""Rounds that interleave the contenders, each in a new process with servers of its own.

What disturbs the machine for a while disturbs all of a round alike, so a ratio is taken within each
round; a new process each time varies what one process keeps for life (hash seeds, memory layout).
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterable

from .cases import Figures
from .contenders import Contender

__all__ = ["Found", "present", "run"]

Found = dict[str, list[Figures]]
"""The figures of each round, by contender."""


def present(contenders: Iterable[Contender], say: Callable[[str], object]) -> list[Contender]:
    """Those that can be measured here; says a line of each that can't."""
    here = []
    for contender in contenders:
        missing = contender.missing()
        if missing is None:
            here.append(contender)
        else:
            say(f"{contender.name}: skipped, {missing}")
    return here


def run(
    contenders: Iterable[Contender], rounds: int, messages: int, say: Callable[[str], object]
) -> Found:
    """Measure all of them, `rounds` times in turns, `messages` publications each.

    Raises CalledProcessError, after what it printed, for a contender that fails.
    """
    found: Found = {contender.name: [] for contender in contenders}
    for number in range(rounds):
        say(f"round {number + 1} of {rounds}")
        # Every other round backwards: who comes after whom is not always the same.
        for name in list(found)[:: -1 if number % 2 else 1]:
            found[name].append(measure(name, messages))
    return found


def measure(name: str, messages: int) -> Figures:
    """One round of one contender, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.worker", name, str(messages)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    figures: Figures = json.loads(done.stdout)
    return figures
