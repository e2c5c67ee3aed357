"""`mb` as a user meets it: help, usage errors, a fast start."""

from __future__ import annotations

import subprocess
import sys

import pytest
from click.testing import CliRunner

from mb_tools.cli import main


def test_help_names_the_commands() -> None:
    result = CliRunner().invoke(main, ["--help"])
    assert result.exit_code == 0
    assert "serve" in result.output
    assert "demo" in result.output


def test_version_is_the_distribution_s() -> None:
    result = CliRunner().invoke(main, ["--version"])
    assert result.output.startswith("mb, version ")


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(["serve", "--tcp-port", "70000"], id="port out of range"),
        pytest.param(["serve", "--ws-port", "http"], id="port no number"),
        pytest.param(["demo", "--requests", "0"], id="no requests"),
        pytest.param(["demo", "--backend", "curio"], id="unknown loop"),
        pytest.param(["dance"], id="unknown command"),
    ],
)
def test_wrong_usage_is_status_2_and_one_message(arguments: list[str]) -> None:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert "Error: " in result.output


def test_a_missing_event_loop_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mb_tools.cli.find_spec", lambda name: None)
    result = CliRunner().invoke(main, ["demo", "--backend", "trio"])
    assert result.exit_code == 2
    assert "trio is not installed: pip install 'mb-core[trio]'" in result.output


def test_help_imports_neither_the_client_nor_an_event_loop() -> None:
    code = (
        "import sys; from click.testing import CliRunner; from mb_tools.cli import main; "
        "CliRunner().invoke(main, ['--help']); "
        "print([name for name in ('mb_core', 'rich', 'anyio') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
