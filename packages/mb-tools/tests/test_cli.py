"""`mb` as a user meets it: help, usage errors, a fast start."""

from __future__ import annotations

import os
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from mb_tools.cli import main
from mb_tools.connect import Endpoint, endpoint_options

COMMANDS = {
    *("serve", "demo", "top", "pub", "sub", "request", "reply", "ping", "services", "topics"),
    *("metrics", "log", "trace", "plugins", "completion", "token", "whoami"),
}


def test_without_arguments_it_prints_its_help() -> None:
    result = CliRunner().invoke(main, [], prog_name="mb")
    assert result.exit_code == 0
    assert result.stdout == CliRunner().invoke(main, ["--help"], prog_name="mb").stdout


def test_help_names_the_commands() -> None:
    result = CliRunner().invoke(main, ["--help"])
    assert result.exit_code == 0
    named = {line.split()[0] for line in result.output.split("Commands:\n")[1].splitlines()}
    assert named == COMMANDS


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_each_command_has_help(command: str) -> None:
    result = CliRunner().invoke(main, [command, "--help"])
    assert result.exit_code == 0
    assert result.output.startswith(f"Usage: main {command} ")
    assert CliRunner().invoke(main, [command, "-h"]).output == result.output


def test_version_is_the_distribution_s() -> None:
    result = CliRunner().invoke(main, ["--version"])
    assert result.output.startswith("mb, version ")


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(["demo", "--requests", "0"], id="no requests"),
        pytest.param(["demo", "--backend", "curio"], id="unknown loop"),
        pytest.param(["dance"], id="unknown command"),
        pytest.param(["sub"], id="no pattern"),
        pytest.param(["sub", "a.b", "-n", "0"], id="no messages"),
        pytest.param(["log", "--level", "loud"], id="unknown level"),
        pytest.param(["completion", "tcsh"], id="unknown shell"),
        pytest.param(["completion"], id="no shell"),
        pytest.param(["services", "--url", "localhost"], id="no URL"),
    ],
)
def test_wrong_usage_is_status_2_and_one_line(arguments: list[str]) -> None:
    result = CliRunner().invoke(main, arguments, prog_name="mb")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("mb")
    assert result.stderr.endswith(" --help)\n")
    assert result.stderr.count("\n") == 1
    assert "\\" not in result.stderr  # no line break or tab of click's, escaped


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["sub", "a.b", "-n", "1.5"], "'1.5' is not a valid whole number"),
        (["ping", "--interval", "often"], "'often' is not a valid number"),
    ],
)
def test_what_is_not_a_number_is_refused_in_plain_words(arguments: list[str], text: str) -> None:
    result = CliRunner().invoke(main, arguments, prog_name="mb")
    assert result.exit_code == 2
    assert text in result.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_the_shell_s_script(shell: str) -> None:
    result = CliRunner().invoke(main, ["completion", shell])
    assert result.exit_code == 0
    assert "_MB_COMPLETE=" + shell in result.output


def test_the_script_completes_commands() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mb_tools"],
        env={
            **os.environ,
            "_MB_COMPLETE": "bash_complete",
            "COMP_WORDS": "mb se",
            "COMP_CWORD": "1",
        },
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "plain,serve\nplain,services\n"


def test_a_missing_event_loop_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mb_tools.commands.demo.find_spec", lambda name: None)
    result = CliRunner().invoke(main, ["demo", "--backend", "trio"])
    assert result.exit_code == 2
    assert "trio is not installed: pip install 'mb-core[trio]'" in result.output


def test_help_imports_neither_the_client_nor_an_event_loop() -> None:
    code = (
        "import sys; from click.testing import CliRunner; from mb_tools.cli import main; "
        "CliRunner().invoke(main, ['--help']); "
        "heavy = {'mb_core', 'rich', 'anyio', 'asyncio', 'msgspec', 'textual', 'ssl'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_endpoint_options_become_an_endpoint() -> None:
    @click.command()
    @endpoint_options
    def command(endpoint: Endpoint) -> Endpoint:
        return endpoint

    found = command.main(["--url", "ws://user@localhost?token=x"], standalone_mode=False)
    assert found == Endpoint("ws://user@localhost?token=x")
    assert "token" not in found.shown
