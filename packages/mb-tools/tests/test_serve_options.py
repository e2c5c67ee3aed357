"""What `mb serve` makes of command line, environment and file, without serving."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from mb_tools.commands.serve import command
from mb_tools.errors import Failure, Status
from mb_tools.serve.addresses import urls
from mb_tools.serve.environment import ignored_variables, misspelled_variables
from mb_tools.serve.options import ServeOptions, options_of, serve_table, show

NAMES = [option.name for option in serve_table()]
FILES = {"tls_port": 0, "tls_cert": "cert.pem", "tls_key": "key.pem"}


class Configured(NamedTuple):
    """What `mb serve` makes of its options, and where each that was given is from."""

    options: ServeOptions
    sources: dict[str, str]
    shown: str


def configure(given: Mapping[str, Any], file: str | None, environ: Mapping[str, str]) -> Configured:
    """Read what was `given` on the command line, the environment, and a TOML file."""
    arguments = [] if file is None else [f"--config={file}"]
    for name, value in given.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            arguments.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            values = (value or [""]) if isinstance(value, list) else [value]
            arguments += [f"--{flag}={each}" for each in values]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "environ", dict(environ))
        # As below `mb`: some versions of click keep the option that the first context made.
        ctx = command.make_context("serve", arguments, help_option_names=["-h", "--help"])
    options = options_of(ctx)
    shown = show(ctx, options)
    lines = [line.partition("  # ") for line in shown.splitlines()]
    sources = {line.partition(" ")[0]: source for line, _, source in lines if source}
    return Configured(
        options, {name: each for name, each in sources.items() if each != "default"}, shown
    )


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "mb.toml"


def failure(given: dict[str, Any] | None = None, file: Path | None = None, **environ: str) -> str:
    """The line with which this is refused."""
    with pytest.raises(Failure) as caught:
        configure(given or {}, str(file) if file else None, environ)
    assert caught.value.status is Status.USAGE
    return caught.value.message


def test_the_command_line_comes_before_the_environment_and_that_before_the_file(
    file: Path,
) -> None:
    file.write_text("tcp_port = 1\nws_port = 1\nmax_payload = 1\n")
    environ = {"MB_TCP_PORT": "2", "MB_WS_PORT": "2", "MB_MAX_CONNECTIONS": "2"}
    made = configure({"tcp_port": "3", "close_timeout": "3"}, str(file), environ)
    names = (
        "tcp_port",
        "ws_port",
        "max_payload",
        "max_connections",
        "close_timeout",
        "request_timeout",
    )
    assert {name: (getattr(made.options, name), made.sources.get(name)) for name in names} == {
        "tcp_port": (3, "command line"),
        "ws_port": (2, "environment"),
        "max_payload": (1, str(file)),
        "max_connections": (2, "environment"),
        "close_timeout": (3, "command line"),
        "request_timeout": (5000, None),
    }


def test_every_option_can_come_from_every_source(file: Path) -> None:
    environ = {
        f"MB_{option.name.upper()}": "tcp://a, tcp://b"
        if option.kind == list[str]
        else str(option.default)
        for option in serve_table()
        if option.default is not None
    }
    made = configure({}, None, environ)
    two = ["tcp://a", "tcp://b"]
    assert made.options.origins == made.options.listen == two
    given = {name: getattr(made.options, name) for name in made.sources}
    assert given == {o.name: o.default for o in serve_table() if o.name in given} | {
        "origins": two,
        "listen": two,
    }
    file.write_text(made.shown)
    assert configure({}, str(file), {}).options == made.options
    assert configure(given, None, {}).options == made.options


def test_an_empty_variable_is_as_good_as_none(file: Path) -> None:
    file.write_text("max_payload = 7\norigins = ['a']\n")
    made = configure({}, str(file), {"MB_MAX_PAYLOAD": "", "MB_ORIGINS": "", "MB_TCP_PORT": ""})
    assert (made.options.max_payload, made.options.origins) == (7, ["a"])
    assert made.options.tcp_port == 8081


@pytest.mark.parametrize(
    ("name", "text", "wanted"),
    [
        ("max_payload", "abc", "a whole number of bytes, 1 or more"),
        ("max_payload", "0", "a whole number of bytes, 1 or more"),
        ("max_payload", "1.5", "a whole number of bytes, 1 or more"),
        ("max_payload", "9" * 5000, "a whole number of bytes, 1 or more"),
        ("max_connections", "-1", "a whole number, 1 or more"),
        ("drain_timeout", "-1", "a whole number of milliseconds from 0 to 86400000"),
        ("close_timeout", "86400001", "a whole number of milliseconds from 1 to 86400000"),
        ("page", "maybe", "true or false"),
        ("tcp_port", "65536", "a whole number from 0 to 65535 or off"),
        ("tls_port", "none", "a whole number from 0 to 65535 or off"),
        ("log_level", "loud", "debug or info or warning or error"),
        ("log_format", "xml", "text or json"),
        (
            "host",
            "127.0.0.1:80",
            "a host name or an IP address, without a port and without brackets",
        ),
    ],
)
def test_a_bad_value_is_told_as_it_was_written_and_what_it_must_be(
    name: str, text: str, wanted: str, file: Path
) -> None:
    if name != "page":  # --page and --no-page have no value
        assert failure({name: text}) == f"--{name.replace('_', '-')} {text!r}: must be {wanted}"
    variable = f"MB_{name.upper()}"
    assert failure(**{variable: text}) == f"{variable} {text!r}: must be {wanted}"
    file.write_text(f"{name} = '{text}'\n")
    assert failure(file=file) == f"{file}: {name} {text!r}: must be {wanted}"


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("origins = 'a'", "origins 'a': must be a list of strings"),
        ("origins = [1]", "origins [1]: must be a list of strings"),
        ("host = 3", "host 3: must be a host name or an IP address, without a port and without"),
        ("tls_cert = ''", "tls_cert '': must be the name of a file"),
        ("max_payload = true", "max_payload true: must be a whole number of bytes, 1 or more"),
        ('max_payload = "9"', "max_payload '9': must be a whole number of bytes, 1 or more"),
        ("page = 1", "page 1: must be true or false"),
        ('page = "false"', "page 'false': must be true or false"),
        ("max_payload = 2020-01-01", "max_payload 2020-01-01: must be a whole"),
        ("[broker]\nmax_payload = 1", "unknown section [broker]: options go at the top level"),
        ("max_payloda = 1", "unknown option 'max_payloda'; did you mean 'max_payload'?"),
        ("tcp-port = 1", "unknown option 'tcp-port'; did you mean 'tcp_port'?"),
        ("zzz = 1", "unknown option 'zzz'; options are: max_connections, max_payload, "),
    ],
)
def test_what_only_a_file_can_say_wrong(line: str, told: str, file: Path) -> None:
    file.write_text(line)
    assert failure(file=file).startswith(f"{file}: {told}")


def test_a_file_that_cant_be_read_or_is_no_toml_is_told(file: Path) -> None:
    assert failure(file=file) == f"can't read {file}: No such file or directory"
    assert failure(file=file.parent) == f"can't read {file.parent}: Is a directory"
    file.write_text("max_payload =")
    assert failure(file=file).startswith(f"{file} is not valid TOML: Invalid value (at ")
    file.write_text("listen = " + "[" * 5_000)
    assert failure(file=file) == f"{file} is nested too deep"
    file.write_bytes(b"host = '\xff'")
    assert failure(file=file) == f"{file} is not valid TOML: it is not UTF-8"


def test_a_file_is_utf_8_with_or_without_a_mark(file: Path) -> None:
    file.write_bytes(b"\xef\xbb\xbf" + "origins = ['\u00e9']".encode())
    assert configure({}, str(file), {}).options.origins == ["\u00e9"]


def test_a_variable_that_is_no_utf_8_is_told() -> None:
    assert failure(MB_TLS_CERT="\udcff") == r"MB_TLS_CERT '\udcff': must be in UTF-8"
    assert failure(MB_ORIGINS="\udcff") == r"MB_ORIGINS ['\udcff']: must be in UTF-8"


def test_a_variable_that_is_nearly_an_option_is_a_warning() -> None:
    environ = {"MB_TCP_PROT": "1", "MB_URL": "tcp://a", "MB_CONFIG": "", "MB_X": "", "TCP_PORT": ""}
    assert list(misspelled_variables(NAMES, environ)) == [
        "MB_TCP_PROT in the environment is not an option; did you mean MB_TCP_PORT?",
    ]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (
            {"tcp_port": "off", "ws_port": "off"},
            (
                "tcp_port, ws_port, tls_port, wss_port are all off, and listen is empty: "
                "nothing to listen on"
            ),
        ),
        (
            {"drop_after": 10, "heartbeat_after": 10},
            (
                "drop_after (10 ms) must be longer than heartbeat_after (10 ms): "
                "clients need time to answer a heartbeat request"
            ),
        ),
        ({"tls_port": 0}, "tls_port needs tls_cert and tls_key"),
        ({"wss_port": 0, "tls_key": "k"}, "wss_port needs tls_cert"),
        ({"tls_key": "k"}, "tls_key needs tls_port or wss_port, but both are off"),
        ({"tls_client_ca": "k"}, "tls_client_ca needs tls_port or wss_port, but both are off"),
    ],
)
def test_options_that_dont_go_together_are_told(given: dict[str, Any], told: str) -> None:
    assert failure(given) == told


@pytest.mark.parametrize(
    "host", ["localhost", "my_host-1.lan", "0.0.0.0", "::", "::1", "fe80::1%eth0"]
)
def test_hosts_are_names_and_addresses(host: str) -> None:
    configure({"host": host}, None, {})


def test_ports_that_are_off_have_no_url() -> None:
    options = configure(
        {"host": "::1", "tcp_port": "off", "ws_port": 1, "wss_port": 2} | FILES | {"tls_port": 3},
        None,
        {},
    ).options
    assert urls(options) == ["ws://[::1]:1", "tls://[::1]:3", "wss://[::1]:2"]


def test_urls_to_listen_on_take_the_place_of_ports_that_are_not_set() -> None:
    listen = ["unix:///tmp/mb.sock", "tcp://127.0.0.1:0"]
    assert urls(configure({"listen": listen}, None, {}).options) == listen
    options = configure({"listen": listen}, None, {"MB_WS_PORT": "8080"}).options
    assert urls(options) == ["ws://127.0.0.1:8080", *listen]
    options = configure({}, None, {"MB_LISTEN": "unix:///tmp/mb.sock, tcp://127.0.0.1:0"}).options
    assert urls(options) == listen


def test_a_url_to_listen_on_that_names_no_host_is_of_the_option_host() -> None:
    listen = ["tcp://", "tcp://:0", "ws://:8080/path", "tcp://0.0.0.0:1", "memory://"]
    behind = ["tcp://0.0.0.0:1", "memory://"]
    at_home = ["tcp://127.0.0.1", "tcp://127.0.0.1:0", "ws://127.0.0.1:8080/path", *behind]
    assert urls(configure({"listen": listen}, None, {}).options) == at_home
    made = configure({}, None, {"MB_LISTEN": ",".join(listen), "MB_HOST": "::1"})
    assert urls(made.options) == [url.replace("127.0.0.1", "[::1]") for url in at_home]


def test_no_url_to_listen_on_is_an_error_where_one_was_to_be_given(file: Path) -> None:
    told = "is empty: expected a URL, for example tcp://127.0.0.1:8081"
    assert failure({"listen": []}) == f"--listen {told}"
    assert failure(MB_LISTEN=",") == f"MB_LISTEN {told}"
    file.write_text("listen = []\n")
    assert urls(configure({}, str(file), {}).options) == urls(configure({}, None, {}).options)


def test_a_url_that_is_none_is_told_as_it_was_written(file: Path) -> None:
    told = "invalid URL '/tmp/mb.sock': expected scheme://host:port, for example tcp://"
    assert failure({"listen": ["/tmp/mb.sock"]}).startswith(f"--listen: {told}")
    assert failure(MB_LISTEN="/tmp/mb.sock").startswith(f"MB_LISTEN: {told}")
    file.write_text("listen = ['tcp://127.0.0.1', '/tmp/mb.sock']\n")
    assert failure(file=file).startswith(f"{file}: listen: {told}")


def test_a_certificate_may_be_for_a_url_to_listen_on() -> None:
    configure({"tls_cert": "c", "tls_key": "k", "listen": ["tls://127.0.0.1"]}, None, {})


def test_what_is_shown_is_toml_that_shows_itself(file: Path) -> None:
    given = FILES | {"origins": ['"\u2028\x7f\\', "\U0001f600"], "page": False, "tcp_port": "off"}
    given |= {"listen": ["tcp://127.0.0.1:0"]}
    made = configure(given, None, {})
    file.write_text(made.shown)
    assert tomllib.loads(made.shown).items() >= given.items()
    again = configure({}, str(file), {})
    assert again.options == made.options
    assert again.shown == configure({}, str(file), {}).shown
    assert "# tls_client_ca is not set" in again.shown.splitlines()


def test_each_line_that_is_shown_has_its_source(tmp_path: Path) -> None:
    file = tmp_path / "a\nb"
    file.write_text("ws_port = 1\n")
    made = configure({"page": False}, str(file), {"MB_TCP_PORT": "1"})
    lines = made.shown.splitlines()
    assert {"page = false  # command line", "tcp_port = 1  # environment"} <= {*lines}
    assert {'host = "127.0.0.1"  # default', rf"ws_port = 1  # {tmp_path}/a\nb"} <= {*lines}


@pytest.mark.parametrize("service", ["MB_TCP", "MB_WS", "MB_TLS", "MB_WSS", "MB"])
def test_variables_that_kubernetes_sets_for_a_service_are_ignored(service: str) -> None:
    link = "tcp://10.0.0.5:8081"
    environ = {
        f"{service}_SERVICE_HOST": "10.0.0.5",
        f"{service}_SERVICE_PORT": "8081",
        f"{service}_SERVICE_PORT_TCP": "8081",
        f"{service}_PORT": link,
        f"{service}_PORT_8081_TCP": link,
        f"{service}_PORT_8081_TCP_PROTO": "tcp",
        f"{service}_PORT_8081_TCP_PORT": "8081",
        f"{service}_PORT_8081_TCP_ADDR": "10.0.0.5",
    }
    made = configure({}, None, environ)
    assert made.options == configure({}, None, {}).options
    assert made.sources == {}
    assert list(misspelled_variables(NAMES, environ)) == []
    text = f"{service}_PORT={link} in the environment is ignored: Kubernetes sets it for a Service"
    assert list(ignored_variables(NAMES, environ)) == ([text] if service != "MB" else [])


def test_a_port_in_the_environment_is_still_checked() -> None:
    with pytest.raises(Failure, match="MB_TCP_PORT 'tcp:8081': must be a whole number"):
        configure({}, None, {"MB_TCP_PORT": "tcp:8081"})
