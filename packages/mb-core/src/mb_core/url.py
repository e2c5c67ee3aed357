"""The URLs of brokers."""

from __future__ import annotations

from urllib.parse import SplitResult, urlsplit

import msgspec

from .errors import ConnectError

__all__ = ["URL", "parse_url"]


class URL(msgspec.Struct, frozen=True):
    """The parts of `scheme://host:port/path`; `port` is None where the URL names none."""

    scheme: str
    host: str
    port: int | None
    path: str

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port is None else f":{self.port}"
        return f"{self.scheme}://{host}{port}{self.path}"


def parse_url(text: str) -> URL:
    """Read a URL; raises ConnectError that says what one looks like."""
    try:
        parts: SplitResult = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise ConnectError(f"invalid URL {text!r}: {error}", final=True) from error
    if not parts.scheme or not text.lstrip().lower().startswith(f"{parts.scheme}://"):
        raise ConnectError(
            f"invalid URL {text!r}: expected scheme://host:port, for example tcp://localhost:8081",
            final=True,
        )
    if parts.username or parts.password:
        raise ConnectError("a broker's URL takes no user name and no password", final=True)
    host = parts.hostname or ""
    if any(character.isspace() or not character.isprintable() for character in host):
        raise ConnectError(f"invalid URL {text!r}: there is no host {host!r}", final=True)
    path = parts.path + (f"?{parts.query}" if parts.query else "")
    return URL(parts.scheme, host, port, path)
