"""`mb serve` as it is configured: in a process of its own, and as docs/serve.md has it."""

from __future__ import annotations

import json
import re
import resource
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from mb_client import ConnectError, MessageBrokerClient
from mb_tools.serve.options import serve_table

DOCUMENT = Path(__file__).parents[3] / "docs" / "serve.md"


# A line of the log, as text or JSON.
CONNECTION = re.compile(r"\d (dis)?connected(\"|\n|$)")


class Served:
    """`mb serve` beside the test."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        self.process = process
        self.tcp, self.ws = (process.stdout.readline().strip() for _ in range(2))

    def log(self) -> str:
        """The log's next line that is not about a connection coming or going."""
        assert self.process.stderr is not None
        while CONNECTION.search(line := self.process.stderr.readline()):
            pass
        return line

    def get(self, path: str) -> tuple[int, str]:
        """Status and body of this page."""
        try:
            with urllib.request.urlopen(f"http{self.ws.removeprefix('ws')}{path}") as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def end(self) -> str:
        """End it; gives the rest of its log."""
        self.process.send_signal(signal.SIGTERM)
        _, err = self.process.communicate(timeout=30)
        assert self.process.returncode == 0
        return err


@pytest.fixture
def serving(mb: Any) -> Any:
    @contextmanager
    def start(*arguments: str, **environ: str) -> Iterator[Served]:
        mb.environ |= environ
        with mb.started("serve", "--tcp-port=0", "--ws-port=0", *arguments) as process:
            yield Served(process)

    return start


def shown(mb: Any, *arguments: str, **environ: str) -> list[str]:
    status, out, err = mb.process("serve", "--show-config", *arguments, **environ)
    assert (status, err) == (0, "")
    lines: list[str] = out.splitlines()
    return lines


# Sources


def test_command_line_environment_file_and_default_in_this_order(mb: Any, tmp_path: Path) -> None:
    file = tmp_path / "mb.toml"
    file.write_text("tcp_port = 1\nws_port = 1\nmax_payload = 1\n")
    environ = {"MB_CONFIG": str(file), "MB_TCP_PORT": "2", "MB_WS_PORT": "2"}
    lines = shown(mb, "--tcp-port", "3", "--no-page", **environ)
    assert {
        "tcp_port = 3  # command line",
        "page = false  # command line",
        "ws_port = 2  # environment",
        f"max_payload = 1  # {file}",
        "close_timeout = 5000  # default",
    } <= {*lines}


def test_the_file_of_the_command_line_comes_before_that_of_the_environment(
    mb: Any, tmp_path: Path
) -> None:
    file = tmp_path / "mb.toml"
    file.write_text("max_payload = 1\n")
    lines = shown(mb, "--config", str(file), MB_CONFIG=str(tmp_path / "absent"))
    assert f"max_payload = 1  # {file}" in lines


def test_empty_variables_count_for_nothing(mb: Any) -> None:
    assert shown(mb, MB_MAX_PAYLOAD="", MB_CONFIG="", MB_PAGE="") == shown(mb)


def test_what_is_shown_shows_itself_when_it_is_fed_back(mb: Any, tmp_path: Path) -> None:
    file = tmp_path / "mb.toml"
    first = shown(mb, "--origins", "http://a, http://b", "--tls-port", "off", "--no-metrics")
    file.write_text("\n".join(first))
    second = shown(mb, "--config", str(file))
    assert [values(line) for line in second] == [values(line) for line in first]
    assert 'origins = ["http://a","http://b"]' in map(values, second)


def values(line: str) -> str:
    """A line that is shown, without its source."""
    return line.partition("  # ")[0]


