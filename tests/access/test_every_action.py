"""Everything that a client can do, allowed, denied and anonymous, with every kind of client."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from mb_core import ResponseError

from ..matrix.clients import connecting
from ..matrix.conftest import FRONTENDS
from .drivers import FrontendDriver, SocketDriver
from .rules import (
    CLIENTS,
    FEEDS,
    ROLES,
    RULES,
    SYSTEM_TOPICS,
    Client,
    Outcome,
    Rule,
    expected,
    forwarded,
    subscriptions_of,
)
from .scene import SCHEMES, SECURE, Scene, access_file, client_context, serving, token_of

DOCS = Path(__file__).parents[2] / "docs"
# How clients identify themselves.
WITH_TOKEN = [(scheme, "token") for scheme in SCHEMES]
WITH_CERTIFICATE = [(scheme, "certificate") for scheme in SECURE]
# A client that is not known may send 20 messages, and each rule takes up to 2.
FEW = 8


@contextmanager
def scenes(backend: str, scheme: str, folder: Path) -> Iterator[dict[bool, Scene]]:
    """Two brokers: one for known clients only, and one with `[anonymous]`."""
    with ExitStack() as stack:
        found = {}
        for is_open in (False, True):
            path = access_file(folder / f"{is_open}.toml", anonymous=is_open)
            found[is_open] = stack.enter_context(serving(backend, path, scheme))
        yield found


def connections_of(client: Client, rules: list[Rule]) -> Iterable[list[Rule]]:
    """What a client does on each of its connections."""
    if client.user is not None or client.open:
        return [rules]
    return [rules[start : start + FEW] for start in range(0, len(rules), FEW)]


def credentials(client: Client, scheme: str, identity: str) -> tuple[str | None, dict[str, Any]]:
    """The token of a client, if it sends one, and the options for its connection."""
    by_certificate = identity == "certificate"
    options: dict[str, Any] = {}
    if scheme in SECURE:
        options["ssl_context"] = client_context(client.user if by_certificate else None)
    if client.user is None or by_certificate:
        return None, options
    return token_of(client.user), options


def service_of(client: Client, scene: Scene, before: set[str]) -> str:
    """Return the id of a client that has connected; the broker knows it as it should."""
    ((service_id, service),) = (
        (service_id, each)
        for service_id, each in scene.services().items()
        if service_id not in before
    )
    known = client.user is not None or client.open
    assert (service["user"], service["name"]) == (client.user, "registered" if known else "")
    return service_id


def names_in(messages: Iterable[bytes], client: Client) -> set[str]:
    """The users that messages to a client name, other than itself."""
    found = re.findall(rb"user-\w+", b"\n".join(messages))
    return {name.decode() for name in found} - {client.user}


def topics_in(messages: Iterable[bytes]) -> set[str]:
    """The topics of feeds that messages to a client belong to."""
    found = set()
    for message in messages:
        action, topic, _, *ids = message.partition(b"\n")[0].decode().split(":")
        if action == "publish" or not ids:  # entries of the log are responses without an id
            found.add(topic)
    return found


@pytest.mark.parametrize(
    ("scheme", "identity", "raw_client"),
    [
        *((*way, False) for way in WITH_TOKEN + WITH_CERTIFICATE),
        ("tcp", "token", True),
        ("wss", "token", True),
    ],
)
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_messages_written_by_hand(
    backend: str, scheme: str, identity: str, raw_client: bool, tmp_path: Path
) -> None:
    results: dict[tuple[str, str], Outcome] = {}
    with scenes(backend, scheme, tmp_path) as found:
        for client in CLIENTS:
            scene = found[client.open]
            for rules in connections_of(client, RULES):
                token, options = credentials(client, scheme, identity)
                before = set(scene.services())
                with scene.connected(scheme, raw_client=raw_client, **options) as wire:
                    driver = SocketDriver(wire, token_of(client.user or "nobody"))
                    results |= by_hand(client, token, rules, driver, scene, before)
                scene.wait_for(before)
    assert results == {
        (client.label, rule.name): expected(rule, client) for client in CLIENTS for rule in RULES
    }


def by_hand(
    client: Client,
    token: str | None,
    rules: list[Rule],
    driver: SocketDriver,
    scene: Scene,
    before: set[str],
) -> dict[tuple[str, str], Outcome]:
    """Do this on one connection, and check what it has changed and what came."""
    if token is not None:
        answer = driver.request("system.authenticate", {"token": token})
        assert answer == {"status": "success", "user": client.user}
    outcomes = {(client.label, rule.name): driver.do(rule) for rule in rules}
    subscribed = check_state(client, rules, driver, scene, before, complete=rules is RULES)
    topics = topics_in(driver.received)
    assert {topic for topic in topics if topic.startswith("system.")} <= subscribed
    assert subscribed or not topics
    if not client.roles & {"operator", "services", "message", "log"}:
        assert names_in(driver.received, client) == set()
    return outcomes


def check_state(
    client: Client,
    rules: list[Rule],
    driver: SocketDriver | FrontendDriver,
    scene: Scene,
    before: set[str],
    *,
    complete: bool,
) -> set[str]:
    """Check what others got, what the broker lists, and unsubscribing; return the topics.

    Only those that did all of it are known, and subscribed to anything.
    """
    assert scene.take_seen() == forwarded(client, rules)
    service_id = service_of(client, scene, before)
    subscribed = scene.subscriptions_of(service_id)
    assert subscribed == (subscriptions_of(client) if complete else set())
    for action, topic in subscribed:
        driver.unsubscribe(action, topic)
    assert scene.subscriptions_of(service_id) == set()
    return {topic for _, topic in subscribed}


@pytest.mark.parametrize(("scheme", "identity"), [*WITH_TOKEN, ("tls", "certificate")])
@pytest.mark.parametrize("frontend", FRONTENDS)
def test_front_ends(frontend: str, scheme: str, identity: str, tmp_path: Path) -> None:
    # A response to nothing, a request without an id and misuse have to be written by hand.
    rules = [rule for rule in RULES if rule.do not in ("answer", "tell", "misuse")]
    # Which part of the broker allows what is the same for all clients.
    parts = set(ROLES["operator"]["system"])
    clients = [client for client in CLIENTS if not parts & client.roles]
    results: dict[tuple[str, str], Outcome] = {}
    backend = "asyncio" if frontend == "sync" else frontend
    with scenes(backend, scheme, tmp_path) as found, connecting(frontend) as connect:
        for client in clients:
            scene = found[client.open]
            for part in connections_of(client, rules):
                token, options = credentials(client, scheme, identity)
                url = scene.broker.url_of(scheme)
                before = set(scene.services())
                with connect(url, token=token, drain_timeout=100, **options) as program:
                    assert program._client.user == (client.user if token else None)
                    driver = FrontendDriver(program, token_of(client.user or "nobody"))
                    results |= {(client.label, rule.name): driver.do(rule) for rule in part}
                    errors = driver.take_errors(
                        sum(each.do == "publish" and is_denied(each, client) for each in part)
                    )
                    results |= denied_publications(client, part, errors)
                    check_state(client, part, driver, scene, before, complete=part is rules)
                scene.wait_for(before)
    assert results == {
        (client.label, rule.name): expected(rule, client) for client in clients for rule in rules
    }


def is_denied(rule: Rule, client: Client) -> bool:
    return expected(rule, client) != ("done",)


def denied_publications(
    client: Client, rules: list[Rule], errors: list[Exception]
) -> dict[tuple[str, str], Outcome]:
    """The errors that on_error gets for publications that are not confirmed, in their order."""
    denied = [each for each in rules if each.do == "publish" and is_denied(each, client)]
    found: dict[tuple[str, str], Outcome] = {}
    for rule, error in zip(denied, errors, strict=True):
        assert isinstance(error, ResponseError)
        details: Any = error.details
        found[client.label, rule.name] = (
            (error.code, details["action"], details["topic"], details["user"])
            if error.code == "FORBIDDEN"
            else (error.code,)
        )
    return found


def test_the_rules_have_every_system_topic_of_the_protocol() -> None:
    protocol = (DOCS / "protocol.md").read_text()
    section = protocol.partition("\n## System topics\n")[2].partition("\n### ")[0]
    listed = set(
        re.findall(r"system\.[a-z.]+", "".join(re.findall(r"^\| (system[^|]*)\|", section, re.M)))
    )
    assert listed | {"system.authenticate"} == set(SYSTEM_TOPICS)
    feeds = protocol.partition("Of the system topics, clients can subscribe to")[2].partition(";")[
        0
    ]
    assert set(re.findall(r"`(system\.[a-z.]+)`", feeds)) == set(FEEDS)


def test_there_is_a_role_for_everything_that_roles_can_allow() -> None:
    section = (DOCS / "access.md").read_text().partition("\n## What a role allows\n")[2]
    keys = re.findall(r"^\| `(\w+)` \| (.*)\|$", section.partition("\n## ")[0], re.M)
    assert {key for key, _ in keys} == set(ROLES["operator"])
    parts = re.findall(r'`"(\w+)"`', dict(keys)["system"])
    assert sorted(parts) == sorted(ROLES["operator"]["system"])
    for key, values in ROLES["operator"].items():
        for value in values:
            assert any(
                set(role) == {key} and (key != "system" or role[key] == [value])
                for role in ROLES.values()
            )
