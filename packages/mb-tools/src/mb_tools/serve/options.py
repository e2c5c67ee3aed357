"""The options of `mb serve`: on the command line, in the environment, and in a TOML file."""

from __future__ import annotations

import tomllib
from datetime import date, time
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import click
import msgspec
from click.core import ParameterSource
from msgspec import Meta

from mb_broker.options import BrokerSettings, Option, about, complete_options, option_table
from mb_core import ConnectError, LocalProtocolError
from mb_core.url import parse_url

from ..errors import Failure, Status
from ..text import one_line
from .environment import is_service_link, variable_of

__all__ = [
    "OFF",
    "PORTS",
    "ServeOption",
    "ServeOptions",
    "options_of",
    "read_file",
    "serve_table",
    "show",
]

OFF: Literal["off"] = "off"
"""Instead of a port: do not listen."""

PORTS: tuple[Literal["tcp_port", "ws_port", "tls_port", "wss_port"], ...] = (
    "tcp_port",
    "ws_port",
    "tls_port",
    "wss_port",
)

# A name, an IPv4 address, or an IPv6 address with at least two colons.
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
            "Address to listen on; 0.0.0.0 or :: for all addresses of this machine.",
            form="a host name or an IP address, without a port and without brackets",
        ),
    ] = "127.0.0.1"
    tcp_port: Annotated[Port, _port("Port of tcp://; 0 picks a free one, off disables it.")] = 8081
    ws_port: Annotated[
        Port, _port("Port of ws:// and http://; 0 picks a free one, off disables it.")
    ] = 8080
    tls_port: Annotated[Port, _port("Port of tls://, usually 8444.")] = OFF
    wss_port: Annotated[Port, _port("Port of wss:// and https://, usually 8443.")] = OFF
    listen: Annotated[
        list[str],
        _described(
            "URLs to listen on, of any installed transport; turns off ports that are not set.",
            "url",
        ),
    ] = msgspec.field(default_factory=list)
    tls_cert: Annotated[File | None, _file("The broker's certificate and its chain, in PEM.")] = (
        None
    )
    tls_key: Annotated[
        File | None, _file("The certificate's private key, in PEM, without a password.")
    ] = None
    tls_client_ca: Annotated[
        File | None,
        _file("CA certificates, in PEM; clients must present a certificate issued by one of them."),
    ] = None
    open: Annotated[
        bool,
        about(
            "Allow addresses that others can reach without an access file or client certificates."
        ),
    ] = False
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], about("Minimum level to log.")
    ] = "info"
    log_format: Annotated[
        Literal["text", "json"], about("Format of the log: text for people, json for programs.")
    ] = "text"


def serve_table() -> list[Option]:
    """Return all options of `mb serve`: where it listens, those of the broker, how it logs."""
    of_broker = {option.name for option in option_table()}

    def rank(option: Option) -> int:
        return 1 if option.name in of_broker else 2 if option.name.startswith("log_") else 0

    return sorted(option_table(ServeOptions), key=rank)


class ServeOption(click.Option):
    """A click option for a field of ServeOptions; the field's type checks values from any
    source."""

    def __init__(self, option: Option) -> None:
        flag = option.name.replace("_", "-")
        default = _default_text(option)
        text = f"{option.about}  [default: {default}]" if default else option.about
        if option.kind is bool:
            super().__init__([f"--{flag}/--no-{flag}"], default=None, help=text)
            return
        is_list = option.kind == list[str]
        super().__init__(
            [f"--{flag}"],
            type=_CommaSeparated() if is_list else click.UNPROCESSED,
            multiple=is_list,
            metavar=_metavar(option),
            help=text,
        )

    def resolve_envvar_value(self, ctx: click.Context) -> str | None:
        value = super().resolve_envvar_value(ctx)
        return None if is_service_link(variable_of(self.name), value or "") else value

    def type_cast_value(self, ctx: click.Context, value: Any) -> Any:
        source = ctx.get_parameter_source(self.name or "")
        if source in (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT):
            if self.multiple:
                parts = (part.strip() for text in value for part in text.split(","))
                value = list(filter(None, parts))
            given_as = self.opts[0] if source is ParameterSource.COMMANDLINE else None
            _check(self.name or "", value, given_as or variable_of(self.name))
        return value


def read_file(ctx: click.Context, param: click.Parameter, file: str | None) -> str | None:
    """Use a TOML file for options that are not set elsewhere; raises Failure."""
    if not file:
        return None
    try:
        values = tomllib.loads(Path(file).read_text("utf-8-sig"))
    except OSError as error:
        raise Failure(f"can't read {file}: {error.strerror}", Status.USAGE) from error
    except UnicodeDecodeError as error:
        raise Failure(f"{file} is not valid TOML: it is not UTF-8", Status.USAGE) from error
    except tomllib.TOMLDecodeError as error:
        raise Failure(f"{file} is not valid TOML: {error}", Status.USAGE) from error
    except RecursionError as error:
        raise Failure(f"{file} is nested too deep", Status.USAGE) from error
    for name, value in values.items():
        if isinstance(value, dict):
            text = f"{file}: unknown section [{name}]: options go at the top level of the file"
            raise Failure(text, Status.USAGE)
        _check(name, value, f"{file}: {name}", lax=False)  # TOML has other types
    ctx.default_map = values
    return file


