"""What `mb serve` is told: on the command line, in the environment, in a file; in that order."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, time
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from mb_broker.options import BrokerSettings, Option, about, complete_options, option_table
from mb_core import ConnectError, LocalProtocolError
from mb_core.url import parse_url

from .errors import Failure, Status
from .text import one_line

__all__ = [
    "OFF",
    "PORTS",
    "Configuration",
    "ServeOptions",
    "configure",
    "serve_table",
    "show",
    "split",
]

PREFIX = "MB_"

OFF: Literal["off"] = "off"
"""In place of a port: there is none."""

PORTS: tuple[Literal["tcp_port", "ws_port", "tls_port", "wss_port"], ...] = (
    "tcp_port",
    "ws_port",
    "tls_port",
    "wss_port",
)

# A name, an IPv4 address, or an IPv6 address with two colons at least.
_HOST = r"^([\w.-]+|[0-9A-Fa-f]*:[0-9A-Fa-f]*:[0-9A-Fa-f:.]*(%\w+)?)$"

Port = Annotated[int, Meta(ge=0, le=65_535)] | Literal["off"]
File = Annotated[str, Meta(min_length=1)]


def _described(text: str, unit: str = "", **extra: str) -> Meta:
    return Meta(description=text, extra={"unit": unit} | extra)


def _port(text: str) -> Meta:
    return _described(text, "port")


def _file(text: str) -> Meta:
    return _described(text, "file", form="the name of a file")


class ServeOptions(BrokerSettings, kw_only=True):
    """The options of `mb serve`: the broker's own, where it listens, and how it logs."""

    host: Annotated[
        str,
        Meta(pattern=_HOST),
        _described(
            "Address to listen on; 0.0.0.0 or ::, all of this machine.",
            form="a host name or an IP address, without a port and without brackets",
        ),
    ] = "127.0.0.1"
    tcp_port: Annotated[Port, _port("Port of tcp://; 0, a free one; off, none.")] = 8081
    ws_port: Annotated[Port, _port("Port of ws:// and http://; 0, a free one; off, none.")] = 8080
    tls_port: Annotated[Port, _port("Port of tls://, usually 8444.")] = OFF
    wss_port: Annotated[Port, _port("Port of wss:// and https://, usually 8443.")] = OFF
    listen: Annotated[
        list[str],
        _described(
            "URLs to listen on, of any installed transport; ports that are not set are off then.",
            "url",
        ),
    ] = msgspec.field(default_factory=list)
    tls_cert: Annotated[File | None, _file("The broker's certificate and its chain, PEM.")] = None
    tls_key: Annotated[File | None, _file("The certificate's key, PEM, without a password.")] = None
    tls_client_ca: Annotated[
        File | None,
        _file("CA certificates, PEM: clients have to show a certificate of one of them."),
    ] = None
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], about("Minimum level to log.")
    ] = "info"
    log_format: Annotated[
        Literal["text", "json"], about("Lines for people, or JSON for machines.")
    ] = "text"


@dataclass(frozen=True, slots=True)
class Configuration:
    """What holds, of each option where it comes from, and what is odd about the environment."""

    options: ServeOptions
    sources: Mapping[str, str]
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def serve_table() -> list[Option]:
    """All options of `mb serve`: where it listens, the broker's own, how it logs."""
    broker_s = {option.name for option in option_table()}

    def place(option: Option) -> int:
        return 1 if option.name in broker_s else 2 if option.name.startswith("log_") else 0

    return sorted(option_table(ServeOptions), key=place)


def configure(
    given: Mapping[str, Any], file: str | None, environ: Mapping[str, str] = os.environ
) -> Configuration:
    """Put together what was `given` on the command line, the environment, and a TOML file.

    Raises Failure that names the option as it is written where it was given.
    """
    options: dict[str, Any] = {}
    sources: dict[str, str] = {}
    if file is not None:
        options |= _read(file)
        sources |= dict.fromkeys(options, file)
        for name, value in options.items():
            _check(name, value, f"{file}: {name}", lax=False)  # TOML has types of its own
    links = _service_links(environ)
    environ = {name: value for name, value in environ.items() if name not in links}
    for name, text in _from_environment(environ):
        _check(name, text, _variable(name))
        options[name], sources[name] = text, "environment"
    for name, text in given.items():
        _check(name, text, f"--{name.replace('_', '-')}")
        options[name], sources[name] = text, "command line"
    try:
        complete = complete_options(options, ServeOptions, lax=True)
    except LocalProtocolError as error:  # each is valid alone
        raise Failure(str(error), Status.USAGE) from error
    if complete.listen:
        for port in PORTS:
            if port not in options:
                setattr(complete, port, OFF)
    _check_together(complete)
    notes = (
        f"{name}={links[name]} in the environment is ignored: Kubernetes sets it for a Service"
        for name in map(_variable, PORTS)
        if name in links
    )
    return Configuration(complete, sources, tuple(_misspelled(environ)), tuple(notes))


