"""The broker's HTTP responses: pages, for requests that are not handshakes."""

from __future__ import annotations

from email.utils import formatdate
from http import HTTPStatus

from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from mb_core.wire import Page, Site

__all__ = ["page_response", "request_target", "text_response", "wants_websocket"]

_TEXT = "text/plain; charset=utf-8"
_ALLOW = "GET, HEAD, OPTIONS"


def wants_websocket(request: Request) -> bool:
    """Whether this is meant as a handshake, if only by what a proxy has left of it.

    An offer to speak HTTP/2 is not one.
    """
    headers = request.headers
    upgrades = any("websocket" in value.lower() for value in headers.get_all("Upgrade"))
    return upgrades or "Sec-WebSocket-Key" in headers


def request_target(request: Request) -> tuple[str | None, str]:
    """The host and the path of a request's target; the host is in it if a proxy is addressed."""
    target = request.path.partition("?")[0]
    scheme, absolute, rest = target.partition("://")
    if not absolute or scheme.lower() not in ("http", "https"):
        return None, target
    host, slash, path = rest.partition("/")
    return host, slash + path or "/"


def page_response(method: str, path: str, site: Site) -> Response:
    """The answer to a request for the page at `path`."""
    if method == "OPTIONS" and path == "*":
        return _response(Page(b"", "", status=HTTPStatus.NO_CONTENT), Allow=_ALLOW)
    page = site.get(path)
    if page is None:
        page = Page(f"there is no page at {path}\n".encode(), _TEXT, status=HTTPStatus.NOT_FOUND)
    elif method == "OPTIONS":
        return _response(Page(b"", "", status=HTTPStatus.NO_CONTENT), Allow=_ALLOW)
    elif method not in ("GET", "HEAD"):
        text = f"{method} is not allowed on {path}, only {_ALLOW}\n".encode()
        page = Page(text, _TEXT, status=HTTPStatus.METHOD_NOT_ALLOWED)
        return _response(page, Allow=_ALLOW)
    response = _response(page)
    if method == "HEAD":
        response.body = b""
    return response


def text_response(status: HTTPStatus, text: str) -> Response:
    return _response(Page(f"{text}\n".encode(), _TEXT, status=status))


def _response(page: Page, **more: str) -> Response:
    headers = Headers({"Date": formatdate(usegmt=True), "Connection": "close"})
    if page.status != HTTPStatus.NO_CONTENT:
        headers["Content-Type"] = page.content_type
        headers["Content-Length"] = str(len(page.body))
        headers["X-Content-Type-Options"] = "nosniff"
    headers.update({**page.headers, **more})
    return Response(page.status, HTTPStatus(page.status).phrase, headers, page.body)
