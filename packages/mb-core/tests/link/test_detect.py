"""Which event loop is running."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType

import pytest

from mb_core.link import current_backend


@pytest.mark.anyio
async def test_the_running_loop_is_found(anyio_backend_name: str) -> None:
    assert current_backend().name == anyio_backend_name


def test_without_a_loop_there_is_no_backend() -> None:
    with pytest.raises(RuntimeError):
        current_backend()


def test_a_program_on_asyncio_does_not_import_trio() -> None:
    program = """
import asyncio, sys
from mb_core.link import current_backend
async def main():
    assert current_backend().name == "asyncio"
asyncio.run(main())
assert "trio" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=30)


@pytest.mark.anyio
async def test_trio_is_not_asked_while_another_thread_imports_it(
    anyio_backend_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if anyio_backend_name == "trio":
        pytest.skip("its loop runs, so it has been imported")
    monkeypatch.setitem(sys.modules, "trio", ModuleType("trio"))  # as far as it has come
    assert current_backend().name == "asyncio"
