"""What the tests of plugins share."""

from __future__ import annotations

from pathlib import Path

import pytest

from .distributions import Environment


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    """A folder of distributions of the test's own."""
    return Environment(tmp_path)
