"""The three tables: their columns, how they fit a width, how rows are sorted and found."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, Protocol, TypeVar

from .text import (
    NOTHING,
    clean,
    latency_text,
    moment_text,
    number_text,
    rate_text,
    short_id,
)
from .view import ErrorRow, ServiceRow, TopicRow

__all__ = ["ERRORS", "SERVICES", "TOPICS", "Column", "Order", "Row", "Table"]


class Row(Protocol):
    """A row of any of the tables."""

    @property
    def id(self) -> str: ...


R = TypeVar("R", bound=Row)
R_contra = TypeVar("R_contra", bound=Row, contravariant=True)


@dataclass(frozen=True, slots=True)
class Column(Generic[R_contra]):
    """A column of at least `width` cells; it gets `share` parts of what is left of a line.

    `value` is what rows are sorted by, None always last; `text` what is shown, as of a day.
    Columns of `number` and `latest` are sorted with the highest first.  Values other than 0 in a
    column of `bad` things are highlighted.
    """

    title: str
    width: int
    value: Callable[[R_contra], str | float | None]
    text: Callable[[R_contra, datetime], str]
    share: int = 0
    number: bool = False
    latest: bool = False
    bad: bool = False

    @property
    def order_descending(self) -> bool:
        """Whether the highest comes first unless it is asked for otherwise."""
        return self.number or self.latest


@dataclass(frozen=True, slots=True)
class Order:
    """By which column a table is sorted."""

    column: int
    descending: bool


@dataclass(frozen=True, slots=True)
class Table(Generic[R]):
    """Columns, and the order that the table has until somebody chooses another.

    `words` are the texts of a row by which a filter finds it; `details` all that is known of it.
    """

    title: str
    empty: str
    columns: Sequence[Column[R]]
    order: Order
    words: Callable[[R], Iterable[str]]
    details: Callable[[R], Sequence[tuple[str, str]]]

    def widths(self, width: int) -> list[int]:
        """How wide each column is in `width` cells, with one cell between two columns.

        In less than they all need, the last ones have no place: their width is 0.
        """
        found: list[int] = []
        left = width + 1
        for column in self.columns:
            found.append(column.width if column.width < left else 0)
            left = left - column.width - 1 if found[-1] else 0
        shares = sum(
            column.share for column, given in zip(self.columns, found, strict=True) if given
        )
        for index, column in enumerate(self.columns):
            if found[index] and column.share and left > 0:
                more = left * column.share // shares
                found[index] += more
                left -= more
                shares -= column.share
        return found

    def sorted(self, rows: Iterable[R], order: Order) -> list[R]:
        """The rows in this order; those that are equal in it, by their first column."""
        first, column = self.columns[0].value, self.columns[order.column].value
        ordered = sorted(rows, key=lambda row: _key(first(row)))
        known = [row for row in ordered if column(row) is not None]
        unknown = [row for row in ordered if column(row) is None]
        known.sort(key=lambda row: _key(column(row)), reverse=order.descending)
        return known + unknown

    def order_by(self, index: int) -> Order:
        """By this column: figures begin with the highest, texts with A."""
        return Order(index, self.columns[index].order_descending)

    def next_order(self, order: Order) -> Order:
        """By the column next to that of `order`."""
        return self.order_by((order.column + 1) % len(self.columns))

    def filtered(self, rows: Iterable[R], wanted: str) -> list[R]:
        """The rows that have the text somewhere, in any case."""
        wanted = wanted.casefold()
        return [row for row in rows if any(wanted in word.casefold() for word in self.words(row))]


def _key(value: str | float | None) -> tuple[int, float, str]:
    if isinstance(value, str):
        return 1, 0.0, value.casefold()
    return 0, value if value is not None else 0.0, ""


def _service_details(row: ServiceRow) -> list[tuple[str, str]]:
    return [
        ("service", row.name or "(not registered)"),
        ("description", row.description or NOTHING),
        ("id", row.id),
        ("connected", row.since.isoformat(sep=" ", timespec="seconds") if row.since else NOTHING),
        ("answers", "\n".join(row.topics) or NOTHING),
    ]


def _topic_details(row: TopicRow) -> list[tuple[str, str]]:
    return [
        ("topic", row.topic),
        ("action", row.action),
        ("subscribers", "\n".join(row.subscribers) or NOTHING),
    ]


def _error_details(row: ErrorRow) -> list[tuple[str, str]]:
    return [
        ("time", row.time.isoformat(sep=" ", timespec="milliseconds")),
        ("topic", row.topic),
        ("code", row.code),
        ("message", row.message or NOTHING),
        ("who", row.who),
    ]


SERVICES: Table[ServiceRow] = Table(
    title="services",
    empty="no service is connected",
    columns=(
        Column("name", 12, lambda r: r.name, lambda r, _: clean(r.name) or NOTHING, share=2),
        Column("id", 8, lambda r: r.id, lambda r, _: short_id(clean(r.id))),
        Column(
            "answers",
            12,
            lambda r: r.topics[0] if r.topics else None,
            lambda r, _: clean(", ".join(r.topics)) or NOTHING,
            share=3,
        ),
        Column("req/s", 7, lambda r: r.rate, lambda r, _: rate_text(r.rate), number=True),
        Column("p50 ms", 7, lambda r: r.p50, lambda r, _: latency_text(r.p50), number=True),
        Column("p99 ms", 7, lambda r: r.p99, lambda r, _: latency_text(r.p99), number=True),
        Column(
            "err/min",
            8,
            lambda r: r.errors,
            lambda r, _: number_text(r.errors),
            number=True,
            bad=True,
        ),
        Column(
            "since",
            8,
            lambda r: r.since.timestamp() if r.since else None,
            lambda r, today: moment_text(r.since, today),
            latest=True,
        ),
    ),
    order=Order(3, descending=True),
    words=lambda r: (r.name, r.id, *r.topics),
    details=_service_details,
)

TOPICS: Table[TopicRow] = Table(
    title="topics",
    empty="nobody has subscribed, and there is no traffic",
    columns=(
        Column("topic", 16, lambda r: r.topic, lambda r, _: clean(r.topic), share=1),
        Column("action", 7, lambda r: r.action, lambda r, _: clean(r.action)),
        Column(
            "subs",
            5,
            lambda r: len(r.subscribers),
            lambda r, _: number_text(len(r.subscribers)),
            number=True,
        ),
        Column("msg/s", 7, lambda r: r.rate, lambda r, _: rate_text(r.rate), number=True),
        Column("p50 ms", 7, lambda r: r.p50, lambda r, _: latency_text(r.p50), number=True),
        Column("p99 ms", 7, lambda r: r.p99, lambda r, _: latency_text(r.p99), number=True),
        Column(
            "err/min",
            8,
            lambda r: r.errors,
            lambda r, _: number_text(r.errors),
            number=True,
            bad=True,
        ),
        Column("unheard", 8, lambda r: r.unheard, lambda r, _: number_text(r.unheard), number=True),
    ),
    order=Order(3, descending=True),
    words=lambda r: (r.topic, r.action),
    details=_topic_details,
)

ERRORS: Table[ErrorRow] = Table(
    title="errors",
    empty="none so far",
    columns=(
        Column(
            "time",
            8,
            lambda r: r.number,
            lambda r, today: moment_text(r.time, today),
            latest=True,
        ),
        Column("topic", 14, lambda r: r.topic, lambda r, _: clean(r.topic), share=2),
        Column("code", 19, lambda r: r.code, lambda r, _: clean(r.code), bad=True),
        Column("message", 16, lambda r: r.message, lambda r, _: clean(r.message), share=3),
        Column("who", 10, lambda r: r.who, lambda r, _: clean(r.who), share=1),
    ),
    order=Order(0, descending=True),
    words=lambda r: (r.topic, r.code, r.message, r.who),
    details=_error_details,
)
