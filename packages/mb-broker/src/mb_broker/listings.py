"""Long lists as JSON, kept from one question to the next.

A question has 80 bytes, and its answer may have millions.  So an entry is encoded once until it
changes, whoever asks, and a list costs the joining of what is there.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

import msgspec

from mb_core.errors import InvalidRequestError

__all__ = ["Listing", "Page", "read_page"]

K = TypeVar("K", bound=Any)  # hashable, and with an order

# What finding an entry takes, compared with encoding so many bytes.
_EACH = 200

# Beyond so many new keys, sorting all costs less than finding the place of each.
_FEW = 64


class Page(msgspec.Struct, frozen=True):
    """The part of a list that is asked for: at most `limit` entries behind the mark `after`."""

    limit: int | None = None
    after: str | None = None


ALL = Page()


class Listing(Generic[K]):
    """The entries of a list by their keys, in the order of the keys.

    `keys` gives those that there are, when the list is asked for first; from then on, `touch`
    has to be called with each key whose entry has come, gone or changed.  `read` gives the entry
    of a key, None where there is none any more.  `mark` and `unmark` write a key as a text and
    read it again; `unmark` raises ValueError.
    """

    def __init__(
        self,
        keys: Callable[[], Iterable[K]],
        read: Callable[[K], Any],
        mark: Callable[[K], str],
        unmark: Callable[[str], K],
    ) -> None:
        self._keys = keys
        self._read = read
        self._mark = mark
        self._unmark = unmark
        self._asked = False  # before, nothing is kept
        self._touched: set[K] = set()
        self._entries: dict[K, bytes] = {}
        self._order: list[K] = []
        self._new: set[K] = set()  # have an entry, and no place in the order yet
        self._size = 0  # bytes of all entries, each with a comma
        self._all: bytes | None = None

    def touch(self, key: K) -> None:
        if self._asked:
            self._touched.add(key)

    def answer(self, name: str, page: Page, max_size: int) -> bytes:
        """Return the JSON of an object that has the list, or a page of it, under `name`.

        A page ends before `max_size` bytes are exceeded; if more entries follow, the object has
        the mark for the next question under `next`.

        Raises InvalidRequestError if the answer would be larger, or if `after` is not such a mark.
        """
        self.bring_up_to_date()
        room = max_size - len(name) - 200  # for all that is not an entry
        if page == ALL:
            if self._size > room:
                raise _too_large(self._size, max_size)
            if self._all is None:
                self._all = b",".join(map(self._entries.__getitem__, self._order))
            return b'{"%b":[%b]}' % (name.encode(), self._all)
        return self._page(name.encode(), page, room, max_size)

    def _page(self, name: bytes, page: Page, room: int, max_size: int) -> bytes:
        order, entries = self._order, self._entries
        start = 0
        if page.after is not None:
            try:
                start = bisect_right(order, self._unmark(page.after))
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
        mark = msgspec.json.encode(self._mark(order[end - 1]))
        return b'{"%b":[%b],"next":%b}' % (name, b",".join(chosen), mark)

    def bring_up_to_date(self, some: float = math.inf) -> bool:
        """Encode the entries that have changed; return whether that was all of them.

        It ends after about `some` bytes: one change of each can be hundreds of milliseconds of
        work, so whoever answers a question may do it in several goes.
        """
        if not self._asked:
            self._asked = True
            self._touched.update(self._keys())
        touched = self._touched
        if not touched:
            return True
        self._all = None
        entries, order, new = self._entries, self._order, self._new
        while touched and some > 0:
            key = touched.pop()
            some -= _EACH
            before = entries.get(key)
            found = self._read(key)
            if before is not None:
                self._size -= len(before) + 1
            if found is not None:
                entries[key] = entry = msgspec.json.encode(found)
                self._size += len(entry) + 1
                some -= len(entry)
                if before is None:
                    new.add(key)
            elif before is not None:
                del entries[key]
                if key in new:
                    new.remove(key)
                else:
                    del order[bisect_left(order, key)]
        if touched:
            return False
        if len(new) <= _FEW:
            for key in new:
                insort(order, key)
        else:
            order += new
            order.sort()
        new.clear()
        return True


def read_page(payload: dict[str, Any]) -> Page:
    """The page that a question asks for; raises InvalidRequestError."""
    limit, after = payload.get("limit"), payload.get("after")
    if limit is not None and (type(limit) is not int or limit < 1):
        raise InvalidRequestError(
            f"invalid limit {limit!r}: expected a whole number of entries, 1 or more",
            details={"limit": limit},
        )
    if after is not None and not isinstance(after, str):
        raise InvalidRequestError(
            "invalid after: expected the value of next in the answer before",
            details={"after": after},
        )
    return Page(limit, after) if limit is not None or after is not None else ALL


def _too_large(size: int, max_size: int) -> InvalidRequestError:
    return InvalidRequestError(
        f"the answer would have {size} bytes, the limit is {max_size}: ask for a page of it "
        "with limit, the number of entries, and after, the value of next in the page before",
        details={"size": size, "maxSize": max_size},
    )