def options_of(ctx: click.Context) -> ServeOptions:
    """Return the options that click has read, which are valid each by itself, with the defaults.

    Raises Failure if they conflict.
    """
    given = {
        option.name: ctx.params[option.name]
        for option in serve_table()
        if ctx.get_parameter_source(option.name) is not ParameterSource.DEFAULT
    }
    try:
        options = complete_options(given, ServeOptions, lax=True)
    except LocalProtocolError as error:
        raise Failure(str(error), Status.USAGE) from error
    if options.listen:
        for port in PORTS:
            if port not in given:
                setattr(options, port, OFF)
    _check_together(options)
    return options


def show(ctx: click.Context, options: ServeOptions) -> str:
    """Return the options as TOML, with the source of each line."""
    sources: dict[ParameterSource | None, str] = {
        ParameterSource.COMMANDLINE: "command line",
        ParameterSource.ENVIRONMENT: "environment",
        ParameterSource.DEFAULT_MAP: one_line(ctx.params.get("config") or ""),
    }
    lines = []
    for option in serve_table():
        value = getattr(options, option.name)
        if value is None:
            lines.append(f"# {option.name} is not set")
            continue
        source = ctx.get_parameter_source(option.name)
        # JSON's strings, numbers, booleans and lists are valid TOML, except for one character.
        written = msgspec.json.encode(value).decode().replace("\x7f", "\\u007f")
        lines.append(f"{option.name} = {written}  # {sources.get(source, 'default')}")
    return "\n".join(lines)


class _CommaSeparated(click.types.UnprocessedParamType):
    envvar_list_splitter = ","


def _default_text(option: Option) -> str:
    default = option.default
    if isinstance(default, bool):
        return option.name if default else f"no-{option.name}"
    return "" if default in (None, [], OFF) else str(default)


def _metavar(option: Option) -> str:
    if option.kind == list[str] and not option.unit:
        return "LIST"
    if get_origin(option.kind) is Literal:
        return "|".join(get_args(option.kind))
    return (option.unit or ("NUMBER" if option.kind is int else "TEXT")).upper()


def _check(name: str, value: Any, given_as: str, *, lax: bool = True) -> None:
    """Raise Failure for an invalid value; name the option as the user wrote it."""
    try:
        complete_options({name: value}, ServeOptions, lax=lax, together=False)
        msgspec.json.encode(value)
        if name == "listen" and lax and not value:  # in a file, an empty list is deliberate
            text = f"{given_as} is empty: expected a URL, for example tcp://127.0.0.1:8081"
            raise Failure(text, Status.USAGE)
        for url in value if name == "listen" else ():
            parse_url(url)
    except TypeError as error:  # an unknown name, in a file
        raise Failure(f"{given_as.rpartition(': ')[0]}: {error}", Status.USAGE) from error
    except LocalProtocolError as error:
        text = str(error).removeprefix(f"invalid {name} {value!r}")
        raise Failure(f"{given_as} {_toml(value)}{text}", Status.USAGE) from error
    except ConnectError as error:
        raise Failure(f"{given_as}: {error}", Status.USAGE) from error
    except UnicodeEncodeError as error:
        raise Failure(f"{given_as} {value!r}: must be in UTF-8", Status.USAGE) from error


def _toml(value: object) -> str:
    """Return a value roughly as TOML writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, date | time) else repr(value)


def _check_together(options: ServeOptions) -> None:
    """Raise Failure for options that are valid by themselves but conflict."""
    text = None
    tls_is_off = options.tls_port == options.wss_port == OFF
    if all(getattr(options, port) == OFF for port in PORTS) and not options.listen:
        text = f"{', '.join(PORTS)} are all off, and listen is empty: nothing to listen on"
    for port in ("tls_port", "wss_port"):
        missing = [name for name in ("tls_cert", "tls_key") if getattr(options, name) is None]
        if getattr(options, port) != OFF and missing:
            text = f"{port} needs {' and '.join(missing)}"
    # Whether a URL's transport uses TLS is known only once its plugin is loaded.
    for name in ("tls_cert", "tls_key", "tls_client_ca"):
        if tls_is_off and not options.listen and getattr(options, name) is not None:
            text = f"{name} needs tls_port or wss_port, but both are off"
    if text is not None:
        raise Failure(text, Status.USAGE)
