"""The authenticator in a broker, with clients."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import anyio

from mb_broker import Broker
from mb_core.authenticators import Credentials
from mb_core.client import MessageBrokerClient
from mb_core.errors import (
    ConnectError,
    ForbiddenError,
    MBError,
    NoRouteFoundError,
    UnauthorizedError,
)
from mb_core.link import Accept, Backend, Link

from ..conformance import expect, violation
from .requirements import STABLE, WORKS
from .subject import Subject, watched_log

__all__ = ["keeps_users_when_reloading", "lets_users_in_and_no_others", "on_loop"]


class _KnownLink:
    """A Link that says what its client has shown, such as the names in a certificate."""

    def __init__(self, link: Link, credentials: Credentials) -> None:
        self._link = link
        self.credentials = credentials

    def __getattr__(self, name: str) -> Any:
        return getattr(self._link, name)


class _Host:
    """A broker whose clients have the certificate that a test says."""

    def __init__(self, subject: Subject) -> None:
        self._plugins = subject.plugins
        self._certificate: tuple[str, ...] = ()
        self.broker = Broker(
            "memory://",
            access=subject.path,
            plugins=subject.plugins,
            wrap_accept=self._wrap_accept,
        )

    def _wrap_accept(self, accept: Accept, backend: Backend, spawn: object) -> Accept:
        def accepting(link: Link) -> Any:
            known: Any = _KnownLink(link, Credentials(certificate=self._certificate))
            return accept(known)

        return accepting

    def client(self, credentials: Credentials) -> MessageBrokerClient:
        """Return a client that will show these credentials; connect it before the next one."""
        self._certificate = credentials.certificate
        return MessageBrokerClient(
            self.broker.url, token=credentials.token, plugins=self._plugins, reconnect=False
        )

    async def connected(
        self, stack: AsyncExitStack, name: str, credentials: Credentials
    ) -> MessageBrokerClient:
        """Return a client of a user, which is closed with the stack."""
        try:
            return await stack.enter_async_context(self.client(credentials))
        except ConnectError as error:
            raise violation(WORKS, f"{name!r} can't connect: {error}") from error


def on_loop(test: Callable[[Subject], Awaitable[None]], subject: Subject, backend: str) -> None:
    with watched_log() as entries:
        anyio.run(test, subject, backend=backend)
    subject.expect_hidden({"the log": "\n".join(entries)})


async def lets_users_in_and_no_others(subject: Subject) -> None:
    host = _Host(subject)
    async with host.broker:
        for name, credentials in subject.users.items():
            async with AsyncExitStack() as stack:
                client = await host.connected(stack, name, credentials)
                found = client.user if credentials.token is not None else await _denied(client)
                known = found == name or (found == "" and credentials.token is None)
                expect(WORKS, known, f"the broker takes {name!r} for {found!r}")
        for number, credentials in enumerate(subject.wrong):
            error = await _refusal(
                host.client(credentials), with_token=credentials.token is not None
            )
            refused = isinstance(error, UnauthorizedError)
            expect(WORKS, refused, f"wrong credentials {number} was answered with {error!r}")


async def _denied(client: MessageBrokerClient) -> str | None:
    """Return whom the broker takes a client for that has no token; empty if it may publish."""
    try:
        await client.publish("conformance.check", None, confirm=True)
    except ForbiddenError as error:
        user: str | None = (error.details or {}).get("user")
        return user
    except NoRouteFoundError:
        return ""
    except UnauthorizedError:
        return None
    return ""


async def _refusal(client: MessageBrokerClient, *, with_token: bool) -> BaseException | None:
    try:
        async with client:
            if not with_token:
                await client.publish("conformance.check", None, confirm=True)
    except ConnectError as error:
        return error.__cause__
    except MBError as error:
        return error
    return None


async def keeps_users_when_reloading(subject: Subject) -> None:
    host = _Host(subject)
    async with host.broker, AsyncExitStack() as stack:
        clients = {
            name: await host.connected(stack, name, credentials)
            for name, credentials in subject.users.items()
        }
        host.broker.reload_access()
        for name, client in clients.items():
            try:
                await client.request("system.heartbeat", {})
            except MBError as error:
                text = f"after reload_access, {name!r} was disconnected: {error}"
                raise violation(STABLE, text) from error
