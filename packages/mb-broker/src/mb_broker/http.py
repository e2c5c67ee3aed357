"""What the broker serves over HTTP on its WebSocket ports: the page, health and metrics.

Also decides which web pages may connect, and which host names are the broker's own.
"""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from ipaddress import ip_address
from typing import Any

from mb_core.codec import encode_payload
from mb_core.errors import LocalProtocolError
from mb_core.wire import Page, Visit

from .metrics import Metric
from .page import page_files
from .router import Router

__all__ = ["PROMETHEUS_TYPE", "OriginPolicy", "broker_pages", "is_loopback", "prometheus_text"]

_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#@*\s]+")
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^\s:/@\[\]]+)(:\d*)?")
# The default ports, which browsers leave out of an origin.
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}
_JSON = "application/json"
_TEXT = "text/plain; charset=utf-8"
PROMETHEUS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_PARAMETER = re.compile(r"\{([a-z]+):[^}]*\}")
# Not registry.count, which also goes down.
_TOTAL = re.compile(r"router\.\w+\.count(\.\w+)?|connection\.\w+\.total")


def broker_pages(
    router: Router, clock: Callable[[], float], *, with_page: bool, with_metrics: bool
) -> Callable[[str], Page | None]:
    """Return a function that finds the page of a path: `/` and its files, `/health`, `/metrics`.

    `clock` is the Router's clock.
    """

    metrics = _CachedPage(lambda: _metrics(router, clock()))

    def get(path: str) -> Page | None:
        if path == "/health" and with_metrics:
            return _health(router)
        if path == "/metrics" and with_metrics:
            return metrics.get()
        return _page_file(path) if with_page else None

    return get


class _CachedPage:
    """A page that is cached for nine times as long as it took to generate.

    So it takes no more than a tenth of the time, even if hundreds of connections request it in one
    turn of the event loop.
    """

    def __init__(self, make: Callable[[], Page]) -> None:
        self._make = make
        self._page: Page | None = None
        self._good_until = 0.0

    def get(self) -> Page:
        # Real time, not the loop's clock, because this limits the use of the processor.
        began = time.perf_counter()
        if self._page is None or began >= self._good_until:
            self._page = self._make()
            ended = time.perf_counter()
            self._good_until = ended + 9 * (ended - began)
        return self._page


class OriginPolicy:
    """Decides which web pages may connect, and under which host names the broker serves its page.

    Any web page that is open in a browser on the broker's network can send requests to the broker.
    So programs (which send no Origin) may connect, and web pages only if they are the broker's own,
    come from the browser's machine, or are listed. The owner of another site can make its pages
    look like the broker's own to the browser, by pointing the site's name to the broker's address
    (DNS rebinding). So a host counts as the broker's only if nobody else can own it: an IP address,
    localhost, a name that the broker listens on, or that of a listed origin.

    `origins` are those of BrokerOptions, `hosts` the hosts of the URLs that the broker listens on.
    Raises LocalProtocolError for an invalid origin.
    """

    def __init__(self, origins: Iterable[str], hosts: Iterable[str]) -> None:
        given = list(origins)
        self._any = "*" in given
        self._origins = {_origin(text) for text in given if text != "*"}
        self._hosts = {_host_of(origin.partition("://")[2]) for origin in self._origins}
        for host in hosts:
            self._hosts |= _own_names() if host in ("0.0.0.0", "::") else {host.lower()}

    def forbid(self, visit: Visit) -> str | None:
        """Return why a request is refused, or None if it is allowed."""
        if self._any:
            return None
        if visit.path is None:
            return self._forbid_handshake(visit)
        host = visit.host
        # Probes use any name, and scrapers often a name without a dot, which no public web site
        # has.
        checked = visit.path == "/" or (visit.path == "/metrics" and "." in (host or ""))
        if not checked or host is None or self._is_ours(host):
            return None
        return f"unknown Host {host!r}: add 'http://{host}' to the option origins to allow it"

    def _forbid_handshake(self, visit: Visit) -> str | None:
        origin = visit.origin
        if origin is None:
            return None
        scheme, _, where = origin.lower().partition("://")
        if not where:  # "null": a file, a sandboxed frame
            return f"pages of the origin {origin!r} may not connect: only origins='*' allows it"
        if origin.lower() in self._origins or is_loopback(_host_of(where)):
            return None
        host = (visit.host or "").lower().removesuffix(_DEFAULT_PORTS.get(scheme, "/"))
        if host == where and self._is_ours(host):
            return None
        return f"pages of the origin {origin!r} may not connect: add it to the option origins"

    def _is_ours(self, host: str) -> bool:
        name = _host_of(host)
        return name in self._hosts or _is_address(name) or is_loopback(name)