@pytest.mark.parametrize("source", ["command line", "environment", "file"])
def test_a_bad_value_is_one_line_and_status_2(source: str, mb: Any, tmp_path: Path) -> None:
    file = tmp_path / "mb.toml"
    file.write_text("max_payload = 0\n")
    arguments, environ, written = {
        "command line": (["--max-payload=0"], {}, "--max-payload '0'"),
        "environment": ([], {"MB_MAX_PAYLOAD": "0"}, "MB_MAX_PAYLOAD '0'"),
        "file": (["--config", str(file)], {}, f"{file}: max_payload 0"),
    }[source]
    assert mb.process("serve", *arguments, **environ) == (
        2,
        "",
        f"mb serve: {written}: must be a whole number of bytes, 1 or more\n",
    )


def test_an_unknown_key_is_one_line_with_the_nearest_name(mb: Any, tmp_path: Path) -> None:
    file = tmp_path / "mb.toml"
    file.write_text("max-payload = 1\n")
    assert mb("serve", "--config", str(file)) == (
        2,
        "",
        f"mb serve: {file}: unknown option 'max-payload'; did you mean 'max_payload'?\n",
    )


def test_a_misspelled_variable_is_a_warning_in_the_log(mb: Any) -> None:
    status, out, err = mb.process("serve", "--show-config", "--log-format=json", MB_TCP_PROT="9000")
    assert status == 0
    assert "tcp_port = 8081  # default" in out
    entry = json.loads(err)
    assert entry["message"].endswith(
        "MB_TCP_PROT in the environment is not an option; did you mean MB_TCP_PORT?"
    )


