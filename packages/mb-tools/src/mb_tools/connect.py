"""The broker that a command connects to: its URL, TLS files, and client."""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click
from click.core import ParameterSource

from mb_core import ForbiddenError, MessageBrokerClient, SlowConsumer, installed_plugins
from mb_core.url import parse_url, redacted

from .errors import Failure, Status, note
from .output import Output

if TYPE_CHECKING:
    import ssl

__all__ = [
    "Endpoint",
    "connected",
    "endpoint_options",
    "following",
    "hint",
    "list_all",
    "list_services",
]

F = TypeVar("F", bound=Callable[..., Any])

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s]*")

# Entries of a list per request.
_PAGE = 1_000

_MAX_DESCRIPTION = 1024


class Endpoint(NamedTuple):
    """A broker's URL, the TLS context for it (None for the default one), and the user's token."""

    url: str
    ssl_context: ssl.SSLContext | None = None
    token: str | None = None

    def __repr__(self) -> str:
        return f"Endpoint({self.shown!r})"  # the token is a secret

    @property
    def shown(self) -> str:
        """The URL to show: without its query, which may contain a secret."""
        return redacted(self.url)


def endpoint_options(function: F) -> F:
    """Add --url, --token-file, --cafile, --cert and --key; the command gets them as `endpoint`.

    The command fails if a file is invalid, or is given as an option but the URL's transport has no
    TLS. TLS files set in the environment are ignored for URLs without TLS.
    """

    @wraps(function)
    def command(
        *args: Any,
        url: str,
        token_file: str | None,
        cafile: str | None,
        cert: str | None,
        key: str | None,
        **given: Any,
    ) -> Any:
        context = _ssl_context(url, cafile=cafile, cert=cert, key=key)
        token = read_token(token_file) if token_file is not None else _token_in_environment()
        return function(*args, endpoint=Endpoint(url, context, token), **given)

    for name, text in (
        ("key", "Private key of --cert, in PEM; may be in the same file as the certificate."),
        ("cert", "Certificate that identifies this client, in PEM."),
        ("cafile", "Certificates to trust instead of the system's, in PEM."),
    ):
        option = click.option(
            f"--{name}", envvar=f"MB_{name.upper()}", show_envvar=True, metavar="FILE", help=text
        )
        command = option(command)
    token_option = click.option(
        "--token-file",
        metavar="FILE",
        help="File with the token of your user; or set MB_TOKEN to the token itself.",
    )
    command = token_option(command)
    url_option = click.option(
        "--url",
        callback=_check_url,
        default="tcp://localhost:8081",
        envvar="MB_URL",
        show_default=True,
        show_envvar=True,
        metavar="URL",
        help="URL of the broker.",
    )
    return url_option(command)  # type: ignore[return-value]


def connected(endpoint: Endpoint) -> MessageBrokerClient:
    """Return a client for one or a few calls, to be entered as a context manager."""
    return MessageBrokerClient(
        endpoint.url, ssl_context=endpoint.ssl_context, token=endpoint.token, reconnect=False
    )


@asynccontextmanager
async def following(
    endpoint: Endpoint, name: str, description: str, *, reconnect: bool = False
) -> AsyncIterator[MessageBrokerClient]:
    """Connect for as long as a command runs: register by name, and report problems on stderr.

    With `reconnect`, wait for the broker, and reconnect when the connection is lost.
    """
    client = MessageBrokerClient(
        endpoint.url,
        ssl_context=endpoint.ssl_context,
        token=endpoint.token,
        reconnect=reconnect,
        retry_connect=reconnect,
    )
    client.on_error(_note_error)
    if reconnect:
        client.on_connect(lambda: note(f"connected to {endpoint.shown}"))
        client.on_disconnect(lambda: note(f"the connection to {endpoint.shown} was lost"))
    async with client:
        await client.register_service(name, description[:_MAX_DESCRIPTION])
        yield client


