"""The broker that a command connects to: its URL, and the TLS files that go with it."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click
from click.core import ParameterSource

from .exits import Failure, Status
from .options import url_option

if TYPE_CHECKING:
    import ssl

__all__ = ["Endpoint", "endpoint_options"]

F = TypeVar("F", bound=Callable[..., Any])

_FILES = ("cafile", "cert", "key")


class Endpoint(NamedTuple):
    """A broker's URL, and the options of its TLS connections.

    `cafile` has the certificates to trust instead of the system's.  `cert` and `key` are the
    client's own; the key may be in the same file.  `asked_for` names those that were given on the
    command line, which must then be of use: those of the environment are for whichever URL
    needs them.
    """

    url: str
    cafile: str | None = None
    cert: str | None = None
    key: str | None = None
    asked_for: tuple[str, ...] = ()

    @property
    def shown(self) -> str:
        """The URL as it is shown: its query may be a secret."""
        from mb_core.url import redacted  # as below: `mb --help` is to be quick

        return redacted(self.url)

    def ssl_context(self) -> ssl.SSLContext | None:
        """Return the context for these files, None if the defaults are right.

        Raises Failure if a file can't be used, or the URL's transport has no TLS; PluginError if
        no installed package speaks the URL's scheme.
        """
        if self.cafile is None and self.cert is None and self.key is None:
            return None
        from mb_core import installed_plugins
        from mb_core.link.tls import client_ssl_context
        from mb_core.url import parse_url

        from .tls_files import load_certificate, trusting

        scheme = parse_url(self.url).scheme
        if not getattr(installed_plugins().transport(scheme), "secure", False):
            for name in self.asked_for:
                text = f"--{name} is for tls:// and wss://, and {scheme}:// is not encrypted"
                raise Failure(text, Status.USAGE)
            return None
        if self.cafile is None:
            context = client_ssl_context()
        else:
            context = trusting(self._option("cafile"), self.cafile)
        if self.cert is not None:
            cert = self._option("cert"), self.cert
            key = (self._option("key"), self.key) if self.key is not None else cert
            load_certificate(context, cert, key)
        elif self.key is not None:
            text = f"{self._option('key')} needs --cert: the certificate that it belongs to"
            raise Failure(text, Status.USAGE)
        return context

    def _option(self, name: str) -> str:
        """An option as it was given: on the command line, or in the environment."""
        return f"--{name}" if name in self.asked_for else f"MB_{name.upper()}"


def endpoint_options(function: F) -> F:
    """Add --url, --cafile, --cert and --key; the command gets them as `endpoint`."""

    @wraps(function)
    def command(url: str, *args: Any, **given: Any) -> Any:
        ctx = click.get_current_context()
        files = {name: given.pop(name) for name in _FILES}
        source = ctx.get_parameter_source
        asked_for = tuple(name for name in _FILES if source(name) is ParameterSource.COMMANDLINE)
        return function(*args, endpoint=Endpoint(url, **files, asked_for=asked_for), **given)

    for name, text in (
        ("key", "Private key of --cert, in PEM; may be in the same file."),
        ("cert", "Certificate that identifies this client, in PEM."),
        ("cafile", "Certificates to trust instead of the system's, in PEM."),
    ):
        option = click.option(
            f"--{name}", envvar=f"MB_{name.upper()}", show_envvar=True, metavar="FILE", help=text
        )
        command = option(command)
    return url_option(command)  # type: ignore[return-value]
