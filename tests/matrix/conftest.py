"""Every front end, every transport, and a broker that can be started again."""

from __future__ import annotations

import contextlib
import importlib.util
import ssl
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import trustme

from mb_broker import running

from .clients import Client, Connect, connecting


def needs(module: str) -> pytest.MarkDecorator:
    missing = importlib.util.find_spec(module) is None
    return pytest.mark.skipif(missing, reason=f"{module} is not installed")


OneMore = Callable[..., Client]

FRONTENDS = [
    "asyncio",
    pytest.param("trio", marks=needs("trio")),
    pytest.param("sync", marks=needs("mb_sync")),
]
TRANSPORTS = ["memory", "tcp", "tls", "ws", "wss"]
SECURE = {"tls", "wss"}


class Served:
    """A broker in a thread that keeps its URL; `client_options` are what a client of it needs."""

    def __init__(
        self,
        url: str,
        server: ssl.SSLContext | None = None,
        client: ssl.SSLContext | None = None,
    ) -> None:
        self.url = url
        self.client_options = {} if client is None else {"ssl_context": client}
        self._ssl_context = server
        self._running = contextlib.ExitStack()

    def start(self) -> None:
        # What goes away here does so at once.
        options: dict[str, Any] = {"drain_timeout": 0, "close_timeout": 200}
        broker = running(self.url, ssl_context=self._ssl_context, **options)
        self.url = self._running.enter_context(broker).url

    def stop(self) -> None:
        self._running.close()


@pytest.fixture(scope="session")
def certificates() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """What a broker shows, and what a client needs to trust it."""
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(server)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(client)
    return server, client


@pytest.fixture(params=TRANSPORTS)
def broker(
    request: pytest.FixtureRequest, certificates: tuple[ssl.SSLContext, ssl.SSLContext]
) -> Iterator[Served]:
    """A broker that runs, over each transport in turn."""
    scheme = request.param
    url = "memory://" if scheme == "memory" else f"{scheme}://127.0.0.1:0"
    served = Served(url, *(certificates if scheme in SECURE else ()))
    served.start()
    yield served
    served.stop()


@pytest.fixture(scope="module", params=FRONTENDS)
def frontend(request: pytest.FixtureRequest) -> Iterator[Connect]:
    """Connect clients of each front end in turn."""
    with connecting(request.param) as connect:
        yield connect


@pytest.fixture
def connect(frontend: Connect, broker: Served) -> Iterator[OneMore]:
    """Connect one more client to `broker`; all are closed at the end."""
    with contextlib.ExitStack() as clients:

        def one_more(**options: Any) -> Client:
            options = {"drain_timeout": 1000, "backoff_min": 1, "backoff_max": 20} | options
            return clients.enter_context(frontend(broker.url, **broker.client_options, **options))

        yield one_more
