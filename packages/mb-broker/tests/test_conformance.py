"""The recorded exchanges with the reference broker, played against ours.

tests/conformance/README.md says how to read them.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from mb_broker import Broker
from mb_testing import until

Connect = Callable[..., Awaitable[Any]]
Step = dict[str, Any]

VECTORS = Path(__file__).parents[3] / "tests" / "conformance" / "vectors.json"
EXCHANGES: dict[str, list[Step]] = {
    exchange["name"]: exchange["steps"] for exchange in json.loads(VECTORS.read_text())
}

# Followers of the audit feed also get the requests that show us that nothing else arrives.
_LEAVE = (
    'request:system.topic.unsubscribe:1.0.0:{id9}\n{"action":"publish","topic":"system.message"}'
)
_LEAVE_EVENT = (
    'publish:system.message:1.0.0\n{"timestamp":"{time}","timeout":5000,"from":"{svc1}","message":'
    '{"header":{"action":"request","topic":"system.topic.unsubscribe","version":"1.0.0",'
    '"requestId":"{id9}"},"payload":{"action":"publish","topic":"system.message"}}}'
)
_LEAVE_ANSWER = 'response:system.topic.unsubscribe:1.0.0:{id9}\n{"status":"success"}'
AFTERWARDS: dict[str, list[Step]] = {
    "system.message shows traffic": [
        {"send": "a", "text": _LEAVE},
        {"expect": "a", "text": _LEAVE_EVENT},
        {"expect": "a", "text": _LEAVE_ANSWER},
    ]
}

_PLACEHOLDER = re.compile(r"\{(id\d+|svc\d+|time)\}")
_ID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"


class MismatchError(AssertionError):
    """The broker did something else than was recorded."""


class Names:
    """What the placeholders of one exchange stand for."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    def fill(self, text: str) -> bytes:
        """The message that a client sends."""

        def value(placeholder: re.Match[str]) -> str:
            name = placeholder[1]
            if name not in self._known and name.startswith("id"):
                self._known[name] = str(uuid.uuid4())
            return self._known[name]

        return _PLACEHOLDER.sub(value, text).encode()

    def compare(self, expected: str, received: bytes) -> None:
        """Raise MismatchError where the message that came is not the expected one."""
        try:
            header, _, payload = expected.partition("\n")
            received_header, _, received_payload = received.decode().partition("\n")
            self._compare_text(header, received_header)
            self._compare_payload(payload, received_payload)
        except MismatchError as error:
            raise MismatchError(f"expected {expected!r}, received {received!r}: {error}") from None

    def _compare_text(self, expected: str, received: str) -> None:
        pattern, end = "", 0
        fresh: set[str] = set()
        for placeholder in _PLACEHOLDER.finditer(expected):
            pattern += re.escape(expected[end : placeholder.start()])
            end, name = placeholder.end(), placeholder[1]
            if name == "time":
                pattern += _TIME
            elif name in self._known:
                pattern += re.escape(self._known[name])
            elif name in fresh:
                pattern += f"(?P={name})"
            else:
                pattern += f"(?P<{name}>{_ID})"
                fresh.add(name)
        found = re.fullmatch(pattern + re.escape(expected[end:]), received, re.DOTALL)
        if found is None:
            raise MismatchError(f"{received!r} is not {expected!r}")
        for name in fresh:
            if found[name] in self._known.values():
                raise MismatchError(f"{name} is an id that has another name already")
            self._known[name] = found[name]

    def _compare_payload(self, expected: str, received: str) -> None:
        if expected.startswith("error:{"):
            if not received.startswith("error:"):
                raise MismatchError("no error: in front")
            self._compare_error(json.loads(expected[6:]), _json_of(received[6:]))
            return
        try:
            value = json.loads(expected)
        except ValueError:
            self._compare_text(expected, received)
            return
        error = value.get("error") if isinstance(value, dict) else None
        if isinstance(error, dict) and "code" in error:
            answer = _json_of(received)
            if not isinstance(answer, dict) or set(answer) != {"error"}:
                raise MismatchError("no error")
            self._compare_error(error, answer["error"])
        else:
            self._compare_json(value, _json_of(received))

    def _compare_error(self, expected: Any, received: Any) -> None:
        if received.get("code") != expected["code"]:
            raise MismatchError(f"the code is {received.get('code')}")
        self._compare_text("{time}", str(received.get("timestamp")))

    def _compare_json(self, expected: Any, received: Any) -> None:
        if type(expected) is not type(received):
            raise MismatchError(f"{received!r} is not {expected!r}")
        if isinstance(expected, str):
            self._compare_text(expected, received)
        elif isinstance(expected, dict):
            if set(expected) != set(received):
                raise MismatchError(f"the keys are {sorted(received)}")
            for key, value in expected.items():
                self._compare_json(value, received[key])
        elif isinstance(expected, list):
            if len(expected) != len(received):
                raise MismatchError(f"{len(received)} items, not {len(expected)}")
            for value, other in zip(expected, received, strict=True):
                self._compare_json(value, other)
        elif expected != received:
            raise MismatchError(f"{received!r} is not {expected!r}")


