"""docs/first-service.md, followed step by step."""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mb_sync import MessageBrokerClient
from mb_testing import FaultyBroker, wait_until

from .pages import Block, blocks, commands, files, redirected

PAGE = "first-service.md"
# What the page calls `mb` and `python`, without an environment that is active.
PROGRAMS = {"mb": [sys.executable, "-m", "mb_tools"], "python": [sys.executable]}


def call(line: str, folder: Path, broker: FaultyBroker) -> subprocess.CompletedProcess[str]:
    name, *arguments = shlex.split(line)
    return subprocess.run(
        [*PROGRAMS[name], *arguments],
        cwd=folder,
        env=redirected(broker),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@contextmanager
def service(folder: Path, broker: FaultyBroker, **environ: str) -> Iterator[subprocess.Popen[str]]:
    """Run weather.py until it has registered and answers; it is killed if it still runs."""
    with (
        subprocess.Popen(
            [sys.executable, "weather.py"],
            cwd=folder,
            env=redirected(broker) | environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process,
        MessageBrokerClient(broker.url) as client,
    ):

        def answers() -> bool:
            topics = client.request("system.topic.list", {}).payload["topics"]
            return "weather.current" in [entry["topic"] for entry in topics]

        try:
            wait_until(answers)
            yield process
        finally:
            process.kill()


def stages() -> list[list[Block]]:
    """The page in two parts, each of which begins with a version of the service."""
    found = blocks(PAGE)
    starts = [index for index, block in enumerate(found) if block.title == "weather.py"]
    assert len(starts) == 2
    return [found[starts[0] : starts[1]], found[starts[1] :]]


@pytest.mark.parametrize("stage", [0, 1], ids=["plain", "typed"])
def test_each_step_shows_what_the_page_says(
    stage: int, mb_broker: FaultyBroker, tmp_path: Path
) -> None:
    steps = stages()[stage]
    (tmp_path / "weather.py").write_text(steps[0].text)
    shown = 0
    with service(tmp_path, mb_broker) as process:
        for block in steps:
            if block.title is not None:
                (tmp_path / block.title).write_text(block.text)
            elif block.language == "console":
                for command in commands(block):
                    done = call(command.line, tmp_path, mb_broker)
                    assert (done.stdout, done.stderr) == (command.output, "")
                    shown += 1
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        logged = [block.text for block in steps if block.language == "text"]
        assert (process.returncode, out, err) == (0, "", "".join(logged))
    assert shown == [2, 1][stage]


def test_the_table_of_things_to_try(mb_broker: FaultyBroker, tmp_path: Path) -> None:
    plain = stages()[0]
    for block in plain:
        if block.title is not None:
            (tmp_path / block.title).write_text(block.text)
    with service(tmp_path, mb_broker) as process:
        ask = (tmp_path / "ask.py").read_text()
        (tmp_path / "ask.py").write_text(ask.replace('{"city": "Oslo"}', "{}"))
        done = call("python ask.py", tmp_path, mb_broker)
        assert "InternalError" in done.stderr
        (tmp_path / "ask.py").write_text(ask)
        mb_broker.restart()
        again = ask.replace('{"city": "Oslo"}', '{"city": "Oslo"}, retry=True')
        (tmp_path / "ask.py").write_text(again)
        with MessageBrokerClient(mb_broker.url) as client:
            wait_until(lambda: "Weather" in str(client.request("system.service.list", {}).payload))
        done = call("python ask.py", tmp_path, mb_broker)
        assert (done.stdout, done.stderr) == ("{'city': 'Oslo', 'degrees': 3}\n", "")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        assert "KeyError: 'city'" in err
    done = call("python ask.py", tmp_path, mb_broker)
    assert "NoRouteFoundError" in done.stderr


def test_the_test_of_the_page_passes(tmp_path: Path) -> None:
    for name, text in files(PAGE).items():
        (tmp_path / name).write_text(text)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "pytest", "-q"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert "2 passed" in done.stdout


def test_the_container_gets_its_broker_from_the_environment(
    mb_broker: FaultyBroker, tmp_path: Path
) -> None:
    [change] = [block.text for block in blocks(PAGE) if block.language == "diff"]
    before, after = change.splitlines(keepends=True)
    program = files(PAGE)["weather.py"]
    assert before[1:] in program
    changed = "import os\n" + program.replace(before[1:], after[1:])
    (tmp_path / "weather.py").write_text(changed.replace("localhost:8081", "localhost:1"))
    environ = {"MB_URL": mb_broker.url_of("tcp")}
    with service(tmp_path, mb_broker, **environ) as process:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == -signal.SIGTERM
