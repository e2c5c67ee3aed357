"""Where `mb serve` refuses to listen: a broker is open to others only if somebody wants that."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import anyio
import pytest
import trustme
from hypothesis import assume, given
from hypothesis import strategies as st

from mb_broker.access import token_digest
from mb_client import MessageBrokerClient, installed_plugins
from mb_core.transport import SocketAddress, WireTransport
from mb_tools.commands.serve import command
from mb_tools.errors import Failure
from mb_tools.serve.addresses import check_open, urls
from mb_tools.serve.options import ServeOptions, options_of

ACCESS = "--access FILE (users with tokens)"
CERTIFICATES = "--tls-client-ca FILE (client certificates)"
ONLY_TLS = "--tls-client-ca FILE with only TLS ports (client certificates)"
OPEN = "--open to allow it"
TLS = ["--tls-port=0", "--tls-cert=c", "--tls-key=k"]


def options_from(
    arguments: list[str], environ: Mapping[str, str] | None = None, file: Path | None = None
) -> ServeOptions:
    config = [] if file is None else [f"--config={file}"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "environ", dict(environ or {}))
        names = ["-h", "--help"]
        ctx = command.make_context("serve", [*config, *arguments], help_option_names=names)
    return options_of(ctx)


def refusal(
    arguments: list[str], environ: Mapping[str, str] | None = None, file: Path | None = None
) -> str | None:
    """The line with which these options are refused; None if they are not."""
    options = options_from(arguments, environ, file)
    try:
        check_open(options)
    except Failure as failure:
        return failure.message
    return None


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (
            ["--host=0.0.0.0"],
            (
                "tcp://0.0.0.0:8081 and ws://0.0.0.0:8080 would be open to everyone who can reach "
                f"them: add {ACCESS}, or {ONLY_TLS}, or {OPEN}"
            ),
        ),
        (
            ["--host=::", "--ws-port=off"],
            (
                "tcp://[::]:8081 would be open to everyone who can reach it: "
                f"add {ACCESS}, or {ONLY_TLS}, or {OPEN}"
            ),
        ),
        (
            ["--host=0.0.0.0", "--tcp-port=off", "--ws-port=off", *TLS],
            (
                "tls://0.0.0.0:0 would be open to everyone who can reach it: "
                f"add {ACCESS}, or {CERTIFICATES}, or {OPEN}"
            ),
        ),
        (
            ["--listen=tcp://127.0.0.1:1,ws://192.0.2.1:2/?token=hunter22,tcp://[2001:db8::1]:3"],
            (
                "ws://192.0.2.1:2/?*** and tcp://[2001:db8::1]:3 would be open to everyone who can "
                f"reach them: add {ACCESS}, or {ONLY_TLS}, or {OPEN}"
            ),
        ),
        (
            ["--host=0.0.0.0", *TLS, "--tls-client-ca=ca"],
            (
                "tcp://0.0.0.0:8081 and ws://0.0.0.0:8080 would be open to everyone who can reach "
                f"them: add {ACCESS}, or --tcp-port off --ws-port off "
                f"(--tls-client-ca protects only ports with TLS), or {OPEN}"
            ),
        ),
        (
            ["--host=0.0.0.0", "--ws-port=1", "--listen=tcp://:2", *TLS, "--tls-client-ca=ca"],
            (
                "ws://0.0.0.0:1 and tcp://0.0.0.0:2 would be open to everyone who can reach "
                f"them: add {ACCESS}, or --ws-port off and remove them from listen "
                f"(--tls-client-ca protects only ports with TLS), or {OPEN}"
            ),
        ),
    ],
)
def test_what_would_be_open_is_refused_with_the_remedies(arguments: list[str], text: str) -> None:
    assert refusal(arguments) == text
    for remedy in ("--open", "--access=file"):
        assert refusal([*arguments, remedy]) is None


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--host=::1"],
        ["--host=localhost"],
        ["--host=LOCALHOST"],
        ["--host=127.0.0.2", *TLS],
        ["--host=0.0.0.0", "--listen=tcp://127.0.0.1:1,ws://[::1]:2,tcp://localhost,memory://a"],
        ["--listen=tcp://,ws://:1"],
        ["--host=0.0.0.0", "--tcp-port=off", "--ws-port=off", *TLS, "--tls-client-ca=ca"],
        [
            "--host=0.0.0.0",
            "--listen=tls://,wss://192.0.2.1,tcp://localhost",
            *TLS,
            "--tls-client-ca=ca",
        ],
    ],
)
def test_what_is_for_this_machine_or_clients_with_certificates_is_not(arguments: list[str]) -> None:
    assert refusal(arguments) is None


@pytest.mark.parametrize(
    "host",
    [
        *("0.0.0.0", "192.0.2.1", "127.1", "2130706433", "0x7f000001", "::", "fe80::1%eth0"),
        *("my-host", "localhost.", "localhost.example", "127.0.0.1.example"),
    ],
)
def test_other_names_count_as_reachable_whatever_they_resolve_to(host: str) -> None:
    assert refusal([f"--host={host}"]) is not None
    url_host = f"[{host}]" if ":" in host else host
    assert refusal([f"--listen=tcp://{url_host}:1"]) is not None


@pytest.mark.parametrize("where", ["command line", "environment", "file"])
@pytest.mark.parametrize(
    ("name", "value", "refused"),
    [
        ("host", "0.0.0.0", True),
        ("listen", "tcp://0.0.0.0:1", True),
        ("open", "true", False),
        ("access", "file", False),
    ],
)
def test_every_source_counts(
    where: str, name: str, value: str, refused: bool, tmp_path: Path
) -> None:
    arguments: list[str] = [] if refused else ["--host=0.0.0.0"]
    environ: dict[str, str] = {}
    file = tmp_path / "mb.toml"
    file.write_text("")
    if where == "command line":
        arguments.append("--open" if name == "open" else f"--{name}={value}")
    elif where == "environment":
        environ[f"MB_{name.upper()}"] = value
    else:
        text = {"open": value, "listen": f"['{value}']"}.get(name, f"'{value}'")
        file.write_text(f"{name} = {text}\n")
    assert (refusal(arguments, environ, file) is not None) is refused


def test_the_first_source_of_open_wins(tmp_path: Path) -> None:
    file = tmp_path / "mb.toml"
    file.write_text("open = true\nhost = '0.0.0.0'\n")
    assert refusal([], {}, file) is None
    assert refusal([], {"MB_OPEN": "false"}, file) is not None
    assert refusal(["--no-open"], {"MB_OPEN": "true"}, file) is not None
    assert refusal(["--open"], {"MB_OPEN": "false"}, file) is None


# Whatever else is set.

HOSTS = ["127.0.0.1", "127.0.0.9", "::1", "localhost", "0.0.0.0", "::", "192.0.2.1", "mb.example"]


@given(
    host=st.sampled_from(HOSTS),
    ports=st.fixed_dictionaries(
        {},
        optional={
            name: st.sampled_from(["off", "0", "9"])
            for name in ("tcp-port", "ws-port", "tls-port", "wss-port")
        },
    ),
    listen=st.lists(
        st.tuples(st.sampled_from(["tcp", "ws", "tls", "wss"]), st.sampled_from(["", *HOSTS])),
        max_size=3,
    ),
    client_ca=st.booleans(),
    others=st.lists(
        st.sampled_from(
            ["--no-page", "--no-metrics", "--no-open", "--origins=*", "--log-level=error"]
        )
    ),
    environ=st.dictionaries(st.sampled_from(["MB_OPEN", "MB_ACCESS"]), st.just("")),
)
def test_no_options_but_these_open_a_port(
    host: str,
    ports: dict[str, str],
    listen: list[tuple[str, str]],
    client_ca: bool,
    others: list[str],
    environ: dict[str, str],
) -> None:
    arguments = [f"--host={host}", "--tls-cert=c", "--tls-key=k", *others]
    arguments += [f"--{name}={value}" for name, value in ports.items()]
    for scheme, name in listen:
        arguments.append(f"--listen={scheme}://{f'[{name}]' if ':' in name else name}:0")
    if client_ca:
        arguments.append("--tls-client-ca=ca")
    try:
        options = options_from(arguments, environ)
    except Failure:
        assume(False)  # they conflict
    exposed = False
    for url in urls(options):
        found = re.fullmatch(r"(\w+)://\[?([^\]/]*?)\]?:\d+", url)
        assert found is not None
        scheme, name = found.groups()
        local = name == "localhost" or (name != "mb.example" and ip_address(name).is_loopback)
        exposed |= not local and not (client_ca and scheme in ("tls", "wss"))
    assert (refusal(arguments, environ) is not None) is exposed


# Transports of other packages


class Sockets:
    """Listens on sockets of another family."""

    def __init__(self, family: int) -> None:
        self.family = family

    def address(self, url: Any) -> SocketAddress:
        return SocketAddress(self.family, url.path)

    def listen(self, url: Any) -> socket.socket:
        raise NotImplementedError

    def release(self, url: Any) -> None:
        raise NotImplementedError


class Links:
    """A transport that is not a byte stream; nobody but its author knows where it listens."""

    scheme = "links"
    secure = True


def with_transport(transport: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plugins = installed_plugins()
    original = plugins.transport
    monkeypatch.setattr(
        plugins,
        "transport",
        lambda scheme: transport if scheme == transport.scheme else original(scheme),
    )


@pytest.mark.parametrize(
    ("url", "local"),
    [
        ("links://127.0.0.1:1", True),
        ("links://localhost", True),
        ("links://192.0.2.1:1", False),
        ("links://name", False),
        ("links://", False),
        ("links:///path", False),
    ],
)
def test_a_transport_without_a_byte_stream_is_judged_by_its_host(
    url: str, local: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_transport(Links(), monkeypatch)
    assert (refusal([f"--listen={url}"]) is None) is local
    # The broker gives it no TLS context, so nothing asks for certificates.
    files = ["--tls-cert=c", "--tls-key=k", "--tls-client-ca=ca"]
    assert (refusal([f"--listen={url}", *files]) is None) is local
    assert refusal([f"--listen={url}", "--open"]) is None


@pytest.mark.parametrize(
    ("family", "url", "local"),
    [
        (socket.AF_UNIX, "other:///run/mb.sock", True),
        (socket.AF_INET6, "other:///run/mb.sock", False),
        (socket.AF_INET, "other://192.0.2.1:1", False),
        (socket.AF_INET, "other://127.0.0.1:1", True),
    ],
)
def test_sockets_are_local_if_their_family_is(
    family: int, url: str, local: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    tcp = installed_plugins().transport("tcp")
    assert isinstance(tcp, WireTransport)
    made = WireTransport("other", tcp.client, tcp.server, sockets=Sockets(family))
    with_transport(made, monkeypatch)
    assert (refusal([f"--listen={url}"]) is None) is local


# As an operator sees it


@pytest.fixture
def access(tmp_path: Path) -> Path:
    path = tmp_path / "access.toml"
    path.write_text(
        '[roles.all]\npublish = ["#"]\n[[users]]\nname = "station"\nroles = ["all"]\n'
        f'token_sha256 = "{token_digest("mb_station")}"\n'
    )
    path.chmod(0o600)
    return path


@pytest.fixture
def tls(tmp_path: Path) -> list[str]:
    """A certificate on a TLS port; the CA of clients is in `ca.pem`."""
    ca = trustme.CA()
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    server = ca.issue_cert("localhost", "127.0.0.1")
    server.private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    files = [f"--tls-cert={tmp_path / 'server.pem'}", f"--tls-key={tmp_path / 'server.pem'}"]
    return ["--tcp-port=off", "--ws-port=off", "--tls-port=0", *files]


def test_it_does_not_start_and_says_why(mb: Any) -> None:
    ended = mb.process("serve", "--host=0.0.0.0", "--tcp-port=0", "--ws-port=0")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == (
        "mb serve: tcp://0.0.0.0:0 and ws://0.0.0.0:0 would be open to everyone who can reach "
        f"them: add {ACCESS}, or {ONLY_TLS}, or {OPEN}\n"
    )


@pytest.mark.anyio
async def test_with_open_everyone_may_do_everything(mb: Any) -> None:
    arguments = ["--host=0.0.0.0", "--tcp-port=0", "--ws-port=off", "--open"]
    with anyio.fail_after(30), mb.started("serve", *arguments) as process:
        url = process.stdout.readline().strip().replace("0.0.0.0", "127.0.0.1")
        async with MessageBrokerClient(url) as client:
            await client.request("system.service.list", {})
        process.send_signal(signal.SIGTERM)
        _, err = await anyio.to_thread.run_sync(process.communicate)
        assert "WARNING" not in err


@pytest.mark.anyio
async def test_with_an_access_file_it_starts_and_strangers_get_nothing(
    mb: Any, access: Path
) -> None:
    arguments = ["--host=0.0.0.0", "--tcp-port=0", "--ws-port=off", f"--access={access}"]
    with anyio.fail_after(30), mb.started("serve", *arguments) as process:
        url = process.stdout.readline().strip().replace("0.0.0.0", "127.0.0.1")
        ended = await anyio.to_thread.run_sync(lambda: mb("services", "--url", url))
        assert "UNAUTHORIZED" in ended.stderr
        async with MessageBrokerClient(url, token="mb_station") as client:
            assert client.user == "station"


def log_line(process: subprocess.Popen[str], text: str) -> str:
    assert process.stderr is not None
    for line in process.stderr:
        if text in line:
            return line
    raise AssertionError(f"the log ended without {text!r}")


def test_sighup_does_not_open_a_port_by_removing_the_cas_of_clients(
    mb: Any, tls: list[str], tmp_path: Path
) -> None:
    file = tmp_path / "mb.toml"
    with_ca = f"tls_client_ca = '{tmp_path / 'ca.pem'}'\n"
    file.write_text(f"{with_ca}host = '0.0.0.0'\n")
    with mb.started("serve", *tls, f"--config={file}") as process:
        url = process.stdout.readline().strip().replace("0.0.0.0", "127.0.0.1")

        def without_certificate() -> str:
            return str(mb("ping", "-n1", "--url", url, "--cafile", str(tmp_path / "ca.pem")).stderr)

        # Also when the file says that the broker is for this machine: it needs a restart to be.
        for text in ("host = '0.0.0.0'\n", "host = '127.0.0.1'\n", ""):
            file.write_text(text)
            process.send_signal(signal.SIGHUP)
            line = log_line(process, "SIGHUP")
            assert "ERROR SIGHUP: nothing was reloaded, and the broker continues as before" in line
            assert "tls://0.0.0.0:0 would be open to everyone who can reach it" in line
            assert "asks for a client certificate" in without_certificate()
        file.write_text(f"{with_ca}host = '127.0.0.1'\n")
        process.send_signal(signal.SIGHUP)
        assert "INFO SIGHUP: reloaded certificates" in log_line(process, "SIGHUP")
        assert "restart the broker to apply host" in log_line(process, "SIGHUP")
        file.write_text("host = '0.0.0.0'\nopen = true\n")
        process.send_signal(signal.SIGHUP)
        assert "INFO SIGHUP: reloaded certificates" in log_line(process, "SIGHUP")
        assert without_certificate() == ""


def test_sighup_reads_the_access_file_again(mb: Any, access: Path) -> None:
    arguments = ["--tcp-port=0", "--ws-port=off", f"--access={access}"]
    old = access.read_text()
    with mb.started("serve", *arguments) as process:
        url = process.stdout.readline().strip()

        def user() -> object:
            return json.loads(mb("whoami", "--url", url, MB_TOKEN="mb_station").stdout)["user"]

        access.write_text("[anonymous\n")
        process.send_signal(signal.SIGHUP)
        line = log_line(process, "SIGHUP")
        assert "ERROR SIGHUP: nothing was reloaded, and the broker continues as before: " in line
        assert f"access file {access}: is not valid TOML: " in line
        assert user() == "station"
        access.write_text(old.replace('"station"', '"oslo"'))
        process.send_signal(signal.SIGHUP)
        line = log_line(process, "SIGHUP")
        assert line.endswith(f"INFO SIGHUP: reloaded access file {access} and log_level info\n")
        assert user() == "oslo"


def test_sighup_says_now_that_the_broker_would_not_start_again(mb: Any, tmp_path: Path) -> None:
    file = tmp_path / "mb.toml"
    file.write_text("")
    with mb.started("serve", "--tcp-port=0", "--ws-port=off", f"--config={file}") as process:
        process.stdout.readline()
        file.write_text("host = '0.0.0.0'\nlog_level = 'debug'\n")
        process.send_signal(signal.SIGHUP)
        line = log_line(process, "SIGHUP")
        assert "nothing was reloaded" in line
        assert f"would be open to everyone who can reach it: add {ACCESS}" in line
