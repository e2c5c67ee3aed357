"""What the broker serves over HTTP, on its WebSocket ports: the page, health and metrics."""

from __future__ import annotations

import time
from collections.abc import Callable

from mb_core.codec import encode_payload
from mb_core.wire import Page

from . import page
from .exposition import CONTENT_TYPE, exposition
from .router import Router

__all__ = ["broker_pages"]

_JSON = "application/json"
_TEXT = "text/plain; charset=utf-8"


def broker_pages(
    router: Router, *, with_page: bool, with_metrics: bool
) -> Callable[[str], Page | None]:
    """A function that gives the page of a path: `/`, `/health` and `/metrics`."""

    def get(path: str) -> Page | None:
        if path == "/" and with_page:
            headers = {
                "Content-Security-Policy": page.CONTENT_SECURITY_POLICY,
                "Cache-Control": "no-cache",  # a newer broker has a newer page
            }
            return Page(page.page(), "text/html; charset=utf-8", headers=headers)
        if path == "/health" and with_metrics:
            return _health(router)
        if path == "/metrics" and with_metrics:
            return _metrics(router)
        return None

    return get


def _health(router: Router) -> Page:
    status = "draining" if router.draining else "ok"
    body = encode_payload({"status": status, "connections": len(router.registry.services)})
    return Page(body, _JSON, status=503 if router.draining else 200)


def _metrics(router: Router) -> Page:
    try:
        body = exposition(router.metrics.snapshot(time.monotonic()))
    except ImportError:
        text = "metrics need prometheus-client: pip install 'mb-broker[server]'\n"
        return Page(text.encode(), _TEXT, status=501)
    return Page(body, CONTENT_TYPE)
