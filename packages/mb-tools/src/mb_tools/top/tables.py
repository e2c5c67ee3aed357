"""The three tables: their columns, and how rows are sorted and filtered."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from rich.cells import cell_len, set_cell_size

from ..text import (
    UNKNOWN,
    milliseconds_text,
    number_text,
    one_line,
    rate_text,
    short_id,
    time_text,
)
from .model import ServiceRow, TopicRow
from .traffic import ErrorRow

__all__ = [
    "ERRORS",
    "SERVICES",
    "SERVICES_WITH_USERS",
    "TOPICS",
    "Column",
    "Order",
    "Row",
    "Table",
    "cell",
]


Row = ServiceRow | TopicRow | ErrorRow


@dataclass(frozen=True, slots=True)
class Column:
    """A column of at least `width` cells; it gets `share` parts of the remaining width.

    It shows the field `name` of a row, formatted by `text`, and is sorted by that field or by the
    field `key`. A `number` is right-aligned and sorted highest first; times are sorted latest
    first. In a `bad` column, values other than 0 are highlighted.
    """

    title: str
    width: int
    name: str
    text: Callable[[Any], str]
    key: str = ""
    share: int = 0
    number: bool = False
    latest: bool = False
    bad: bool = False

    def sort_key(self, row: Row) -> tuple[float, str] | None:
        """Return what rows are sorted by; None is always last."""
        value = getattr(row, self.key or self.name)
        if isinstance(value, datetime):
            return value.timestamp(), ""
        if isinstance(value, int | float):
            return value, ""
        return (0.0, _text(value).casefold()) if value else None


@dataclass(frozen=True, slots=True)
class Order:
    """The column by which a table is sorted."""

    column: int
    descending: bool


@dataclass(frozen=True, slots=True)
class Table:
    """Columns, and the initial sort order.

    `details` are the fields shown for a single row, by title.
    """

    title: str
    empty: str
    columns: Sequence[Column]
    order: Order
    details: Mapping[str, str]

    def widths(self, width: int) -> list[int]:
        """Return the width of each column, given `width` cells in all and one cell between
        columns."""
        left = width + 1 - sum(column.width + 1 for column in self.columns)
        shares = sum(column.share for column in self.columns)
        found = []
        for column in self.columns:
            more = max(0, left) * column.share // shares if shares else 0
            found.append(column.width + more)
            left -= more
            shares -= column.share
        return found

    def sorted(self, rows: Iterable[Row], order: Order) -> list[Row]:
        """Return the rows in this order; ties are sorted by the first column."""
        first, column = self.columns[0], self.columns[order.column]
        ordered = sorted(rows, key=lambda row: first.sort_key(row) or (0.0, ""))
        ordered.sort(key=lambda row: column.sort_key(row) or (0.0, ""), reverse=order.descending)
        ordered.sort(key=lambda row: column.sort_key(row) is None)
        return ordered

    def order_by(self, index: int) -> Order:
        """Return the order by this column: numbers highest first, text from A to Z."""
        column = self.columns[index]
        return Order(index, descending=column.number or column.latest)

    def filtered(self, rows: Iterable[Row], wanted: str) -> list[Row]:
        """Return the rows that contain the text in any column, ignoring case."""
        texts = [column.name for column in self.columns if not (column.number or column.latest)]
        wanted = wanted.casefold()
        return [
            row
            for row in rows
            if any(wanted in _text(getattr(row, name)).casefold() for name in texts)
        ]

    def details_of(self, row: Row) -> str:
        """Return everything known about a row; a value with several lines is indented below its
        name."""
        width = max(map(len, self.details)) + 2
        lines = []
        for title, name in self.details.items():
            for index, line in enumerate(_lines(getattr(row, name))):
                lines.append(f"{title if not index else '':<{width}}{one_line(line)}")
        return "\n".join(lines)


def _lines(value: Any) -> Sequence[str]:
    if isinstance(value, datetime):
        return [value.isoformat(sep=" ", timespec="milliseconds")]
    return (value if isinstance(value, tuple) else [value or UNKNOWN]) or [UNKNOWN]


def _text(value: Any) -> str:
    return (", ".join(value) if isinstance(value, tuple) else value) or UNKNOWN


def _columns_of_traffic(unit: str) -> tuple[Column, ...]:
    return (
        Column(unit, 7, "rate", rate_text, number=True),
        Column("p50 ms", 7, "p50", milliseconds_text, number=True),
        Column("p99 ms", 7, "p99", milliseconds_text, number=True),
        Column("err/min", 8, "errors", number_text, number=True, bad=True),
    )


SERVICES = Table(
    title="services",
    empty="no service is connected",
    columns=(
        Column("name", 12, "name", _text, share=2),
        Column("id", 8, "id", short_id),
        Column("answers", 12, "topics", _text, share=3),
        *_columns_of_traffic("req/s"),
        Column("since", 8, "since", time_text, latest=True),
    ),
    order=Order(3, descending=True),
    details={
        "service": "name",
        "description": "description",
        "id": "id",
        "connected": "since",
        "answers": "topics",
    },
)

SERVICES_WITH_USERS = replace(
    SERVICES,
    columns=(
        SERVICES.columns[0],
        Column("user", 10, "user", _text, share=1),
        *SERVICES.columns[1:],
    ),
    order=Order(SERVICES.order.column + 1, SERVICES.order.descending),
    details={"service": "name", "user": "user", **SERVICES.details},
)
"""The table of services of a broker with access control."""

TOPICS = Table(
    title="topics",
    empty="no subscriptions and no traffic",
    columns=(
        Column("topic", 16, "topic", _text, share=1),
        Column("action", 7, "action", _text),
        Column("subs", 5, "subscriber_count", number_text, number=True),
        *_columns_of_traffic("msg/s"),
        Column("unheard", 8, "unheard", number_text, number=True),
    ),
    order=Order(3, descending=True),
    details={"topic": "topic", "action": "action", "subscribers": "subscribers"},
)

ERRORS = Table(
    title="errors",
    empty="none so far",
    columns=(
        Column("time", 8, "time", time_text, key="number", latest=True),
        Column("topic", 14, "topic", _text, share=2),
        Column("code", 19, "code", _text, bad=True),
        Column("message", 16, "message", _text, share=3),
        Column("who", 10, "who", _text, share=1),
    ),
    order=Order(0, descending=True),
    details={"time": "time", "topic": "topic", "code": "code", "message": "message", "who": "who"},
)


def cell(text: str, width: int, *, right: bool = False) -> str:
    """Return `text` in exactly `width` columns of the terminal, cut with an ellipsis."""
    length = cell_len(text)
    if length > width:
        return set_cell_size(text, width - 1) + "…" if width > 0 else ""
    space = " " * (width - length)
    return space + text if right else text + space