async def list_all(client: MessageBrokerClient, topic: str, key: str) -> list[Any]:
    """Return the complete list under `key`, requesting it page by page.

    Brokers that do not support pages return all of it at once.
    """
    entries: list[Any] = []
    page: dict[str, Any] = {"limit": _PAGE}
    while True:
        answer = (await client.request(topic, page)).payload
        if not isinstance(answer, dict):
            return entries
        entries += answer.get(key) or ()
        if not answer.get("next"):
            return entries
        page = {"limit": _PAGE, "after": answer["next"]}


async def list_services(client: MessageBrokerClient) -> list[Any]:
    """Return the services, to show their names; none if the user may not see them."""
    try:
        return await list_all(client, "system.service.list", "services")
    except ForbiddenError:
        return []


def hint(output: Output, text: str) -> None:
    """Explain on a terminal why nothing is printed yet."""
    if output.people and sys.stderr.isatty():
        note(f"{text}; Ctrl-C to stop")


def read_token(file: str) -> str:
    """Return the token in a file; raises Failure. Warns if others can read the file."""
    try:
        with Path(file).open(encoding="utf-8") as opened:
            mode = os.fstat(opened.fileno()).st_mode
            text = opened.read()
    except OSError as error:
        raise Failure(f"--token-file {file}: {error.strerror}", Status.USAGE) from error
    except UnicodeDecodeError as error:
        raise Failure(f"--token-file {file}: it is not a text file", Status.USAGE) from error
    token = _only_token(text, f"--token-file {file}")
    if os.name == "posix" and mode & (stat.S_IRWXG | stat.S_IRWXO):
        note(f"other users of this machine can read {file}: chmod 600 {file}")
    return token


def _token_in_environment() -> str | None:
    text = os.environ.get("MB_TOKEN")
    return _only_token(text, "MB_TOKEN") if text else None


def _only_token(text: str, source: str) -> str:
    """Return the token that is all of `text`; raises Failure, which does not show it."""
    token = text.strip()
    if not token or not token.isprintable():
        what = "is empty" if not token else "contains more than a token"
        raise Failure(f"{source}: it {what}", Status.USAGE)
    return token


def _check_url(ctx: click.Context, param: click.Parameter, value: str) -> str:
    if _URL.fullmatch(value):
        return value
    raise click.BadParameter(
        f"{value!r} is not a URL: expected scheme://host:port, for example tcp://localhost:8081"
    )


def _ssl_context(url: str, **files: str | None) -> ssl.SSLContext | None:
    """Return the TLS context for these files, or None to use the default; raises Failure."""
    given = {name: file for name, file in files.items() if file is not None}
    if not given:
        return None
    source = click.get_current_context().get_parameter_source
    on_command_line = [name for name in given if source(name) is ParameterSource.COMMANDLINE]

    def written(name: str) -> str:
        return f"--{name}" if name in on_command_line else f"MB_{name.upper()}"

    from mb_core.link.tls import client_ssl_context

    from .tls_files import load_certificate, trusting

    scheme = parse_url(url).scheme
    if not getattr(installed_plugins().transport(scheme), "secure", False):
        for name in on_command_line:
            text = f"--{name} is for tls:// and wss://, but {scheme}:// is not encrypted"
            raise Failure(text, Status.USAGE)
        return None
    if "key" in given and "cert" not in given:
        text = f"{written('key')} needs --cert: the certificate that it belongs to"
        raise Failure(text, Status.USAGE)
    if "cafile" in given:
        context = trusting(written("cafile"), given["cafile"])
    else:
        context = client_ssl_context()
    if "cert" in given:
        key = "key" if "key" in given else "cert"
        certificate = written("cert"), given["cert"]
        load_certificate(context, certificate, (written(key), given[key]))
    return context


def _note_error(error: Exception) -> None:
    if isinstance(error, SlowConsumer):
        note(
            f"dropped messages of {error.topic} so far: {error.dropped} "
            "(they arrive faster than the output is read)"
        )
    else:
        note(str(error))
