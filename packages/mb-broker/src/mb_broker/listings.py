"""The lists that clients can request: services, topics, and subscriptions, complete or in pages.

A request has 80 bytes, and its answer may have millions. So each entry is encoded only when it
changes, and a list costs only joining the encoded entries.
"""

from __future__ import annotations

import math
import time
from bisect import bisect_left, bisect_right, insort
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

import msgspec

from mb_core.errors import InvalidRequestError
from mb_core.header import Action

from .registry import Registry, Service, Subscription

__all__ = ["BrokerLists", "JsonList", "PageRequest", "read_page_request"]

K = TypeVar("K", bound=Any)  # hashable and orderable

# Finding an entry takes as long as encoding this many bytes.
_ENTRY_COST = 200

# With more new keys than this, sorting all keys is cheaper than inserting each.
_MAX_INSERTS = 64

# The most services whose lists of subscriptions are kept.
_KEPT_SERVICES = 16


class PageRequest(msgspec.Struct, frozen=True):
    """The requested part of a list: at most `limit` entries after the cursor `after`."""

    limit: int | None = None
    after: str | None = None


ALL = PageRequest()


class JsonList(Generic[K]):
    """The entries of a list by their keys, in the order of the keys.

    `keys` returns the present keys when the list is first requested; from then on, call
    `invalidate` with each key whose entry was added, removed or changed. `read` returns the entry
    of a key, or None if it was removed. `write_cursor` turns a key into text and `read_cursor`
    turns it back, raising ValueError if it is invalid.
    """

    def __init__(
        self,
        keys: Callable[[], Iterable[K]],
        read: Callable[[K], Any],
        write_cursor: Callable[[K], str],
        read_cursor: Callable[[str], K],
    ) -> None:
        self._keys = keys
        self._read = read
        self._write_cursor = write_cursor
        self._read_cursor = read_cursor
        self._asked = False  # nothing is kept before that
        self._changed_keys: set[K] = set()
        self._entries: dict[K, bytes] = {}
        self._order: list[K] = []
        self._new: set[K] = set()  # have an entry, but are not in the order yet
        self._size = 0  # bytes of all entries, each with a comma
        self._all: bytes | None = None

    def invalidate(self, key: K) -> None:
        if self._asked:
            self._changed_keys.add(key)

    def answer(self, name: str, page: PageRequest, max_size: int) -> bytes:
        """Return a JSON object with the list, or a page of it, under `name`.

        A page ends before it exceeds `max_size` bytes; if more entries follow, `next` has the
        cursor for the next request.

        Raises InvalidRequestError if the answer would be larger, or if `after` is invalid.
        """
        self.update()
        room = max_size - len(name) - 200  # for everything except entries
        if page == ALL:
            if self._size > room:
                raise _too_large(self._size, max_size)
            if self._all is None:
                self._all = b",".join(map(self._entries.__getitem__, self._order))
            return b'{"%b":[%b]}' % (name.encode(), self._all)
        return self._page(name.encode(), page, room, max_size)

    def _page(self, name: bytes, page: PageRequest, room: int, max_size: int) -> bytes:
        order, entries = self._order, self._entries
        start = 0
        if page.after is not None:
            try:
                start = bisect_right(order, self._read_cursor(page.after))
            except ValueError:
                raise InvalidRequestError(
                    f"invalid after {page.after[:300]!r}: expected the value of next in the "
                    "answer before",
                    details={"after": page.after},
                ) from None
        most = len(order) if page.limit is None else start + page.limit
        chosen: list[bytes] = []
        for key in order[start:most]:
            entry = entries[key]
            room -= len(entry) + 1
            if room < 0:
                if not chosen:
                    raise _too_large(len(entry), max_size)
                break
            chosen.append(entry)
        end = start + len(chosen)
        if end == len(order):
            return b'{"%b":[%b]}' % (name, b",".join(chosen))
        cursor = msgspec.json.encode(self._write_cursor(order[end - 1]))
        return b'{"%b":[%b],"next":%b}' % (name, b",".join(chosen), cursor)

    def update(self, budget: float = math.inf) -> bool:
        """Encode the entries that have changed; return whether all are done.

        Stop after about `budget` bytes: if every entry has changed, encoding them all can take
        hundreds of milliseconds, which callers may split up.
        """
        if not self._asked:
            self._asked = True
            self._changed_keys.update(self._keys())
        changed = self._changed_keys
        if not changed:
            return True
        self._all = None
        entries, order, new = self._entries, self._order, self._new
        while changed and budget > 0:
            key = changed.pop()
            budget -= _ENTRY_COST
            before = entries.get(key)
            found = self._read(key)
            if before is not None:
                self._size -= len(before) + 1
            if found is not None:
                entries[key] = entry = msgspec.json.encode(found)
                self._size += len(entry) + 1
                budget -= len(entry)
                if before is None:
                    new.add(key)
            elif before is not None:
                del entries[key]
                if key in new:
                    new.remove(key)
                else:
                    del order[bisect_left(order, key)]
        if changed:
            return False
        if len(new) <= _MAX_INSERTS:
            for key in new:
                insort(order, key)
        else:
            order += new
            order.sort()
        new.clear()
        return True


