"""`mb serve --check`: what would apply, for operators; an invalid configuration is one line."""

from __future__ import annotations

import shutil
import signal
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme

from mb_broker.access import token_digest

needs_openssl = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="openssl is not installed"
)
NO_FILE = ["No access file", "  Clients that can connect may do everything."]
OPEN = ["--host=0.0.0.0", "--open"]
ACCESS = f"""
[roles.weather]
respond = ["weather.current"]
publish = ["weather.#", "alarm.+"]
[roles.operator]
system = ["message", "log"]
[roles.empty]

[[users]]
name = "oslo-station"
token_sha256 = "{token_digest("mb_station")}"
roles = ["weather"]
max_priority = 10
max_connections = 3
[[users]]
name = "Zo\u00eb \\"7\\""
token_sha256 = "{token_digest("mb_zoe")}"
roles = ["weather", "operator"]
"""


@pytest.fixture
def access(tmp_path: Path) -> Path:
    path = tmp_path / "access.toml"
    path.write_text(ACCESS, encoding="utf-8")
    path.chmod(0o600)
    return path


class Files:
    """A CA and certificates of the broker, in files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ca = trustme.CA()
        self.client_ca = self["ca.pem"]
        self.ca.cert_pem.write_to_path(self.client_ca)

    def __getitem__(self, name: str) -> str:
        return str(self.folder / name)

    def arguments(self, *names: str, **options: Any) -> list[str]:
        """The options for TLS ports with a new certificate."""
        made = self.ca.issue_cert(*(names or ("localhost", "127.0.0.1")), **options)
        made.private_key_pem.write_to_path(self["server.key"])
        Path(self["server.pem"]).write_bytes(b"".join(pem.bytes() for pem in made.cert_chain_pems))
        return [
            *("--tcp-port=off", "--ws-port=off", "--tls-port=8444"),
            *(f"--tls-cert={self['server.pem']}", f"--tls-key={self['server.key']}"),
        ]


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def checked(mb: Any, *arguments: str, **environ: str) -> list[list[str]]:
    """The sections that are printed."""
    done = mb("serve", "--check", *arguments, **environ)
    assert (done.returncode, done.stderr) == (0, "")
    return [section.splitlines() for section in done.stdout.removesuffix("\n").split("\n\n")]


def warnings(sections: list[list[str]]) -> list[str]:
    *_, section, end = sections
    if end == ["Valid, without warnings"]:
        return []
    heading, *found = section
    assert heading == "Warnings"
    assert end == [f"Valid, with {len(found)} warning{'s'[: len(found) > 1]}"]
    return [line.removeprefix("  - ") for line in found]


# Who could connect, and where


def test_by_default_it_is_for_this_machine(mb: Any) -> None:
    assert checked(mb) == [
        [
            "Listens on",
            "  tcp://127.0.0.1:8081  everyone on this machine",
            "  ws://127.0.0.1:8080   everyone on this machine",
        ],
        NO_FILE,
        ["Valid, without warnings"],
    ]


def test_an_open_broker_is_a_warning_for_each_port(mb: Any) -> None:
    sections = checked(mb, *OPEN, "--listen=ws://[::]:1/?token=hunter22,tcp://")
    assert sections[0] == [
        "Listens on",
        "  ws://[::]:1/?***  everyone who can reach it",
        "  tcp://0.0.0.0     everyone who can reach it",
    ]
    assert warnings(sections) == [
        "everyone who can reach ws://[::]:1/?*** may do everything (--open)",
        "everyone who can reach tcp://0.0.0.0 may do everything (--open)",
    ]


def test_users_roles_and_limits_are_listed(mb: Any, access: Path) -> None:
    listening, users, end = checked(mb, f"--access={access}", "--ws-port=off")
    assert listening == ["Listens on", "  tcp://127.0.0.1:8081  users on this machine"]
    assert users == [
        f"Access file {access}",
        "  Users",
        "    oslo-station  token  role weather             max_priority 10, max_connections 3",
        '    Zo\u00eb "7"       token  roles weather, operator',
        "  Anonymous clients",
        "    rejected",
        "  Roles",
        "    weather   respond  weather.current",
        "              publish  weather.#, alarm.+",
        "    operator  system   message, log",
        "    empty     nothing",
    ]
    assert end == ["Valid, without warnings"]


def test_so_are_anonymous_clients(mb: Any, access: Path) -> None:
    with access.open("a") as file:
        file.write('[anonymous]\nroles = ["operator", "empty"]\n')
    listening, users, *_ = checked(mb, f"--access={access}", "--ws-port=off")
    assert listening[1].endswith("  users and anonymous clients on this machine")
    assert users[users.index("  Anonymous clients") + 1] == "    roles operator, empty"
    access.write_text("[anonymous]\nroles = []\n")
    listening, users, *_ = checked(mb, f"--access={access}", "--ws-port=off")
    assert listening[1].endswith("  anonymous clients on this machine")
    assert users == [f"Access file {access}", "  Anonymous clients", "    no roles"]


def test_a_user_without_roles_is_a_warning(mb: Any, access: Path) -> None:
    access.write_text(ACCESS.replace('roles = ["weather"]', "roles = []"), encoding="utf-8")
    sections = checked(mb, f"--access={access}")
    assert warnings(sections) == ["the user 'oslo-station' has no roles, so it may do nothing"]


def test_a_user_known_by_a_certificate_that_no_port_asks_for_is_a_warning(
    mb: Any, access: Path, files: Files
) -> None:
    certified = ACCESS.replace(
        f'token_sha256 = "{token_digest("mb_zoe")}"', 'certificate = "CN=zo\\u00eb"'
    )
    access.write_text(certified, encoding="utf-8")
    arguments = [f"--access={access}", *files.arguments()]
    sections = checked(mb, *arguments)
    users = next(section for section in sections if section[0].startswith("Access file"))
    assert '    Zo\u00eb "7"       certificate CN=zo\u00eb  roles weather, operator' in users
    assert warnings(sections) == [
        (
            "the user 'Zo\u00eb \"7\"' can't authenticate: it is known by its certificate, and "
            "without tls_client_ca the broker asks for none"
        )
    ]
    assert warnings(checked(mb, *arguments, f"--tls-client-ca={files.client_ca}")) == []


def test_tokens_on_a_network_without_tls_are_a_warning(mb: Any, access: Path, files: Files) -> None:
    arguments = [*files.arguments(), "--tcp-port=1", "--listen=ws://127.0.0.1:2"]
    sections = checked(mb, "--host=0.0.0.0", f"--access={access}", *arguments)
    assert sections[0] == [
        "Listens on",
        "  tcp://0.0.0.0:1     users",
        "  tls://0.0.0.0:8444  users",
        "  ws://127.0.0.1:2    users on this machine",
    ]
    assert warnings(sections) == [
        (
            "tcp://0.0.0.0:1 is not encrypted, so tokens can be read in transit: use tls_port or "
            "wss_port unless you trust the network"
        )
    ]


@pytest.mark.parametrize(
    ("host", "with_users", "who"),
    [
        ("0.0.0.0", False, "everyone with a client certificate"),
        ("0.0.0.0", True, "users with a client certificate"),
        ("127.0.0.1", False, "everyone with a client certificate on this machine"),
    ],
)
def test_client_certificates_are_shown(
    host: str, with_users: bool, who: str, mb: Any, access: Path, files: Files
) -> None:
    arguments = [f"--host={host}", *files.arguments(), f"--tls-client-ca={files.client_ca}"]
    arguments += [f"--access={access}"] if with_users else []
    listening, _, authorities, *_ = checked(mb, *arguments)
    assert listening == ["Listens on", f"  tls://{host}:8444  {who}"]
    assert authorities[0] == f"Clients need a certificate from {files.client_ca}"
    assert authorities[1].startswith("  trustme")
    assert "  until 3000-01-01, for " in authorities[1]


# Certificates


def test_names_and_expiry_of_the_certificate_are_shown(mb: Any, files: Files) -> None:
    until = datetime.now(UTC) + timedelta(days=90, minutes=1)
    arguments = files.arguments("mb.example", "*.mb.example", "::1", not_after=until)
    _, certificate, *_, end = checked(mb, *arguments)
    assert certificate == [
        f"Certificate {files['server.pem']}",
        "  names  mb.example, *.mb.example, 0:0:0:0:0:0:0:1",
        f"  valid  until {until:%Y-%m-%d}, for 90 days",
    ]
    assert end == ["Valid, without warnings"]


@pytest.mark.parametrize(
    ("begin", "end", "shown", "text"),
    [
        (-9, -2, ": expired", "it has expired: renew it"),
        (-9, 0, ", for 0 days", "it expires in less than 1 day: renew it"),
        (-9, 13, ", for 13 days", "it expires in less than 14 days: renew it"),
        (-9, 14, ", for 14 days", None),
        (2, 90, ", for 90 days", "it is not valid yet: "),
    ],
)
def test_a_certificate_that_is_not_valid_or_not_for_long_is_a_warning(
    begin: int, end: int, shown: str, text: str | None, mb: Any, files: Files
) -> None:
    now = datetime.now(UTC) + timedelta(minutes=1)
    begins, ends = now + timedelta(days=begin), now + timedelta(days=end)
    sections = checked(mb, *files.arguments(not_before=begins, not_after=ends))
    assert sections[1][-1] == f"  valid  until {ends:%Y-%m-%d}{shown}"
    found = warnings(sections)
    assert len(found) == (text is not None)
    for warning in found:
        assert warning.startswith(f"tls_cert {files['server.pem']}: {text}")


def self_signed(name: str, files: Files, days: int, *more: str) -> None:
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", str(days)),
            *("-subj", f"/CN={name}", "-keyout", files[f"{name}.key"]),
            *("-out", files[f"{name}.pem"], *more),
        ],
        check=True,
        capture_output=True,
    )


@needs_openssl
def test_so_is_a_ca_of_clients(mb: Any, files: Files) -> None:
    self_signed("old", files, 10)
    both = Path(files["both.pem"])
    both.write_text(Path(files["old.pem"]).read_text() + Path(files.client_ca).read_text())
    sections = checked(mb, *files.arguments(), f"--tls-client-ca={both}")
    assert "  CN=old" in {line.partition("  until ")[0].rstrip() for line in sections[2]}
    assert warnings(sections) == [
        f"tls_client_ca {both}: CN=old: it expires in less than 10 days: renew it"
    ]


@needs_openssl
@pytest.mark.parametrize(
    ("extension", "section", "text"),
    [
        ("subjectKeyIdentifier=hash", "  names  none", "it has no names (subjectAltName)"),
        (
            "extendedKeyUsage=clientAuth",
            "  invalid  unsuitable certificate purpose",
            "unsuitable certificate purpose",
        ),
    ],
)
def test_a_certificate_that_clients_will_refuse_is_a_warning(
    extension: str, section: str, text: str, mb: Any, files: Files
) -> None:
    arguments = files.arguments()
    self_signed("server", files, 90, "-addext", extension)
    sections = checked(mb, *arguments)
    assert sections[1][1] == section
    assert warnings(sections) == [f"tls_cert {files['server.pem']}: clients will refuse it: {text}"]


def test_what_it_shows_is_what_a_client_gets(mb: Any, files: Files) -> None:
    arguments = files.arguments("localhost", "127.0.0.1", "mb.example")
    names = checked(mb, *arguments)[1][1].removeprefix("  names  ").split(", ")
    with mb.started("serve", *arguments, "--tls-port=0") as process:
        port = int(process.stdout.readline().rpartition(":")[2])
        context = ssl.create_default_context(cafile=files.client_ca)
        with (
            socket.create_connection(("127.0.0.1", port)) as sock,
            context.wrap_socket(sock, server_hostname="mb.example") as secured,
        ):
            certificate = secured.getpeercert()
    assert certificate is not None
    assert names == [value for _, value in certificate["subjectAltName"]]


# What is invalid


@pytest.mark.parametrize(
    "arguments",
    [
        ["--host=0.0.0.0"],
        ["--max-payload=0"],
        ["--listen=/tmp/mb.sock"],
        ["--origins=nonsense"],
        ["--access=absent"],
        ["--drop-after=10", "--heartbeat-after=10"],
        ["--tls-port=1", "--tls-cert=absent", "--tls-key=absent"],
        ["--listen=tls://127.0.0.1"],
        ["--config=absent"],
        ["--tcp-port=off", "--ws-port=off"],
    ],
)
def test_what_keeps_a_broker_from_starting_is_the_same_line_as_then(
    arguments: list[str], mb: Any
) -> None:
    done = mb("serve", "--check", *arguments)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done == mb("serve", *arguments)


def test_a_scheme_that_is_not_installed_is_invalid(mb: Any) -> None:
    done = mb("serve", "--check", "--listen=amqp://127.0.0.1")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("mb serve: no installed plugin speaks amqp:// (installed: ")


def test_two_urls_with_one_port_are_invalid(mb: Any) -> None:
    done = mb("serve", "--check", "--tcp-port=1", "--listen=tcp://[::1]:1,ws://127.0.0.1:1")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "mb serve: tcp://127.0.0.1:1 and ws://127.0.0.1:1 are the same port: change one of them\n"
    )
    checked(mb, "--tcp-port=0", "--ws-port=0")


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ('"weather", "operator"', '"wether"', "unknown role 'wether'; did you mean 'weather'?"),
        ("[roles.empty]", "[roles.empty", "is not valid TOML: "),
        ("max_connections = 3", "max_connections = 0", "invalid max_connections 0: must be 1 or"),
        (token_digest("mb_zoe"), token_digest("mb_station"), "has the same token as "),
        ("[roles.empty]", "[authenticators.absent]\n[roles.empty]", "[authenticators.absent]: "),
        (token_digest("mb_zoe"), "mb_zoe", "token_sha256 has 6 characters that are not a SHA-256"),
    ],
)
def test_a_mistake_in_the_access_file_is_one_line_without_secrets(
    old: str, new: str, text: str, mb: Any, access: Path
) -> None:
    access.write_text(ACCESS.replace(old, new), encoding="utf-8")
    done = mb("serve", "--check", f"--access={access}")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith(f"mb serve: access file {access}: ")
    assert text in done.stderr
    for secret in ("mb_zoe", token_digest("mb_zoe"), token_digest("mb_station")):
        assert secret not in done.stderr


# As an option


@contextmanager
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        yield taken.getsockname()[1]


def test_it_opens_no_port(mb: Any) -> None:
    with taken_port() as port:
        checked(mb, f"--tcp-port={port}", "--host=127.0.0.1")
        # Nor does it ask what a name is.
        checked(mb, "--host=name.invalid", "--open")


@pytest.mark.parametrize("where", ["environment", "file"])
def test_every_source_counts(where: str, mb: Any, access: Path, tmp_path: Path) -> None:
    environ = {"MB_HOST": "0.0.0.0", "MB_ACCESS": str(access), "MB_WS_PORT": "off"}
    if where == "file":
        file = tmp_path / "mb.toml"
        values = {name.removeprefix("MB_").lower(): value for name, value in environ.items()}
        file.write_text("".join(f"{name} = '{value}'\n" for name, value in values.items()))
        environ = {"MB_CONFIG": str(file)}
    listening, users, *_ = checked(mb, **environ)
    assert listening == ["Listens on", "  tcp://0.0.0.0:8081  users"]
    assert users[0] == f"Access file {access}"


def test_a_misspelled_variable_is_a_warning(mb: Any) -> None:
    assert warnings(checked(mb, MB_TCP_PROT="1", MB_TOKEN="mb_x")) == [
        "MB_TCP_PROT in the environment is not an option; did you mean MB_TCP_PORT?"
    ]


def test_names_from_files_stay_in_their_lines(mb: Any, access: Path) -> None:
    with access.open("a") as file:
        file.write('["roles"."a\\nb\\u001b[31m"]\npublish = ["a"]\n')
    (line,) = (line for line in checked(mb, f"--access={access}")[1] if "a\\n" in line)
    assert line == "    a\\nb\\x1b[31m  publish  a"


def test_the_options_can_be_shown_as_well(mb: Any) -> None:
    sections = checked(mb, "--show-config")
    assert sections[0][0] == 'host = "127.0.0.1"  # default'
    assert sections[1][0] == "Listens on"


def test_it_is_no_option_of_the_environment_or_the_file(mb: Any, tmp_path: Path) -> None:
    mb.environ |= {"MB_CHECK": "true"}
    with mb.started("serve", "--tcp-port=0", "--ws-port=off") as process:
        assert process.stdout.readline().startswith("tcp://")
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    file = tmp_path / "mb.toml"
    file.write_text("check = true\n")
    done = mb("serve", f"--config={file}")
    assert done.returncode == 2
    assert "unknown option 'check'" in done.stderr
