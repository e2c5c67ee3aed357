"""A broker with an access file, and a witness that gets everything that the broker forwards."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import trustme
from anyio.from_thread import BlockingPortal, start_blocking_portal

from mb_broker import Broker
from mb_broker.access import token_digest
from mb_client import Message, MessageBrokerClient
from mb_testing import until, wait_until

from .rules import CLIENTS, ROLES
from .sockets import Wire, connected

__all__ = ["SCHEMES", "SECURE", "Scene", "access_file", "client_context", "serving", "token_of"]

SCHEMES = ["memory", "tcp", "ws", "tls", "wss"]
SECURE = ("tls", "wss")


def token_of(user: str) -> str:
    return f"mb_{user}"


def access_file(path: Path, *, anonymous: bool = False) -> Path:
    """Write the access file of `ROLES`, with a user for each role."""
    parts = [
        f"[roles.{name}]\n" + "".join(f"{key} = {value}\n" for key, value in role.items())
        for name, role in ROLES.items()
    ]
    users = {client.user: client for client in CLIENTS if client.user is not None}
    for user, client in users.items():
        names = sorted(client.roles - {"public"})
        parts.append(
            f'[[users]]\nname = "{user}"\ntoken_sha256 = "{token_digest(token_of(user))}"\n'
            f'certificate = "CN={user}"\nroles = {names}\n'
        )
    if anonymous:
        parts.append('[anonymous]\nroles = ["public"]\n')
    path.write_text("".join(parts))
    path.chmod(0o600)
    return path


@cache
def _authority() -> trustme.CA:
    return trustme.CA()


@cache
def server_context() -> ssl.SSLContext:
    """The broker's certificate; clients may have one as well."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    _authority().issue_cert("127.0.0.1").configure_cert(context)
    _authority().configure_trust(context)
    context.verify_mode = ssl.CERT_OPTIONAL
    return context


@cache
def client_context(user: str | None = None) -> ssl.SSLContext:
    """What a client trusts, with the certificate of a user if there is one."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _authority().configure_trust(context)
    if user is not None:
        _authority().issue_cert("client.test", common_name=user).configure_cert(context)
    return context


class Scene:
    """A broker that runs, and its witness: a client that may do everything and gets everything."""

    def __init__(self, broker: Broker, portal: BlockingPortal) -> None:
        self.broker = broker
        self.portal = portal
        self.witness: MessageBrokerClient
        self._seen: list[Any] = []

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Let the witness receive publications, and answer requests."""
        url, token = self.broker.url_of("memory"), token_of("user-operator")
        client = self.portal.call(_make, url, token)
        with self.portal.wrap_async_context_manager(client):
            self.witness = client
            self.portal.call(self._watch)
            yield

    async def _watch(self) -> None:
        await self.witness.subscribe("#", 100, action="both", handler=self._see)

    def _see(self, message: Message) -> Any:
        self._seen.append(message.payload)
        return message.payload

    def take_seen(self) -> set[Any]:
        """The payloads that were forwarded since the last call, to anybody."""
        self.portal.call(self._flush)
        seen, self._seen = self._seen, []
        return {payload for payload in seen if payload not in ("flush", "poke")}

    async def _flush(self) -> None:
        # What was sent to the witness before comes before the answer, which its handler sends.
        await self.witness.request("flush", "flush")

    def connected(
        self,
        scheme: str,
        ssl_context: ssl.SSLContext | None = None,
        *,
        raw_client: bool = False,
    ) -> AbstractContextManager[Wire]:
        """Connect a client that writes messages by hand."""
        url = self.broker.url_of(scheme)
        return connected(url, self.portal, ssl_context, raw_client=raw_client)

    def wait_for(self, services: set[str]) -> None:
        """Wait until only these clients are connected."""
        wait_until(lambda: set(self.services()) == services)

    async def poke(self, do: str, topic: str) -> None:
        """Wait until somebody else is subscribed to a topic, and give it something to receive."""
        action = "request" if do == "respond" else "publish"

        async def subscribed() -> bool:
            topics = (await self.witness.request("system.topic.list", {})).payload["topics"]
            return any((each["action"], each["topic"]) == (action, topic) for each in topics)

        await until(subscribed)
        reached = topic.replace("+", "x").replace("#", "x")
        if do == "subscribe":
            await self.witness.publish(reached, "poke", confirm=True)
        else:
            await self.witness.request(reached if do == "respond" else "poke", "poke")

    def ask(self, topic: str, payload: Any = None) -> Any:
        """Return what a system topic answers the witness."""

        async def ask() -> Any:
            return (await self.witness.request(f"system.{topic}", payload or {})).payload

        return self.portal.call(ask)

    def services(self) -> dict[str, dict[str, Any]]:
        """The connected clients by their id, without the witness."""
        services = self.ask("service.list")["services"]
        return {each["id"]: each for each in services if each["name"] != "witness"}

    def subscriptions_of(self, service_id: str) -> set[tuple[str, str]]:
        answer = self.ask("service.subscriptions", {"serviceId": service_id})
        return {(each["action"], each["topic"]) for each in answer["subscriptions"]}


async def _make(url: str, token: str) -> MessageBrokerClient:
    return MessageBrokerClient(url, token=token)


@contextmanager
def serving(backend: str, access: Path, *schemes: str) -> Iterator[Scene]:
    """Run a broker in a thread, on asyncio or trio, with a witness."""
    urls = [
        f"{scheme}://" + ("127.0.0.1:0" if scheme != "memory" else "")
        for scheme in dict.fromkeys(["memory", *schemes])
    ]

    async def make() -> Broker:
        return Broker(*urls, ssl_context=server_context(), access=access, close_timeout=200)

    with start_blocking_portal(backend) as portal:
        broker = portal.call(make)
        with portal.wrap_async_context_manager(broker):
            scene = Scene(broker, portal)
            with scene.watching():
                yield scene
