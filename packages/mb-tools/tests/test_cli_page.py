"""The console examples of docs/cli.md, typed into a shell beside a real broker.

Commands follow `$`, and their output is below them.  Ids, times, figures and versions differ
each time; everything else is as the page says.  After a command with `&` the shell waits until the
broker knows it, as a reader would.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[3] / "docs" / "cli.md"

BLOCKS = re.findall(r"^```console\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)

# Waits until this many services have a name, and each of them is subscribed to something: the log's
# readers are not listed as subscribers, and subscribe together with their registration.
SETTLED = """
import sys, anyio
from mb_client import MessageBrokerClient

async def main(url, count):
    async with MessageBrokerClient(url) as client:
        while True:
            services = (await client.request("system.service.list", {})).payload["services"]
            topics = (await client.request("system.topic.list", {})).payload["topics"]
            subscribed = {each["serviceId"] for topic in topics for each in topic["subscribers"]}
            ready = [s for s in services if s["id"] in subscribed or s["name"] == "mb log"]
            if len(ready) >= count:
                return

anyio.run(main, sys.argv[1], int(sys.argv[2]))
"""

DIFFERS = [
    (r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "<id>"),
    (r"\d{4}-\d\d-\d\dT[\d:.]+Z", "<time>"),
    (r'"(ms|min|avg|max|value)":[\d.]+', r'"\1":<figure>'),
    (r'"version":"[^"]*"', '"version":<version>'),
]


def same(text: str) -> str:
    for pattern, stand_in in DIFFERS:
        text = re.sub(pattern, stand_in, text)
    return text


def script(block: str, url: str) -> tuple[str, str]:
    """The shell script of a block, and what it should print."""
    commands, expected, waiting = [], [], 0
    for line in block.splitlines():
        if line.startswith("$ "):
            commands.append(line[2:])
            if line.endswith("&"):
                waiting += 1
                settled = shlex.join([sys.executable, "-c", SETTLED, url, str(waiting)])
                commands.append(settled)
        else:
            expected.append(line)
    return "\n".join(commands), "".join(f"{line}\n" for line in expected)


def test_the_page_has_examples_of_all_that_prints() -> None:
    text = "".join(BLOCKS)
    for command in (
        *("request", "reply", "sub", "pub", "services", "topics", "trace", "log", "metrics"),
        *("ping", "plugins"),
    ):
        assert f"mb {command}" in text
        assert re.search(rf"^## .*\b{command}\b", PAGE.read_text(), re.MULTILINE)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.split("\n")[0][2:40])
def test_an_example_prints_what_the_page_says(block: str, url: str, tmp_path: Path) -> None:
    if "jq" in block and shutil.which("jq") is None:
        pytest.skip("jq is not installed")
    commands, expected = script(block, url)
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environ = {**os.environ, "MB_URL": url, "PATH": programs}
    printed = tmp_path / "printed"
    with printed.open("w") as output:
        shell = subprocess.Popen(
            ["bash", "-c", commands],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=tmp_path,
            env=environ,
            start_new_session=True,
        )
        try:
            shell.wait(60)
        finally:
            with suppress(ProcessLookupError):  # nothing is left in the background
                os.killpg(shell.pid, signal.SIGKILL)
            shell.wait()
    assert same(printed.read_text()) == same(expected)
