"""Certificates that are wrong: reported at once, and at a first connection not tried again."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Any

import anyio
import pytest
import trustme

from mb_client import ConnectError, MessageBrokerClient
from mb_testing.proxy import Cut, Proxy

from .brokers import thread_broker
from .scene import FAST
from .traffic import PATIENCE, Signal

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("nothing_remains")]

# What is wrong, by name: the broker's TLS settings.
WRONG: dict[str, Callable[[Any], ssl.SSLContext]] = {
    "unknown-authority": lambda own: type(own)(trustme.CA()).server(),
    "another-name": lambda own: own.server("example.org"),
    "expired": lambda own: own.server(not_before=own.days(-9), not_after=own.days(-1)),
    "not-yet-valid": lambda own: own.server(not_before=own.days(1), not_after=own.days(9)),
    "client-certificate-missing": lambda own: asking_for_a_certificate(own),
}


def asking_for_a_certificate(own: Any) -> ssl.SSLContext:
    context: ssl.SSLContext = own.server()
    own.authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


@pytest.fixture(params=["tls", "wss"])
def scheme(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.mark.parametrize("wrong", WRONG)
async def test_a_wrong_certificate_is_one_attempt_and_a_final_error_within_a_second(
    wrong: str, scheme: str, certificates: Any
) -> None:
    with (
        thread_broker(scheme, ssl_context=WRONG[wrong](certificates)) as broker,
        Proxy(broker.url) as proxy,
    ):
        client = MessageBrokerClient(
            proxy.url,
            ssl_context=certificates.client(),
            retry_connect=True,
            **FAST,
        )
        with pytest.raises(ConnectError) as raised:
            await client.connect()
        assert proxy.stats.accepted == 1  # it has not tried again
        assert raised.value.final
        assert "certificate" in str(raised.value)
        await client.close()
        assert proxy.stats.accepted == 1


async def test_a_server_that_speaks_no_tls_is_tried_again(scheme: str, certificates: Any) -> None:
    plain = {"tls": "tcp", "wss": "ws"}[scheme]
    right = certificates.server()
    with (
        thread_broker(plain) as wrong,
        thread_broker(scheme, ssl_context=right) as broker,
        Proxy(wrong.url) as proxy,
    ):
        url = proxy.url.replace(plain, scheme)
        client = MessageBrokerClient(
            url, ssl_context=certificates.client(), retry_connect=True, **FAST
        )
        failures = Signal()

        def mend(error: Exception) -> None:
            assert isinstance(error, ConnectError)
            assert not error.final
            proxy.target = broker.url
            failures()

        client.on_error(mend)
        async with client:
            await client.request("system.heartbeat", {})
        assert failures.count >= 1


@pytest.mark.parametrize("wrong", WRONG)
async def test_a_client_outlasts_a_certificate_that_goes_bad_between_connections(
    wrong: str, scheme: str, certificates: Any
) -> None:
    """It reports each try that is refused, and is back once somebody has repaired it."""
    with (
        thread_broker(scheme, ssl_context=certificates.server()) as good,
        thread_broker(scheme, ssl_context=WRONG[wrong](certificates)) as bad,
        Proxy(good.url) as proxy,
    ):
        client = MessageBrokerClient(proxy.url, ssl_context=certificates.client(), **FAST)
        refusals: list[Exception] = []
        connects = Signal()

        def mend(error: Exception) -> None:
            refusals.append(error)
            if len(refusals) == 2:
                proxy.target = good.url

        client.on_error(mend)
        client.on_connect(connects)
        async with client:
            events = await client.subscribe("some.topic")
            proxy.target = bad.url
            proxy.cut(Cut.RESET)
            await connects.reaches(2, "the client is back")
            with anyio.fail_after(PATIENCE):
                await client.publish("some.topic", 1, confirm=True)
                assert (await anext(events)).payload == 1
        for error in refusals[:2]:
            assert isinstance(error, ConnectError)
            assert error.final
            assert "certificate" in str(error)
        assert proxy.stats.accepted == 2 + len(refusals)


async def test_a_certificate_that_was_renewed_between_connections_is_no_matter(
    scheme: str, certificates: Any
) -> None:
    with (
        thread_broker(scheme, ssl_context=certificates.server()) as old,
        thread_broker(scheme, ssl_context=certificates.server()) as new,
        Proxy(old.url) as proxy,
    ):
        client = MessageBrokerClient(proxy.url, ssl_context=certificates.client(), **FAST)
        connects = Signal()
        client.on_connect(connects)
        async with client:
            proxy.target = new.url
            proxy.cut(Cut.RESET)
            await connects.reaches(2, "the client is connected")
            await client.request("system.heartbeat", {})
        assert proxy.stats.accepted == 2