@pytest.mark.parametrize("scheme", ["tcp", "ws"])
def test_a_port_that_is_taken_is_one_line_and_status_3(scheme: str, mb: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        arguments = ["--tcp-port=0", "--ws-port=0", f"--{scheme}-port={port}"]
        assert mb.process("serve", *arguments) == (
            3,
            "",
            f"mb serve: can't listen on 127.0.0.1:{port}: Address already in use\n",
        )


def test_an_address_that_is_not_this_machines_is_one_line_and_status_3(mb: Any) -> None:
    assert mb.process("serve", "--open", "--host=192.0.2.1", "--tcp-port=0") == (
        3,
        "",
        "mb serve: can't listen on 192.0.2.1:0: Cannot assign requested address\n",
    )


# The log


def test_json_lines_tell_of_a_service_a_refused_handshake_and_a_client_too_many(
    serving: Any, peer_of: Any
) -> None:
    with serving("--log-format=json", "--max-connections=1") as served:
        with peer_of(served.tcp) as peer:
            peer.request("system.service.register", {"name": "Wea\nther", "description": "x"})
            registered = json.loads(served.log())
            with pytest.raises(ConnectError, match="the broker is full: max_connections is 1"):
                anyio.run(MessageBrokerClient(served.tcp).connect)
            too_many = json.loads(served.log())
        with socket.create_connection(address(served.ws)) as stranger:
            stranger.sendall(b"EHLO\r\n\r\n")
            peer_name = "{}:{}".format(*stranger.getsockname())
            handshake = json.loads(served.log())
        lines = served.end().splitlines()
    rest = [json.loads(line) for line in lines if not CONNECTION.search(line)]
    for entry in (registered, too_many, handshake, *rest):
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", entry["timestamp"])
    assert (registered["level"], registered["module"]) == ("info", "mb_broker.registry")
    assert registered["message"] == "Wea\nther registered"
    assert len(registered["serviceId"]) == 36
    assert (too_many["level"], too_many["module"]) == ("warning", "mb_broker.broker")
    assert too_many["message"].endswith(" refused: the broker is full: max_connections is 1")
    assert handshake["level"] == "warning"
    assert handshake["message"].startswith(f"{peer_name} refused: not a WebSocket handshake: ")
    assert [entry.get("signal") for entry in rest] == ["SIGTERM", None]


def test_a_name_with_a_line_break_stays_in_its_line_of_text(serving: Any, peer_of: Any) -> None:
    with serving() as served, peer_of(served.tcp) as peer:
        peer.request("system.service.register", {"name": "Eve\nadmin", "description": "x"})
        assert served.log().endswith(" INFO Eve\\nadmin registered\n")


@pytest.mark.parametrize(("level", "told"), [("warning", False), ("debug", True)])
def test_log_level_says_what_is_logged(level: str, told: bool, serving: Any, peer_of: Any) -> None:
    with serving(f"--log-level={level}") as served:
        with peer_of(served.tcp) as peer:
            peer.request("system.service.register", {"name": "Weather", "description": "x"})
        log = served.end()
    assert ("INFO Weather registered" in log) is told
    assert ("DEBUG" in log) is told


def address(url: str) -> tuple[str, int]:
    host, _, port = url.partition("://")[2].rpartition(":")
    return host, int(port)


# Pages


def test_health_and_metrics_are_on_the_websocket_port(serving: Any) -> None:
    with serving() as served:
        status, body = served.get("/health")
        assert (status, json.loads(body)) == (200, {"status": "ok", "connections": 0})
        status, body = served.get("/metrics")
        assert status == 200
        assert "\nmb_connection_active 0.0\n" in body
        assert served.get("/")[0] == 200


def test_without_metrics_and_page_nothing_is_there(serving: Any) -> None:
    with serving("--no-metrics", "--no-page") as served:
        assert [served.get(path)[0] for path in ("/", "/health", "/metrics")] == [404, 404, 404]


# The documentation


def test_the_table_in_the_documentation_is_that_of_the_options() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| (.*?) \| (.*?) \|$", DOCUMENT.read_text(), re.M)
    assert rows == [
        (option.name, default_of(option.default), option.unit, option.about)
        for option in serve_table()
    ]


def default_of(default: Any) -> str:
    if default in (None, []):
        return ""
    return str(default).lower() if isinstance(default, bool) else str(default)


def test_the_documentations_files_are_taken_as_they_stand(mb: Any, tmp_path: Path) -> None:
    examples = re.findall(r"```toml\n(.*?)```", DOCUMENT.read_text(), re.S)
    assert examples
    for number, example in enumerate(examples):
        file = tmp_path / f"{number}.toml"
        file.write_text(example)
        status, out, err = mb("serve", "--show-config", "--config", str(file))
        assert (status, err) == (0, "")
        given = [line.partition(" = ")[0] for line in out.splitlines() if str(file) in line]
        assert sorted(given) == sorted(re.findall(r"^(\w+) = ", example, re.M))


def test_the_documentations_commands_have_options_that_exist(mb: Any) -> None:
    _, out, _ = mb("serve", "--help")
    # Those of openssl, and of the commands that connect to the broker, are others'.
    text = re.sub(r"openssl .*|mb ping .*|`--cafile`", "", DOCUMENT.read_text())
    mentioned = {*re.findall(r"--[a-z][a-z-]+", text)}
    assert mentioned <= {*re.findall(r"--[a-z][a-z-]+", out)}


def test_the_documentation_shows_how_an_open_broker_is_refused(mb: Any) -> None:
    shown = re.search(
        r"^\$ mb serve (--host .*); echo .*\n(.*\n)status 2$", DOCUMENT.read_text(), re.M
    )
    assert shown is not None
    assert mb("serve", *shown[1].split()) == (2, "", shown[2])


# Files of the process


@pytest.mark.parametrize(
    ("limits", "connections", "warned"),
    [
        pytest.param("ulimit -Sn 200", 1000, False, id="raised as far as it must be"),
        pytest.param("ulimit -n 200", 1000, True, id="not allowed to"),
        pytest.param("ulimit -n 200", 100, False, id="enough"),
    ],
)
def test_the_limit_of_open_files_follows_max_connections(
    limits: str, connections: int, warned: bool
) -> None:
    command = f"{limits} && exec {sys.executable} -m mb_tools serve --tcp-port 0 --ws-port 0"
    with subprocess.Popen(
        ["sh", "-c", f"{command} --max-connections {connections}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            served = Served(process)
            soft = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)[0]
        finally:
            process.terminate()
        log = process.communicate(timeout=30)[1]
    assert served.tcp.startswith("tcp://")
    assert (soft < connections) is warned
    assert ("may open 200 files, too few for max_connections 1000" in log) is warned
