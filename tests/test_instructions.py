"""The hot paths take no more instructions than they did; noise can't change these figures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks.instructions import AS_USER, TOLERANCE, VERSION, read_budget

ROOT = Path(__file__).parents[1]

pytestmark = [
    pytest.mark.instructions,
    pytest.mark.skipif(
        not sys.version.startswith(f"{VERSION}."),
        reason=f"the instructions of Python {VERSION} are counted",
    ),
]


@pytest.fixture(scope="module")
def counted() -> dict[str, int]:
    """The instructions of each path for a message, in a process that nothing else watches."""
    watched = ("COV", "PYTHON")
    environ = {name: value for name, value in os.environ.items() if not name.startswith(watched)}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.instructions", "--json"],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    counts: dict[str, int] = json.loads(done.stdout)
    return counts


def test_every_path_has_a_budget(counted: dict[str, int]) -> None:
    assert counted.keys() == read_budget().keys()


@pytest.mark.parametrize("path", read_budget())
def test_a_path_is_within_its_budget(path: str, counted: dict[str, int]) -> None:
    """What costs more has a reason: `python -m benchmarks.instructions --write` notes it."""
    budget = read_budget()[path]
    assert counted[path] <= budget * (1 + TOLERANCE), (
        f"{path}: {counted[path]} instructions for a message, {budget} before "
        "(python -m benchmarks.instructions --modules says where)"
    )


@pytest.mark.parametrize("path", [path for path in read_budget() if path.endswith(AS_USER)])
def test_access_control_costs_next_to_nothing(path: str, counted: dict[str, int]) -> None:
    """Whether a user may send is decided when a route is looked up, not with each message."""
    assert counted[path] <= 1.05 * counted[path.removesuffix(AS_USER)]
