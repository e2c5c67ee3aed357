"""The gateway: served by uvicorn as in production, and each error has its HTTP status."""

from __future__ import annotations

import importlib.util
import json
import re
import signal
import sys
import threading
from collections.abc import Iterator
from http.client import HTTPConnection
from types import ModuleType
from typing import Any

import pytest
from fastapi.testclient import TestClient

from mb_sync import MessageBrokerClient
from mb_testing import FaultyBroker

from .programs import EXAMPLES, PATIENCE, started

PEN = {"sku": "pen", "quantity": 3, "price": "1.20"}
ORDER = {"customer": "Ada", "items": [PEN]}
PLACED = {"id": 1, **ORDER, "total": "3.60"}


def test_uvicorn_serves_it_and_stops_in_order(mb_broker: FaultyBroker) -> None:
    uvicorn = ("-m", "uvicorn", "gateway:app", "--port", "0")
    with (
        started("orders/orders.py", url=mb_broker.url_of("tcp")) as service,
        started(*uvicorn, url=mb_broker.url_of("ws")) as server,
    ):
        assert service.stdout is not None
        assert service.stdout.readline() == "ready\n"
        port = running_on(server.stderr)
        assert ask(port, "POST", "/orders", ORDER) == (201, PLACED)
        assert ask(port, "GET", "/orders/1") == (200, PLACED)
        assert ask(port, "GET", "/orders/7") == (
            404,
            {"detail": "there is no order 7", "details": None},
        )
        assert ask(port, "GET", "/health") == (200, {"broker": True})
        server.send_signal(signal.SIGTERM)
        _, err = server.communicate(timeout=PATIENCE)
        assert "Application shutdown complete" in err
        assert "ERROR" not in err


def running_on(log: Any) -> int:
    """The port that uvicorn says it has."""
    lines = []
    for line in log:
        found = re.search(r"running on http://127\.0\.0\.1:(\d+)", line)
        if found is not None:
            return int(found[1])
        lines.append(line)
    raise AssertionError("".join(lines))


def ask(port: int, method: str, path: str, body: object = None) -> tuple[int, Any]:
    connection = HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        text = None if body is None else json.dumps(body)
        connection.request(method, path, text, {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, json.load(response)
    finally:
        connection.close()


@pytest.fixture
def gateway(mb_broker: FaultyBroker, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The gateway's module, for a broker of this test."""
    monkeypatch.setenv("MB_URL", mb_broker.url)
    spec = importlib.util.spec_from_file_location("gateway", EXAMPLES / "gateway.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "gateway", module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def http(gateway: ModuleType) -> Iterator[TestClient]:
    with TestClient(gateway.app) as client:
        yield client


@pytest.fixture
def service(mb_broker: FaultyBroker) -> Iterator[MessageBrokerClient]:
    """A client that may stand for the order service."""
    with MessageBrokerClient(mb_broker.url) as client:
        yield client


def test_nobody_answers(http: TestClient) -> None:
    assert http.post("/orders", json=ORDER).status_code == 503


def test_no_answer_in_time(
    http: TestClient,
    gateway: ModuleType,
    service: MessageBrokerClient,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gateway, "TIMEOUT", 50)
    over = threading.Event()
    service.subscribe("order.place", action="request", handler=lambda message: over.wait(PATIENCE))
    assert http.post("/orders", json=ORDER).status_code == 504
    over.set()


def test_the_service_fails(
    http: TestClient, service: MessageBrokerClient, caplog: pytest.LogCaptureFixture
) -> None:
    service.subscribe("order.place", action="request", handler=lambda message: 1 / 0)
    assert http.post("/orders", json=ORDER).status_code == 502


def test_the_service_can_not_read_the_order(http: TestClient, service: MessageBrokerClient) -> None:
    service.subscribe("order.place", action="request", handler=lambda message: message.decode(int))
    answer = http.post("/orders", json=ORDER)
    assert answer.status_code == 422
    expected = {"detail": "Expected `int`, got `object` at $", "details": {"path": "$"}}
    assert answer.json() == expected


def test_the_answer_does_not_fit(http: TestClient, service: MessageBrokerClient) -> None:
    service.subscribe("order.place", action="request", handler=lambda message: {"id": "one"})
    assert http.post("/orders", json=ORDER).status_code == 502


def test_the_order_is_too_large(http: TestClient) -> None:
    assert http.post("/orders", json={**ORDER, "customer": "a" * 20_000}).status_code == 413


def test_the_gateway_refuses_an_invalid_order(http: TestClient) -> None:
    answer = http.post("/orders", json={"customer": "Ada", "items": []})
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["body", "items"]


def test_the_connection_breaks_while_it_waits(
    http: TestClient, mb_broker: FaultyBroker, service: MessageBrokerClient
) -> None:
    def leave(message: object) -> None:
        mb_broker.faults.cut()

    service.subscribe("order.place", action="request", handler=leave)
    answer = http.post("/orders", json=ORDER)
    assert answer.status_code == 502  # it may have been placed


def test_the_broker_is_away(
    http: TestClient, gateway: ModuleType, mb_broker: FaultyBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway, "TIMEOUT", 50)
    mb_broker.kill()
    assert http.post("/orders", json=ORDER).status_code == 503
    assert http.get("/orders/1").status_code == 503
    assert http.get("/health").json() == {"broker": False}
