"""What all tests of the workspace share."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def unmeasured_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not measure the coverage of programs that a test starts: the packages' own tests do.

    Measuring costs each program a tenth of a second, as much as all of its imports.
    """
    monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)
