"""How `mb trace` writes exchanges, for people and as JSON."""

from __future__ import annotations

from typing import Any

import pytest

from mb_tools.commands.trace import Names, tree_json, tree_text

from .audit_events import Feed, feed

__all__ = ["feed"]


def plain(text: str, **styles: Any) -> str:
    return text


def tagged(text: str, **styles: Any) -> str:
    return f"<{styles['fg']} {text}>" if "fg" in styles else text


@pytest.fixture
def names() -> Names:
    names = Names()
    names.set("shop", "Shop")
    names.set("billing", "Billing")
    return names


def test_a_tree_is_drawn_with_its_branches(feed: Feed, names: Names) -> None:
    outer = feed.request("shop", "order.pay", "billing")
    inner = feed.request("billing", "bank.charge", "0123456789ab", parent=outer[1])
    feed.publish("0123456789ab", "bank.used", "shop", parent=inner[1])
    feed.now += 0.0004
    feed.answer("0123456789ab", "billing", "bank.charge", inner, {})
    feed.publish("billing", "order.paid", "mail0", *(f"m{n}" for n in range(1, 7)), parent=outer[1])
    feed.now += 0.012
    feed.answer("billing", "shop", "order.pay", outer, {})
    (root,) = feed.wait(1)
    first, *rest = tree_text(root, names, plain).splitlines()
    assert first[12:] == "  request  order.pay  Shop → Billing  12 ms"
    assert rest == [
        "              ├─ request  bank.charge  Billing → 01234567  <1 ms",
        "              │  └─ publish  bank.used  01234567 → Shop",
        "              └─ publish  order.paid  Billing → mail0, m1, m2, m3, m4 and 2 more",
    ]


def test_what_went_wrong_is_red(feed: Feed, names: Names) -> None:
    own_id, _ = feed.request("shop", "a.b", "billing")
    feed.refuse("shop", "a.b", own_id, "TIMEOUT")
    feed.publish("shop", "c.d", parent=feed.new_id())
    feed.refuse("shop", "c.d", None, "NO\x1b")
    feed.request("shop", "e.f", "billing")
    failed, nobody = feed.wait(1)
    (unseen,) = [*feed.wait(3), *feed.wait(1)]
    assert "  <1 ms  <red TIMEOUT: why>\n" in tree_text(failed, names, tagged)
    assert "Shop → nobody  <red NO\\x1b: why>  (caused by 00000000, not in this tree)\n" in (
        tree_text(nobody, names, tagged)
    )
    assert "Billing  <red no answer seen>\n" in tree_text(unseen, names, tagged)


def test_what_is_not_over_says_so(names: Names) -> None:
    feed = Feed(limit=1)
    for topic in ("a.b", "c.d"):
        feed.request("shop", topic, "billing")
    (root,) = feed.take()
    assert "Billing  <yellow not answered yet>\n" in tree_text(root, names, tagged)


def test_as_json_a_tree_is_nested(feed: Feed, names: Names) -> None:
    outer = feed.request("shop", "order.pay", "billing")
    feed.publish("billing", "order.paid", *(f"mail{n}" for n in range(60)), parent=outer[1])
    feed.now += 0.012
    feed.refuse("shop", "order.pay", outer[0], "TIMEOUT")
    feed.publish("shop", "a.b", "nobody", parent=outer[1])
    (root,) = feed.wait(1)
    value = tree_json(root, names)
    paid, other = value.pop("children")
    assert value == {
        "action": "request",
        "topic": "order.pay",
        "from": {"id": "shop", "name": "Shop"},
        "to": [{"id": "billing", "name": "Billing"}],
        "timestamp": "2026-01-01T00:00:00.000Z",
        "ms": 12,
        "outcome": "failed",
        "error": {"code": "TIMEOUT", "message": "why"},
    }
    assert (len(paid["to"]), paid["receivers"], paid["ms"]) == (50, 60, None)
    assert (other["outcome"], other["to"]) == ("delivered", [{"id": "nobody", "name": None}])
    feed.publish("shop", "a.b", "nobody", parent="gone")
    (late,) = feed.wait(1)
    assert tree_json(late, names)["parentRequestId"] == "gone"