def show(configuration: Configuration) -> str:
    """The configuration as a TOML file, with the source of each line."""
    lines = []
    for option in serve_table():
        value = getattr(configuration.options, option.name)
        source = one_line(configuration.sources.get(option.name, "default"))
        if value is None:
            lines.append(f"# {option.name} is not set")
        else:
            # JSON's texts, numbers, switches and lists are TOML's as well, but for one character.
            written = msgspec.json.encode(value).decode().replace("\x7f", "\\u007f")
            lines.append(f"{option.name} = {written}  # {source}")
    return "\n".join(lines)


def split(kind: Any, text: str) -> Any:
    """A text that was given for an option of this type: lists are joined by commas."""
    return [part.strip() for part in text.split(",") if part.strip()] if kind == list[str] else text


def _read(file: str) -> dict[str, Any]:
    try:
        values = tomllib.loads(Path(file).read_text("utf-8-sig"))
    except OSError as error:
        raise Failure(f"can't read {file}: {error.strerror}", Status.USAGE) from error
    except UnicodeDecodeError as error:
        raise Failure(f"{file} is not valid TOML: it is not in UTF-8", Status.USAGE) from error
    except tomllib.TOMLDecodeError as error:
        raise Failure(f"{file} is not valid TOML: {error}", Status.USAGE) from error
    for name, value in values.items():
        if isinstance(value, dict):
            text = f"{file}: there is no section [{name}]; options stand at the top of the file"
            raise Failure(text, Status.USAGE)
    return values


def _variable(name: str) -> str:
    return f"{PREFIX}{name.upper()}"


def _from_environment(environ: Mapping[str, str]) -> Iterator[tuple[str, Any]]:
    """The options in the environment; an empty one is as good as none."""
    for option in serve_table():
        text = environ.get(_variable(option.name), "")
        if text:
            yield option.name, split(option.kind, text)


def _service_links(environ: Mapping[str, str]) -> dict[str, str]:
    """Variables that Kubernetes sets for a Service called mb, mb-tcp and the like."""
    return {
        name: value
        for name, value in environ.items()
        if name.startswith(PREFIX)
        and (_LINK_NAME.search(name) or (name.endswith("_PORT") and _LINK_VALUE.fullmatch(value)))
    }


_LINK_NAME = re.compile(
    r"_SERVICE_(HOST|PORT(_\w+)?)$|_PORT_\d+_(TCP|UDP|SCTP)(_PROTO|_PORT|_ADDR)?$"
)
_LINK_VALUE = re.compile(r"(tcp|udp|sctp)://\S+")


def _misspelled(environ: Mapping[str, str]) -> Iterator[str]:
    """Variables that look like options, and are none: there are others' under our prefix."""
    options = [_variable(option.name) for option in serve_table()]
    known = {*options, "MB_CONFIG", "MB_URL", "MB_CAFILE", "MB_CERT", "MB_KEY"}
    for name in sorted(environ):
        near = get_close_matches(name, options, 1, 0.8) if name.startswith(PREFIX) else []
        if near and name not in known:
            yield f"{name} in the environment is not an option; did you mean {near[0]}?"


def _check(name: str, value: Any, written: str, *, lax: bool = True) -> None:
    """Complain of one option in the words in which it was given."""
    try:
        complete_options({name: value}, ServeOptions, lax=lax, together=False)
        msgspec.json.encode(value)
        if name == "listen" and lax and not value:  # in a file, an empty list is meant
            raise Failure(
                f"{written} is empty: expected a URL, for example tcp://127.0.0.1:8081",
                Status.USAGE,
            )
        for url in value if name == "listen" else ():
            parse_url(url)
    except TypeError as error:  # only in a file: the other sources are read by the table
        raise Failure(f"{written.rpartition(': ')[0]}: {error}", Status.USAGE) from error
    except LocalProtocolError as error:
        text = str(error).removeprefix(f"invalid {name} {value!r}")
        raise Failure(f"{written} {_shown(value)}{text}", Status.USAGE) from error
    except ConnectError as error:
        raise Failure(f"{written}: {error}", Status.USAGE) from error
    except UnicodeEncodeError as error:
        raise Failure(f"{written} {value!r}: must be in UTF-8", Status.USAGE) from error


def _shown(value: object) -> str:
    """A value as TOML has it, roughly: what Python shows of truth values and dates is not that."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, date | time) else repr(value)


def _check_together(options: ServeOptions) -> None:
    """What no option has wrong by itself."""
    text = None
    if all(getattr(options, port) == OFF for port in PORTS) and not options.listen:
        text = f"{', '.join(PORTS)} are all off, and listen is empty: nothing to listen on"
    for port in ("tls_port", "wss_port"):
        missing = [name for name in ("tls_cert", "tls_key") if _is_unset(options, name)]
        if not _is_unset(options, port) and missing:
            text = f"{port} needs {' and '.join(missing)}"
    # Whether a URL is of a transport within TLS is known when its plugin is there.
    if all(_is_unset(options, port) for port in ("tls_port", "wss_port")) and not options.listen:
        for name in ("tls_cert", "tls_key", "tls_client_ca"):
            if not _is_unset(options, name):
                text = f"{name} is for tls_port or wss_port, and both are off"
    if text is not None:
        raise Failure(text, Status.USAGE)


def _is_unset(options: ServeOptions, name: str) -> bool:
    return getattr(options, name) in (None, OFF)
