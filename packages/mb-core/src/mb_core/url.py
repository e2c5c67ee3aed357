"""The URLs of brokers.

What follows `?` in a URL may be a secret, such as a token for a WebSocket, and so may what precedes
`@`. Neither is ever shown: `str`, `repr` and errors have `***` in their place.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import SplitResult, unquote_plus, urlsplit

import msgspec

from .errors import ConnectError, LocalProtocolError

__all__ = ["URL", "broker_url", "parse_url", "redacted", "without_secrets"]

_HIDDEN = re.compile("[?#]")
_IPV6 = re.compile("[0-9A-Fa-f]*:[0-9A-Fa-f.:]*:.*")
# Shorter values in a query are not secrets, and may be part of ordinary words.
_SECRET = 6
_LONGEST_REST = 4_096


class URL(msgspec.Struct, frozen=True):
    """A URL, `scheme://host:port/path`, in its parts.

    `str(url)` hides the query; use it for logs and errors. `url.full` is the URL to connect to.

    Attributes:
        scheme: Such as `tcp`.
        host: A name or an address, without brackets.
        port: None if the URL has none.
        path: Everything after the host and port, including the query.
    """

    scheme: str
    host: str
    port: int | None
    path: str

    @property
    def full(self) -> str:
        """The whole URL with its query, which may be a secret."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port is None else f":{self.port}"
        return f"{self.scheme}://{host}{port}{self.path}"

    @property
    def query(self) -> str:
        """What follows `?`; an empty string if there is none."""
        return self.path.partition("?")[2]

    def hidden_in(self, text: str) -> str:
        """Return `text` with `***` instead of this URL's query and the values in it.

        Use it before you show text from the other side: the text may repeat the query, and may be
        cut off in the middle of the query.
        """
        query = self.query
        if len(query) < _SECRET:
            return text
        values = [query, *(part.partition("=")[2] for part in re.split("[&;]", query))]
        values += [unquote_plus(each) for each in values]
        return without_secrets(text, values)

    def __str__(self) -> str:
        path, mark, _ = self.path.partition("?")
        return URL(self.scheme, self.host, self.port, path).full + ("?***" if mark else "")

    def __repr__(self) -> str:
        return f"URL({str(self)!r})"

    def __rich_repr__(self) -> list[tuple[str, str]]:
        return [("url", str(self))]


def broker_url(target: str, port: int | None, use_tls: bool, scheme: str) -> URL:
    """The URL for connect's arguments: a URL, or a host and a port with a default scheme.

    Raises ConnectError for a host and a port that lead nowhere.
    """
    if "://" in target:
        if port is not None or use_tls:
            raise ConnectError(
                f"pass neither port nor use_tls with a URL, which has both: {redacted(target)!r} "
                "(wss:// and tls:// are the encrypted schemes)",
                final=True,
            )
        return parse_url(target)
    if not isinstance(port, int):
        raise ConnectError(
            f"the host {redacted(target)!r} needs a port: pass one, or a URL such as tcp://localhost:8081",
            final=True,
        )
    host = f"[{target}]" if ":" in target and not target.startswith("[") else target
    url = parse_url(f"{scheme}://{host}:{port}")
    if url.port != port or url.path:
        raise ConnectError(
            f"invalid host {redacted(target)!r}: expected a name or an address, nothing more",
            final=True,
        )
    return url


def redacted(text: str) -> str:
    """Return a URL, even an invalid one, without its user name, password and query."""
    start, slashes, rest = text.partition("//") if "//" in text else ("", "", text)
    before = _HIDDEN.split(rest, maxsplit=1)[0]
    behind = rest[len(before) :]
    if "@" in behind:
        # It may belong to a password or to the query, so their ends are unknown.
        return f"{start}{slashes}***"
    host = before.rpartition("@")[2]
    shown = before if host == before else f"***@{host}"
    return f"{start}{slashes}{shown}" + ("?***" if len(behind) > 1 else "")


def parse_url(text: str) -> URL:
    """Parse a URL.

    Raises:
        ConnectError: The URL is invalid; the error shows a valid one.
        LocalProtocolError: `text` is not a string.
    """
    if not isinstance(text, str):
        raise LocalProtocolError(
            f"invalid URL {redacted(repr(text))}: expected a string such as 'tcp://localhost:8081'"
        )
    shown = redacted(text)
    try:
        parts: SplitResult = urlsplit(text)
    except ValueError as error:
        # Its text quotes part of the URL, possibly of a password.
        why = "" if "@" in text else f": {error}"
        raise ConnectError(f"invalid URL {shown!r}{why}", final=True) from None
    if not parts.scheme or not text.lstrip().lower().startswith(f"{parts.scheme}://"):
        raise ConnectError(
            f"invalid URL {shown!r}: expected scheme://host:port, for example tcp://localhost:8081",
            final=True,
        )
    if parts.username or parts.password:
        raise ConnectError(
            f"invalid URL {shown!r}: a broker's URL takes no user name and no password", final=True
        )
    try:
        port = parts.port
    except ValueError:
        hint = ""
        if _IPV6.fullmatch(parts.netloc.rpartition("@")[2]):
            hint = " (an IPv6 address needs brackets, as in tcp://[::1]:8081)"
        raise ConnectError(
            f"invalid URL {shown!r}: the port must be a number from 0 to 65535{hint}", final=True
        ) from None
    host = parts.hostname or ""
    if any(character.isspace() or not character.isprintable() for character in host):
        raise ConnectError(f"invalid URL {shown!r}: invalid host {host!r}", final=True)
    path = parts.path + (f"?{parts.query}" if parts.query else "")
    return URL(parts.scheme, host, port, path)


def without_secrets(text: str, values: Iterable[str]) -> str:
    """Return `text` with `***` instead of these values, even if the text ends within one.

    Short values are not replaced, because they may be part of ordinary words.
    """
    secrets = sorted({each for each in values if len(each) >= _SECRET}, key=len, reverse=True)
    for secret in secrets:
        text = text.replace(secret, "***")
    for secret in secrets:
        for length in range(min(len(secret), len(text), _LONGEST_REST), _SECRET - 1, -1):
            if text.endswith(secret[:length]):
                return text[:-length] + "***"
    return text