def _json_of(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        raise MismatchError(f"{text!r} is not valid JSON") from None


# On real connections


@pytest.mark.anyio
@pytest.mark.parametrize("host", ["tcp://127.0.0.1:0", "ws://127.0.0.1:0", "memory://"])
async def test_the_broker_plays_the_recorded_exchanges(host: str, connect: Connect) -> None:
    faults: dict[str, str] = {}
    # Each has a broker to itself, whose lists show nothing else; many are played at once.
    limiter = anyio.CapacityLimiter(25)

    async def play(name: str, steps: list[Step]) -> None:
        async with limiter, Broker(host) as broker:
            try:
                with anyio.fail_after(10):
                    await _play(steps, broker, connect)
            except (AssertionError, TimeoutError) as error:
                faults[name] = repr(error)

    async with anyio.create_task_group() as tasks:
        for name, steps in EXCHANGES.items():
            tasks.start_soon(play, name, [*steps, *AFTERWARDS.get(name, [])])
    assert not faults


async def _play(steps: list[Step], broker: Broker, connect: Connect) -> None:
    names = Names()
    clients: dict[str, Any] = {}
    for step in steps:
        match step:
            case {"connect": name}:
                clients[name] = await connect(broker.url, greeted=False)
            case {"send": name, "text": text}:
                clients[name].send(names.fill(text))
            case {"expect": name, "text": text}:
                names.compare(text, await clients[name].receive())
            case {"wait": seconds}:
                await anyio.sleep(seconds)
            case {"close": name}:
                await clients.pop(name).close()
                await until(lambda: broker.connections == len(clients))
            case {"closed": name}:
                client = clients.pop(name)
                await client.lost.wait()
                assert not client.inbox
            case _:
                raise AssertionError(f"unknown step {step}")
    # Nothing else comes: the answer to a question does.  Once round, all that was sent before
    # has been handled; twice round, all that came of it has arrived.
    for client in 2 * list(clients.values()):
        await client.is_served()


# The Router alone, on a clock of its own


@pytest.mark.parametrize(
    "name",
    # The size of a message is the Wire's business, not the Router's.
    [name for name in EXCHANGES if name != "oversize message closes the connection"],
)
def test_the_router_plays_the_recorded_exchanges(name: str, bench: Any) -> None:
    names = Names()
    clients: dict[str, Any] = {}
    for step in EXCHANGES[name]:
        match step:
            case {"connect": client}:
                clients[client] = bench.connect()
            case {"send": client, "text": text}:
                clients[client].send(names.fill(text))
            case {"expect": client, "text": text}:
                inbox = clients[client].inbox
                if not inbox:
                    bench.advance(6)  # longer than any time limit, shorter than a heartbeat
                if not inbox:
                    raise MismatchError(f"nothing came, expected {text!r}")
                names.compare(text, inbox.popleft())
            case {"wait": seconds}:
                bench.advance(seconds)
            case {"close": client}:
                clients.pop(client).leave()
            case _:
                raise AssertionError(f"unknown step {step}")
    for peer in clients.values():
        if peer.inbox:
            raise MismatchError(f"not expected: {list(peer.inbox)}")


def test_all_that_was_recorded_is_there() -> None:
    assert len(EXCHANGES) == 262


@pytest.mark.parametrize(
    ("expected", "received"),
    [
        pytest.param("a:{id1}\n{}", "a:x\n{}", id="no id"),
        pytest.param("a:{id1}:{id1}\n", f"a:{uuid.uuid4()}:{uuid.uuid4()}\n", id="two ids"),
        pytest.param('a\n{"x":1}', 'a\n{"x":2}', id="another value"),
        pytest.param('a\n{"x":1}', 'a\n{"x":true}', id="another type"),
        pytest.param('a\n{"x":1}', 'a\n{"x":1,"y":2}', id="one key too many"),
        pytest.param("a\n[1]", "a\n[1,2]", id="one item too many"),
        pytest.param("a\n{}", "a\nno JSON", id="no JSON"),
        pytest.param("a\nno JSON", "a\n{}", id="JSON"),
        pytest.param("b\n{}", "a\n{}", id="another header"),
        pytest.param('a\n{"t":"{time}"}', 'a\n{"t":"2026-01-01"}', id="no time"),
        pytest.param('a\n{"error":{"code":"A"}}', 'a\n{"error":{"code":"B"}}', id="another code"),
        pytest.param('a\n{"error":{"code":"A"}}', 'a\n{"error":{"code":"A"}}', id="no timestamp"),
        pytest.param('a\n{"error":{"code":"A"}}', 'a\n{"code":"A"}', id="no error"),
        pytest.param('a\nerror:{"code":"A"}', 'a\n{"error":{"code":"A"}}', id="another shape"),
    ],
)
def test_the_player_sees_a_difference(expected: str, received: str) -> None:
    with pytest.raises(MismatchError):
        Names().compare(expected, received.encode())
