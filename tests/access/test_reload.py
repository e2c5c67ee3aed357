"""What changes for connected clients when the broker reads its access file again."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from mb_broker import running
from mb_broker.access import token_digest
from mb_core import ConnectError, ConnectionLost, LocalProtocolError
from mb_sync import MessageBrokerClient

from .drivers import SocketDriver
from .scene import SCHEMES, SECURE, Scene, client_context, serving, token_of

BEFORE = {
    "talker": ("mb_talker", "publish"),
    "reader": ("mb_reader", "subscribe"),
    "removed": ("mb_removed", "subscribe"),
    "changed": ("mb_changed", "subscribe"),
}
ROLES = (
    '[roles.all]\npublish = ["#"]\nrequest = ["#"]\nsubscribe = ["#"]\nrespond = ["#"]\n'
    'system = ["message", "log", "metrics", "services", "topics"]\n'
    '[roles.publish]\npublish = ["weather.#"]\n'
    '[roles.subscribe]\nsubscribe = ["weather.#"]\nsystem = ["log"]\n'
)
INVALID = {
    "writable": (lambda text: text, 0o666, "other users of this machine can write it"),
    "not TOML": (lambda text: text + "[[users\n", 0o600, "is not valid TOML"),
    "unknown role": (
        lambda text: text.replace('["publish"]', '["publsh"]'),
        0o600,
        r"\[\[users\]\] 'talker': unknown role 'publsh'",
    ),
    "missing": (None, 0o600, "No such file or directory"),
}


def write(path: Path, users: dict[str, tuple[str, str]], anonymous: str = "") -> None:
    """Write an access file: each user has a token and a role. `scene` needs its operator."""
    operator = {"user-operator": (token_of("user-operator"), "all")}
    text = ROLES + "".join(
        f'[[users]]\nname = "{name}"\ntoken_sha256 = "{token_digest(token)}"\nroles = ["{role}"]\n'
        for name, (token, role) in {**operator, **users}.items()
    )
    if anonymous:
        text += f'[anonymous]\nroles = ["{anonymous}"]\n'
    path.write_text(text)
    path.chmod(0o600)


@pytest.fixture
def access(tmp_path: Path) -> Path:
    path = tmp_path / "access.toml"
    write(path, BEFORE)
    return path


Join = Callable[[str], SocketDriver]


@pytest.fixture(params=SCHEMES)
def scheme(request: pytest.FixtureRequest) -> str:
    scheme: str = request.param
    return scheme


@pytest.fixture(params=["asyncio", "trio"])
def scene(request: pytest.FixtureRequest, scheme: str, access: Path) -> Iterator[Scene]:
    with serving(request.param, access, scheme) as scene:
        yield scene


@pytest.fixture
def join(scene: Scene, scheme: str) -> Iterator[Join]:
    """Connect as the user with a token; as nobody without one."""
    with ExitStack() as stack:

        def join(token: str) -> SocketDriver:
            context = client_context() if scheme in SECURE else None
            client = SocketDriver(stack.enter_context(scene.connected(scheme, context)), token)
            if token:
                answer = client.request("system.authenticate", {"token": token})
                assert answer["status"] == "success"
            return client

        yield join


def reload(scene: Scene) -> None:
    scene.portal.call(scene.broker.reload_access)


def publish(client: SocketDriver, topic: str = "weather.oslo") -> str | None:
    """Publish with an id; return the code of the error, or None."""
    answer = client.send(f"publish:{topic}", topic)
    return answer["error"]["code"] if "error" in answer else None


def subscribe(client: SocketDriver, topic: str) -> dict[str, Any]:
    payload = {"action": "publish", "topic": topic}
    answer: dict[str, Any] = client.request("system.topic.subscribe", payload)
    return answer


def is_closed(client: SocketDriver) -> bool:
    """Whether the broker closes the connection, after nothing but publications."""
    try:
        while client.receive().startswith(b"publish:weather."):
            pass
    except EOFError:
        return True
    return False


def test_a_new_file_applies_to_connected_clients(scene: Scene, access: Path, join: Join) -> None:
    clients = {name: join(token) for name, (token, _) in BEFORE.items()}
    for name in ("reader", "removed", "changed"):
        assert subscribe(clients[name], "weather.#") == {"status": "success"}
    assert clients["reader"].request("system.log.subscribe", {}) == {"status": "success"}
    assert publish(clients["reader"]) == "FORBIDDEN"
    changed = {"talker": BEFORE["talker"], "reader": ("mb_reader", "publish")}
    write(access, changed | {"changed": ("mb_new", "subscribe")})
    reload(scene)
    # Clients that are no longer their user are disconnected, and the old tokens are invalid.
    assert is_closed(clients["removed"])
    assert is_closed(clients["changed"])
    for token in ("mb_removed", "mb_changed"):
        answer = join("").request("system.authenticate", {"token": token})
        assert answer["error"]["code"] == "UNAUTHORIZED"
    # What a role no longer allows ends, and the client is notified.
    ended = {}
    while len(ended) < 2:
        header, _, payload = clients["reader"].receive().partition(b"\n")
        if header.startswith(b"response:system.topic.subscribe:1.0.0:"):
            error = json.loads(payload)["error"]
            ended[error["details"]["topic"]] = (error["code"], error["details"])
    assert ended == {
        topic: ("FORBIDDEN", {"action": "subscribe", "topic": topic, "user": "reader"})
        for topic in ("weather.#", "system.log")
    }
    (reader,) = [key for key, each in scene.services().items() if each["user"] == "reader"]
    assert scene.subscriptions_of(reader) == set()
    assert subscribe(clients["reader"], "weather.#")["error"]["code"] == "FORBIDDEN"
    # What a role allows now works at once, and the broker's log and topics go to nobody else.
    assert publish(clients["reader"]) is None
    assert publish(clients["talker"]) is None
    seen = len(clients["reader"].received)
    assert publish(clients["talker"], "stock.low") == "FORBIDDEN"  # the log has this
    clients["reader"].request("system.heartbeat", {})
    (answer,) = clients["reader"].received[seen:]
    assert answer.startswith(b"response:system.heartbeat:")
    again = join("mb_new")
    assert subscribe(again, "weather.#") == {"status": "success"}
    assert publish(clients["talker"]) is None
    assert again.receive().startswith(b"publish:weather.oslo:")


def test_anonymous_clients_can_be_let_in_and_out(scene: Scene, access: Path, join: Join) -> None:
    stranger, talker = join(""), join("mb_talker")
    assert publish(stranger) == "UNAUTHORIZED"
    assert subscribe(talker, "weather.#")["error"]["code"] == "FORBIDDEN"
    write(access, BEFORE, anonymous="subscribe")
    reload(scene)
    assert publish(stranger) == "FORBIDDEN"
    for client in (stranger, talker):  # users may do what anonymous clients may
        assert subscribe(client, "weather.#") == {"status": "success"}
    assert publish(talker) is None
    assert stranger.receive().startswith(b"publish:weather.oslo:")
    write(access, BEFORE)
    reload(scene)
    assert is_closed(stranger)
    assert publish(join("")) == "UNAUTHORIZED"
    assert subscribe(talker, "weather.#")["error"]["code"] == "FORBIDDEN"


@pytest.mark.parametrize("scheme", ["memory"])
def test_an_invalid_file_changes_nothing(scene: Scene, access: Path, join: Join) -> None:
    talker, reader, stranger = join("mb_talker"), join("mb_reader"), join("")
    subscribe(reader, "weather.#")
    text = access.read_text()
    for edit, mode, error in INVALID.values():
        if mode == 0o666 and sys.platform == "win32":
            continue
        access.unlink()
        if edit is not None:
            access.write_text(edit(text))
            access.chmod(mode)
        before = (scene.services().keys(), scene.ask("topic.list"))
        with pytest.raises(LocalProtocolError, match=error) as caught:
            reload(scene)
        assert str(access) in str(caught.value)
        assert "\n" not in str(caught.value)
        assert publish(talker) is None
        assert reader.receive().startswith(b"publish:weather.oslo:")
        assert publish(reader) == "FORBIDDEN"
        assert publish(stranger) == "UNAUTHORIZED"
        assert (scene.services().keys(), scene.ask("topic.list")) == before
        access.write_text(text)
        access.chmod(0o600)


def test_a_broker_in_a_thread_reloads_from_any_thread(access: Path) -> None:
    with (
        running("memory://", access=access) as broker,
        MessageBrokerClient(
            broker.url, token="mb_removed", reconnect=False, drain_timeout=0
        ) as removed,
        MessageBrokerClient(broker.url, token="mb_talker") as talker,
    ):
        subscription = removed.subscribe("weather.#")
        access.chmod(0o666)
        if sys.platform != "win32":
            with pytest.raises(LocalProtocolError, match="other users of this machine can write"):
                broker.reload_access()
        talker.publish("weather.oslo", 1, confirm=True)
        assert next(iter(subscription)).payload == 1
        write(access, {"talker": BEFORE["talker"]})
        broker.reload_access()
        with pytest.raises(ConnectionLost, match="closed by the broker"):
            next(iter(subscription))
        with pytest.raises(ConnectError, match="the token is invalid"):
            MessageBrokerClient(broker.url, token="mb_removed").connect()
