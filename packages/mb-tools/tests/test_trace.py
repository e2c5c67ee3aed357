"""`mb trace` beside services that ask each other."""

from __future__ import annotations

import json
import re
import signal
import threading
from typing import Any

import pytest

from mb_core import InvalidRequestError, Message


@pytest.fixture
def shop(peer: Any, peer_of: Any, url: str) -> Any:
    """A service that asks and tells another one while it answers."""

    async def pay(message: Message) -> dict[str, bool]:
        parent = message.request_id
        await peer.client.request("bank.charge", {"n": 1}, parent_id=parent)
        await peer.client.publish("order.paid", {}, parent_id=parent)
        return {"paid": True}

    def refuse(message: Message) -> None:
        raise InvalidRequestError("no money")

    peer.call(peer.client.register_service, "Billing", "Takes money")
    peer.answer("order.pay", pay)
    peer.answer("bank.charge", lambda message: {})
    peer.answer("bank.refuse", refuse)
    return peer


def wait_for_tracer(peer: Any) -> None:
    peer.wait_for_subscriber("system.message")
    peer.wait_for_service("mb trace")


def test_a_tree_is_a_line_of_json(mb: Any, shop: Any, peer_of: Any, url: str) -> None:
    with mb.started("trace", "-n", "1") as process, peer_of(url) as customer:
        wait_for_tracer(shop)
        customer.call(customer.client.register_service, "Customer", "Pays")
        assert customer.request("order.pay", {}) == {"paid": True}
        out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    tree = json.loads(out)
    assert (tree["action"], tree["topic"], tree["outcome"]) == ("request", "order.pay", "answered")
    assert (tree["from"]["name"], tree["to"][0]["name"]) == ("Customer", "Billing")
    assert tree["ms"] >= 0
    charge, paid = tree["children"]
    assert (charge["topic"], charge["outcome"]) == ("bank.charge", "answered")
    assert (paid["topic"], paid["action"]) == ("order.paid", "publish")
    assert (paid["outcome"], "error" in paid) == ("unheard", False)


def test_only_what_was_asked_for_is_shown(mb: Any, shop: Any) -> None:
    with mb.started("trace", "bank.#", "--errors", "-n", "1") as process:
        wait_for_tracer(shop)
        shop.request("bank.charge", {})
        with pytest.raises(InvalidRequestError):
            shop.request("bank.refuse", {})
        out, _ = process.communicate(timeout=60)
    assert json.loads(out)["topic"] == "bank.refuse"


def test_the_broker_s_own_topics_are_shown_on_request(mb: Any, shop: Any) -> None:
    with mb.started("trace", "--system", "-n", "1") as process:
        wait_for_tracer(shop)
        out, _ = process.communicate(timeout=60)
    assert json.loads(out)["topic"].startswith("system.")


def test_ctrl_c_ends_trace_with_status_0(mb: Any, peer: Any) -> None:
    with mb.started("trace") as process:
        wait_for_tracer(peer)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, "", "")


def test_on_a_terminal_a_tree_is_drawn(mb: Any, shop: Any) -> None:
    shown: list[tuple[int, str]] = []
    thread = threading.Thread(target=lambda: shown.append(mb.on_terminal("trace", "-n", "1")))
    thread.start()
    wait_for_tracer(shop)
    shop.request("order.pay", {})
    thread.join(60)
    status, text = shown[0]
    assert status == 0
    hint, *lines = re.sub(r"\x1b\[[\d;]*m", "", text).splitlines()
    assert hint == f"mb trace: tracing all messages at {mb.url}; Ctrl-C to stop"
    assert re.fullmatch(
        r"\d\d:\d\d:\d\d\.\d{3}  request  order\.pay  Billing → Billing  (<1|\d+) ms", lines[0]
    )
    assert re.fullmatch(r" {14}├─ request  bank\.charge  Billing → Billing  (<1|\d+) ms", lines[1])
    assert re.fullmatch(r" {14}└─ publish  order\.paid  Billing → nobody  unheard", lines[2])
    assert "\x1b[33munheard" in text  # in yellow
