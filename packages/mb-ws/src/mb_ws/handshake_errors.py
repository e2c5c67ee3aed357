"""Explain why a WebSocket handshake failed, and what the user can do."""

from __future__ import annotations

import re
from http import HTTPStatus
from urllib.parse import urljoin

from websockets.http11 import Response

from mb_core.errors import ConnectError
from mb_core.url import URL, redacted

__all__ = ["is_foreign", "refusal_error"]

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
    HTTPStatus.UNAUTHORIZED: " (it asks for credentials, and a broker's URL carries none)",
    HTTPStatus.NOT_FOUND: " (is the URL's path right?)",
    HTTPStatus.PROXY_AUTHENTICATION_REQUIRED: " (a proxy in between asks for credentials)",
    HTTPStatus.BAD_GATEWAY: " (a proxy in between can't reach the broker)",
    HTTPStatus.SERVICE_UNAVAILABLE: " (it is not ready, or has no room)",
    HTTPStatus.GATEWAY_TIMEOUT: " (a proxy in between can't reach the broker)",
}
_REDIRECTS = frozenset({300, 301, 302, 303, 307, 308})
_PERMANENT = frozenset({301, 308})


def is_foreign(start: bytes) -> bool:
    """Return whether a stream that begins like this is not HTTP."""
    return len(start) > 4 and not _HTTP_START.match(start)


def refusal_error(response: Response, fault: Exception, url: URL | None) -> ConnectError:
    """Return why a valid HTTP answer to our handshake does not open a connection."""
    status = response.status_code
    server = "the server" if url is None else str(url)
    if status == HTTPStatus.SWITCHING_PROTOCOLS:
        why = str(fault) if url is None else url.hidden_in(str(fault))
        return ConnectError(
            f"{server} answered the WebSocket handshake incorrectly (HTTP status 101): {why}"
        )
    if status in _REDIRECTS and "Location" in response.headers:
        return _redirect(response, server, url)
    if status == HTTPStatus.OK:
        text = f"{server} answered the WebSocket handshake with a page (HTTP status 200)"
        return ConnectError(
            f"{text}: is an MB broker listening there? (or does a proxy drop the Upgrade header?)"
        )
    text = f"{server} refused the WebSocket handshake with HTTP status {status}"
    text += _HINTS.get(status, "")
    if said := _explanation(response, url):
        text += f": {said}"
    return ConnectError(text, final=status in _DENIALS)


def _explanation(response: Response, url: URL | None) -> str:
    """What a refusal says in its body; nothing if that is a page for browsers, as proxies send."""
    body = response.body or b""
    if b"<html" in body[:_BODY_START].lower():
        return ""
    text = body[:_BODY_START].decode(errors="backslashreplace").strip()
    return (text if url is None else url.hidden_in(text))[:200]


def _redirect(response: Response, server: str, url: URL | None) -> ConnectError:
    """Redirects are not followed: the program would say one address and use another."""
    location = response.headers.get_all("Location")[0]
    if url is not None:
        location = urljoin(re.sub("^ws", "http", url.full), location)
    shown = redacted(location)
    instead = re.sub("^http", "ws", shown)
    status = response.status_code
    return ConnectError(
        f"{server} redirects to {shown} (HTTP status {status}), and redirects are not followed: "
        f"if a broker is there, connect to {instead}",
        final=status in _PERMANENT,
    )
