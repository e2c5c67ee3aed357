"""The three tables: their columns, how rows are sorted and found, and the widget for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from rich.cells import cell_len, set_cell_size
from rich.text import Text
from textual.binding import Binding, BindingType
from textual.coordinate import Coordinate
from textual.widgets import DataTable

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

__all__ = ["ERRORS", "SERVICES", "TOPICS", "Column", "Order", "Pane", "Row", "Table", "cell"]


class Row(Protocol):
    """A row of any of the tables."""

    @property
    def id(self) -> str: ...


R = TypeVar("R", bound=Row)

# Rows that are removed one by one, which keeps the rest in its place.
_FEW = 10


@dataclass(frozen=True, slots=True)
class Column:
    """A column of at least `width` cells; it gets `share` parts of what is left of a line.

    It shows the field `name` of a row, as `text` makes it, and is sorted by it, or by the field
    `key`.  A `number` is on the right, and the highest first; so is the latest time.  Values
    other than 0 in a column of `bad` things are highlighted.
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
class Table(Generic[R]):
    """Columns, and the order that a table has until another one is chosen.

    `details` are the fields that are shown of one row, by their titles.
    """

    title: str
    empty: str
    columns: Sequence[Column]
    order: Order
    details: Mapping[str, str]

    def widths(self, width: int) -> list[int]:
        """Return how wide each column is in `width` cells, with one cell between two columns."""
        left = width + 1 - sum(column.width + 1 for column in self.columns)
        shares = sum(column.share for column in self.columns)
        found = []
        for column in self.columns:
            more = max(0, left) * column.share // shares if shares else 0
            found.append(column.width + more)
            left -= more
            shares -= column.share
        return found

    def sorted(self, rows: Iterable[R], order: Order) -> list[R]:
        """Return the rows in this order; those that are equal in it, by their first column."""
        first, column = self.columns[0], self.columns[order.column]
        ordered = sorted(rows, key=lambda row: first.sort_key(row) or (0.0, ""))
        ordered.sort(key=lambda row: column.sort_key(row) or (0.0, ""), reverse=order.descending)
        ordered.sort(key=lambda row: column.sort_key(row) is None)
        return ordered

    def order_by(self, index: int) -> Order:
        """Return the order by this column: numbers begin with the highest, texts with A."""
        column = self.columns[index]
        return Order(index, descending=column.number or column.latest)

    def filtered(self, rows: Iterable[R], wanted: str) -> list[R]:
        """Return the rows that have the text in any of their texts, in any case."""
        texts = [column.name for column in self.columns if not (column.number or column.latest)]
        wanted = wanted.casefold()
        return [
            row
            for row in rows
            if any(wanted in _text(getattr(row, name)).casefold() for name in texts)
        ]

    def details_of(self, row: R) -> str:
        """Return all that is known of a row, each value below its name if it has several lines."""
        width = max(map(len, self.details)) + 2
        lines = []
        for title, name in self.details.items():
            for index, line in enumerate(_lines(getattr(row, name))):
                lines.append(f"{title if not index else '':<{width}}{one_line(line)}")
        return "\n".join(lines)


