"""Explain why a WebSocket handshake failed, and what the user can do."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import NamedTuple
from urllib.parse import urljoin

from websockets.exceptions import InvalidMessage
from websockets.http11 import Response

from mb_core.errors import ConnectError
from mb_core.url import URL, redacted, without_secrets

from .bearer import bearer_headers

__all__ = ["Secrets", "fault_text", "is_foreign", "refusal_error"]

_HTTP_START = re.compile(rb"HTTP/|(?!PROXY |PRI )[A-Za-z]+ ")
# The bytes of a response's body that are checked for HTML, and shown if there is none.
_BODY_START = 1024
# Statuses that are the client's fault, so that retrying does not help.
_DENIALS = frozenset(
    {
        HTTPStatus.UNAUTHORIZED,
        HTTPStatus.FORBIDDEN,
        HTTPStatus.PROXY_AUTHENTICATION_REQUIRED,
    }
)
# Hints for statuses.
_HINTS: dict[int, str] = {
    HTTPStatus.UNAUTHORIZED: " (it asks for credentials: pass a token, if it accepts one)",
    HTTPStatus.NOT_FOUND: " (is the URL's path right?)",
    HTTPStatus.PROXY_AUTHENTICATION_REQUIRED: " (a proxy in between asks for credentials)",
    HTTPStatus.BAD_GATEWAY: " (a proxy in between can't reach the broker)",
    HTTPStatus.SERVICE_UNAVAILABLE: " (it is not ready, or has no room)",
    HTTPStatus.GATEWAY_TIMEOUT: " (a proxy in between can't reach the broker)",
}
_TOKEN_REFUSED = " (it, or a proxy in between, does not accept the token)"
_TOKEN_NOT_SENT = " (the token has characters that can't be sent in the Authorization header)"
_REDIRECTS = frozenset({300, 301, 302, 303, 307, 308})
_PERMANENT = frozenset({301, 308})


class Secrets(NamedTuple):
    """What a client has sent that must not be shown, even if the server repeats it."""

    url: URL
    token: str | None

    def hidden_in(self, text: str) -> str:
        """Return `text` with `***` instead of the token and the query of the URL."""
        return self.url.hidden_in(without_secrets(text, [self.token or ""]))

    def __repr__(self) -> str:
        return f"Secrets({self.url})"


def fault_text(fault: Exception, *, of_client: bool) -> str:
    """Return what is wrong with a handshake that is not valid HTTP or not for WebSocket."""
    if not isinstance(fault, InvalidMessage):
        return str(fault)
    if isinstance(fault.__cause__, EOFError):  # a line that ends without a carriage return
        return "lines must end with CR and LF"
    text = str(fault.__cause__)
    for kind in ("invalid HTTP header line", "invalid HTTP header value"):
        if of_client and text.startswith(kind):  # followed by the value, which may be a token
            return kind
    return text


def is_foreign(start: bytes) -> bool:
    """Return whether a stream that begins like this is not HTTP."""
    return len(start) > 4 and not _HTTP_START.match(start)


def refusal_error(response: Response, fault: Exception, secrets: Secrets | None) -> ConnectError:
    """Return why a valid HTTP answer to our handshake does not open a connection."""
    status = response.status_code
    server = "the server" if secrets is None else str(secrets.url)
    if status == HTTPStatus.SWITCHING_PROTOCOLS:
        why = str(fault) if secrets is None else secrets.hidden_in(str(fault))
        return ConnectError(
            f"{server} answered the WebSocket handshake incorrectly (HTTP status 101): {why}"
        )
    if status in _REDIRECTS and "Location" in response.headers:
        return _redirect(response, server, secrets)
    if status == HTTPStatus.OK:
        text = f"{server} answered the WebSocket handshake with a page (HTTP status 200)"
        return ConnectError(
            f"{text}: is an MB broker listening there? (or does a proxy drop the Upgrade header?)"
        )
    text = f"{server} refused the WebSocket handshake with HTTP status {status}"
    text += _hint(status, secrets.token if secrets is not None else None)
    if said := _explanation(response, secrets):
        text += f": {said}"
    return ConnectError(text, final=status in _DENIALS)


def _hint(status: int, token: str | None) -> str:
    if status != HTTPStatus.UNAUTHORIZED or token is None:
        return _HINTS.get(status, "")
    return _TOKEN_REFUSED if bearer_headers(token) else _TOKEN_NOT_SENT


def _explanation(response: Response, secrets: Secrets | None) -> str:
    """What a refusal says in its body; nothing if that is a page for browsers, as proxies send."""
    body = response.body or b""
    if b"<html" in body[:_BODY_START].lower():
        return ""
    text = body[:_BODY_START].decode(errors="backslashreplace").strip()
    return (text if secrets is None else secrets.hidden_in(text))[:200]


def _redirect(response: Response, server: str, secrets: Secrets | None) -> ConnectError:
    """Redirects are not followed: the program would say one address and use another."""
    location = response.headers.get_all("Location")[0]
    if secrets is not None:
        location = urljoin(re.sub("^ws", "http", secrets.url.full), location)
        location = secrets.hidden_in(location)
    shown = redacted(location)
    instead = re.sub("^http", "ws", shown)
    status = response.status_code
    return ConnectError(
        f"{server} redirects to {shown} (HTTP status {status}), and redirects are not followed: "
        f"if a broker is there, connect to {instead}",
        final=status in _PERMANENT,
    )
