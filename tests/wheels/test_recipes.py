"""The recipes of the documentation that are about packages of others, with these installed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from .conftest import Install
from .installing import ROOT

pytestmark = pytest.mark.wheels


def files(page: str) -> dict[str, str]:
    text = (ROOT / "docs" / page).read_text()
    found = re.findall(r'^```\w+ title="(.*?)"\n(.*?)^```$', text, re.DOTALL | re.MULTILINE)
    return dict(found)


@pytest.mark.parametrize("plugin", ["pytest-asyncio", "pytest-trio"])
def test_a_plugin_of_pytest(plugin: str, environment_of: Install, tmp_path: Path) -> None:
    environment = environment_of("mb-client", "mb-testing", plugin)
    name = f"test_with_{plugin.replace('-', '_')}.py"
    # The configuration on the page is that of pytest-asyncio.
    for each in ("weather.py", name, *["pyproject.toml"] * (plugin == "pytest-asyncio")):
        (tmp_path / each).write_text(files("recipes-testing.md")[each])
    done = environment.call("python", "-W", "error", "-m", "pytest", "-q", tmp_path / name)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert "1 passed" in done.stdout


def test_structlog(environment_of: Install, tmp_path: Path) -> None:
    environment = environment_of("mb-client", "structlog")
    program = tmp_path / "program.py"
    program.write_text(
        files("logging.md")["structured.py"]
        + """
import asyncio
from mb_client import Broker, MessageBrokerClient


async def main():
    async with Broker("memory://") as broker, MessageBrokerClient(broker.url) as client:
        await client.register_service("Weather", "Answers weather questions")
        await client.subscribe("weather", action="request", handler=lambda message: 1 / 0)
        try:
            await client.request("weather", {})
        except Exception:
            pass

asyncio.run(main())
"""
    )
    done = environment.call("python", "-W", "error", program)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert '"event": "Weather registered"' in done.stdout
    assert '"serviceId"' in done.stdout
    assert "ZeroDivisionError" in done.stdout