def _origin(text: str) -> str:
    """Return an origin as browsers send it."""
    scheme, _, where = text.lower().partition("://")
    if not _ORIGIN.fullmatch(text.lower()):
        raise LocalProtocolError(
            f"invalid origins, {text!r}: an origin is scheme://host or scheme://host:port, "
            "without a path, or * for any"
        )
    return f"{scheme}://{where.removesuffix(_DEFAULT_PORTS.get(scheme, '/'))}"


def _host_of(where: str) -> str:
    """Return the host of `host:port` in lower case, without brackets and final dot."""
    found = _HOST.fullmatch(where.lower())
    return found[1].strip("[]").rstrip(".") if found is not None else ""


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def is_loopback(name: str) -> bool:
    """Return whether a host name or address can be reached only from this machine."""
    if name == "localhost" or name.endswith(".localhost"):
        return True
    return _is_address(name) and ip_address(name).is_loopback


def _own_names() -> set[str]:
    """Return the names of this machine, which resolve to its other addresses."""
    name = socket.gethostname().lower()
    short = name.partition(".")[0]
    return {name, short, f"{short}.local"}


def _page_file(path: str) -> Page | None:
    try:
        return page_files().get(path)
    except OSError as error:
        text = f"the page can't be read: {error}\n"
        return Page(text.encode(), _TEXT, status=501) if path == "/" else None


def _health(router: Router) -> Page:
    # A broker that is shutting down accepts no connections, so it need not report that here.
    body = encode_payload({"status": "ok", "connections": len(router.registry.services)})
    return Page(body, _JSON)


def _metrics(router: Router, now: float) -> Page:
    try:
        # Connection ids are left out: as a label, each would create a new time series.
        body = prometheus_text(router.metrics.snapshot(now, of_services=False))
    except ImportError:
        text = "metrics need prometheus-client: pip install 'mb-broker[server]'\n"
        return Page(text.encode(), _TEXT, status=501)
    return Page(body, PROMETHEUS_TYPE)


def prometheus_text(metrics: Iterable[Metric]) -> bytes:
    """Return the metrics in Prometheus's text format, written by prometheus-client.

    Names get the prefix `mb_`, and `_` instead of dots; parameters become labels. Totals are
    counters, everything else gauges. Raises ImportError without prometheus-client.
    """
    from prometheus_client.core import CollectorRegistry
    from prometheus_client.exposition import generate_latest

    given = list(metrics)

    class Snapshot:
        def collect(self) -> Iterator[Any]:
            yield from _families(given)

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Snapshot())
    return bytes(generate_latest(registry))


def _families(metrics: list[Metric]) -> Iterator[Any]:
    """Group the metrics by name, ignoring parameters."""
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    families: dict[str, Any] = {}
    for metric in metrics:
        plain = _PARAMETER.sub(r"\1", metric.name)
        family = families.get(plain)
        if family is None:
            kind = CounterMetricFamily if _TOTAL.fullmatch(plain) else GaugeMetricFamily
            name = "mb_" + plain.removesuffix(".total").replace(".", "_")
            family = kind(name, f"{plain} ({metric.type.value})", labels=list(metric.parameters))
            families[plain] = family
        family.add_metric(list(metric.parameters.values()), metric.value)
    yield from families.values()