class BrokerLists:
    """The lists that clients can request, each kept up to date from its first request on.

    `with_users` adds to each service which user it is.
    """

    def __init__(self, registry: Registry, *, with_users: bool = False) -> None:
        self._registry = registry
        self._with_users = with_users
        self.topics = JsonList(self._topic_keys, self._topic, " ".join, _topic_key)
        self._services = JsonList(self._service_numbers, self._service, str, int)
        self._listed: dict[int, tuple[Service, float]] = {}
        self._epoch = 0.0  # the time of day at 0 of the clock of the Router's driver
        # Only for the few services whose lists were requested last.
        self._of_services: OrderedDict[Service, JsonList[tuple[str, str]]] = OrderedDict()
        registry.changed = self._changed

    def services(self, now: float) -> JsonList[int]:
        """Return all services in the order in which they connected."""
        epoch = time.time() - now
        if abs(epoch - self._epoch) > 1:  # the clock was set, or the machine was suspended
            self._epoch = epoch
            self._listed.clear()
        # The `lastHeartbeat` of clients that have sent something has changed.
        listed, services = self._listed, self._registry.services
        for service in services.values():
            known = listed.get(service.number)
            if known is None or known[1] != service.last_seen:
                listed[service.number] = (service, service.last_seen)
                self._services.invalidate(service.number)
        if len(listed) > len(services):
            for number in [n for n, (other, _) in listed.items() if other.id not in services]:
                del listed[number]
                self._services.invalidate(number)
        return self._services

    def subscriptions(self, service: Service) -> JsonList[tuple[str, str]]:
        """Return the subscriptions of one service, by topic, then action."""
        listing = self._of_services.get(service)
        if listing is None:
            listing = JsonList(
                lambda: [
                    (each.pattern, each.action.value) for each in service.subscriptions.values()
                ],
                lambda key: _own_subscription(service, key),
                " ".join,
                _topic_key,
            )
            self._of_services[service] = listing
            if len(self._of_services) > _KEPT_SERVICES:
                self._of_services.popitem(last=False)
        self._of_services.move_to_end(service)
        return listing

    def service_changed(self, service: Service) -> None:
        """Note that its name, its description or its user changed."""
        self._listed.pop(service.number, None)

    def _changed(self, subscription: Subscription) -> None:
        key = (subscription.pattern, subscription.action.value)
        self.topics.invalidate(key)
        if self._of_services:
            service = subscription.service
            listing = self._of_services.get(service)
            if listing is not None:
                if service.id in self._registry.services:
                    listing.invalidate(key)
                else:
                    del self._of_services[service]

    def _topic_keys(self) -> Iterator[tuple[str, str]]:
        for entry in self._registry.subscriptions():
            yield entry.pattern, entry.action.value

    def _topic(self, key: tuple[str, str]) -> dict[str, Any] | None:
        topic, action = key
        entries = self._registry.subscribers(Action(action), topic)
        if not entries:
            return None
        return {
            "action": action,
            "topic": topic,
            "subscribers": [
                {"serviceId": entry.service.id, **_priority(entry)} for entry in entries
            ],
        }

    def _service_numbers(self) -> list[int]:
        return list(self._listed)

    def _service(self, number: int) -> dict[str, Any] | None:
        known = self._listed.get(number)
        if known is None:
            return None
        service = known[0]
        entry: dict[str, Any] = {
            "id": service.id,
            "name": service.name,
            "description": service.description,
            "connectedAt": self._iso(service.connected_at),
            "lastHeartbeat": self._iso(service.last_seen),
        }
        if self._with_users:
            entry["user"] = service.user.name if service.user is not None else None
        return entry

    def _iso(self, moment: float) -> str:
        then = datetime.fromtimestamp(self._epoch + moment, UTC)
        return then.isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def _topic_key(cursor: str) -> tuple[str, str]:
    topic, separator, action = cursor.partition(" ")
    if not separator:
        raise ValueError
    return topic, action


def _own_subscription(service: Service, key: tuple[str, str]) -> dict[str, Any] | None:
    topic, action = key
    entry = service.subscriptions.get((Action(action), topic))
    if entry is None:
        return None
    return {"action": action, "topic": topic, **_priority(entry)}


def _priority(entry: Subscription) -> dict[str, Any]:
    return {} if entry.priority is None else {"priority": entry.priority}


def read_page_request(payload: dict[str, Any]) -> PageRequest:
    """Return the requested page; raises InvalidRequestError."""
    limit, after = payload.get("limit"), payload.get("after")
    if limit is not None and (type(limit) is not int or limit < 1):
        raise InvalidRequestError(
            f"invalid limit {limit!r}: expected a whole number of entries, 1 or more",
            details={"limit": limit},
        )
    if after is not None and not isinstance(after, str):
        raise InvalidRequestError(
            "invalid after: expected the value of next from the previous answer",
            details={"after": after},
        )
    return PageRequest(limit, after) if limit is not None or after is not None else ALL


def _too_large(size: int, max_size: int) -> InvalidRequestError:
    return InvalidRequestError(
        f"the answer would have {size} bytes, the limit is {max_size}: request it in pages, "
        "with limit (a number of entries) and after (the value of next from the previous page)",
        details={"size": size, "maxSize": max_size},
    )
