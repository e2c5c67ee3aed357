"""What the broker serves over HTTP, on its WebSocket ports: the page, health and metrics."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from mb_core.codec import encode_payload
from mb_core.errors import LocalProtocolError
from mb_core.wire import Page

from . import page
from .exposition import CONTENT_TYPE, exposition
from .router import Router

__all__ = ["allowed_origins", "broker_pages"]

_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#@\s]+")
_JSON = "application/json"
_TEXT = "text/plain; charset=utf-8"


def broker_pages(
    router: Router, clock: Callable[[], float], *, with_page: bool, with_metrics: bool
) -> Callable[[str], Page | None]:
    """A function that gives the page of a path: `/`, `/health` and `/metrics`.

    `clock` is the one by which the Router is told the time.
    """

    def get(path: str) -> Page | None:
        if path == "/" and with_page:
            return _page()
        if path == "/health" and with_metrics:
            return _health(router)
        if path == "/metrics" and with_metrics:
            return _metrics(router, clock())
        return None

    return get


def allowed_origins(origins: Iterable[str]) -> frozenset[str] | None:
    """The origins as browsers send them, None for any; raises LocalProtocolError for others."""
    allowed = frozenset(origin.lower() for origin in origins)
    for origin in allowed:
        if not _ORIGIN.fullmatch(origin):
            raise LocalProtocolError(
                f"invalid origins, {origin!r}: an origin is scheme://host or scheme://host:port, "
                "without a path"
            )
    return allowed or None


def _page() -> Page:
    try:
        body, policy = page.page(), page.content_security_policy()
    except OSError as error:
        return Page(f"the page can't be read: {error}\n".encode(), _TEXT, status=501)
    headers = {
        "Content-Security-Policy": policy,
        "Cache-Control": "no-cache",  # a newer broker has a newer page
    }
    return Page(body, "text/html; charset=utf-8", headers=headers)


def _health(router: Router) -> Page:
    # A broker that is ending accepts no connection: it is not reached, which says enough.
    body = encode_payload({"status": "ok", "connections": len(router.registry.services)})
    return Page(body, _JSON)


def _metrics(router: Router, now: float) -> Page:
    try:
        # Each connection has an id of its own: as a label, it would be new series without end.
        body = exposition(router.metrics.snapshot(now, of_services=False))
    except ImportError:
        text = "metrics need prometheus-client: pip install 'mb-broker[server]'\n"
        return Page(text.encode(), _TEXT, status=501)
    return Page(body, CONTENT_TYPE)