class Pane(DataTable[Text], Generic[R]):
    """A table on the screen: sorted, filtered, with a cursor that follows its row.

    The title says which rows are in sight: nothing depends on colour.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("k", "cursor_up", show=False),
        Binding("j", "cursor_down", show=False),
        Binding("home", "scroll_top", show=False),
        Binding("end", "scroll_bottom", show=False),
        Binding("s", "sort", "Sort"),
        Binding("r", "reverse", "Reverse", show=False),
    ]

    def __init__(self, table: Table[R]) -> None:
        super().__init__(id=table.title, cursor_type="row", cell_padding=0, show_cursor=False)
        self.table = table
        self.order = table.order
        self.filter = ""
        self.shown: list[R] = []
        """The rows as they are shown: filtered and in order."""
        self._given: Sequence[R] = ()
        self._texts: list[list[str]] = []

    @property
    def current(self) -> R | None:
        """The row at the cursor."""
        return self.shown[self.cursor_row] if self.shown else None

    def show(self, rows: Sequence[R]) -> None:
        """Show these rows."""
        self._given = rows
        self._update_rows()

    def show_only(self, wanted: str) -> None:
        """Show the rows that have this text somewhere."""
        self.filter = wanted
        self._update_rows()

    def action_sort(self) -> None:
        self._sort_by(self.table.order_by((self.order.column + 1) % len(self.table.columns)))

    def action_reverse(self) -> None:
        self._sort_by(Order(self.order.column, not self.order.descending))

    def on_data_table_header_selected(self, event: DataTable.HeaderSelected) -> None:
        if event.column_index == self.order.column:
            self.action_reverse()
        else:
            self._sort_by(self.table.order_by(event.column_index))

    def on_resize(self) -> None:
        self._rebuild()

    def on_focus(self) -> None:
        self.show_cursor = True
        self._update_title()

    def on_blur(self) -> None:
        # Without a cursor, what the order puts first is of interest.
        self.move_cursor(row=0)
        self.show_cursor = False
        self._update_title()

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        super().watch_scroll_y(old_value, new_value)
        self._update_title()

    def _sort_by(self, order: Order) -> None:
        self.order = order
        self._rebuild()

    def _rebuild(self) -> None:
        """Make the columns anew, whose titles and widths are fixed, and the rows with them."""
        followed = self._followed()
        self.clear(columns=True)
        self._texts.clear()
        for index, (column, width) in enumerate(self._columns()):
            title = column.title
            if index == self.order.column:
                title += "▼" if self.order.descending else "▲"
            self.add_column(Text(cell(title, width, right=column.number)), width=width + 1)
        self._update_rows(followed)

    def _update_rows(self, followed: str | None = None) -> None:
        """Filter and sort anew; the cursor stays with its row, or where it is if that is gone."""
        followed = followed or self._followed()
        rows = self.table.filtered(self._given, self.filter)
        self.shown = self.table.sorted(rows, self.order)
        columns = self._columns()
        if self.row_count - len(self.shown) > _FEW:
            self.clear()  # removing many rows one by one is slow
            self._texts.clear()
        for index, row in enumerate(self.shown if self.columns else ()):
            texts = [
                cell(one_line(column.text(getattr(row, column.name))), width, right=column.number)
                for column, width in columns
            ]
            if index < self.row_count and texts == self._texts[index]:
                continue
            cells = [
                Text(text, style="bold red" if column.bad and getattr(row, column.name) else "")
                for text, (column, _) in zip(texts, columns, strict=True)
            ]
            if index == self.row_count:
                self.add_row(*cells)
                self._texts.append(texts)
            else:
                self._texts[index] = texts
                for number, content in enumerate(cells):
                    self.update_cell_at(Coordinate(index, number), content)
        while self.row_count > len(self.shown):
            self.remove_row(self.ordered_rows[-1].key)
            self._texts.pop()
        for index, row in enumerate(self.shown):
            if row.id == followed:
                self.move_cursor(row=index)
        self._update_title()

    def _columns(self) -> list[tuple[Column, int]]:
        widths = self.table.widths(self.scrollable_content_region.width)
        return list(zip(self.table.columns, widths, strict=True))

    def _followed(self) -> str | None:
        """Return the id of the row that the cursor stays with.

        At the top that is none: whatever the order puts first is of interest.
        """
        return self.shown[self.cursor_row].id if 0 < self.cursor_row < len(self.shown) else None

    def _update_title(self) -> None:
        count, height = len(self.shown), self.scrollable_content_region.height - self.header_height
        shown = str(count)
        if count > height:
            top = round(self.scroll_y)
            shown = f"{top + 1}-{min(count, top + height)} of {count}"
        if count != len(self._given):
            shown += f", {len(self._given)} in all"
        if not count:
            empty = f"nothing has {self.filter!r}" if self._given else self.table.empty
            shown += f": {empty}"
        self.border_title = Text(f"{'▶ ' if self.has_focus else ''}{self.table.title} {shown}")


def cell(text: str, width: int, *, right: bool = False) -> str:
    """Return `text` in exactly `width` columns of the terminal, cut with an ellipsis."""
    length = cell_len(text)
    if length > width:
        return set_cell_size(text, width - 1) + "…" if width > 0 else ""
    space = " " * (width - length)
    return space + text if right else text + space


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


SERVICES: Table[ServiceRow] = Table(
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

TOPICS: Table[TopicRow] = Table(
    title="topics",
    empty="nobody has subscribed, and there is no traffic",
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

ERRORS: Table[ErrorRow] = Table(
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
