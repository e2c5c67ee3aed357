"""A pane of the screen: a table with a cursor, a sort order and a filter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rich.text import Text
from textual.binding import Binding, BindingType
from textual.coordinate import Coordinate
from textual.widgets import DataTable

from ..text import one_line
from .tables import Column, Order, Row, Table, cell

__all__ = ["Pane"]

# The most rows that are removed one by one, which keeps the others in place.
_FEW = 10


class Pane(DataTable[Text]):
    """A table on the screen: sorted, filtered, with a cursor that follows its row.

    The title says which rows are visible, so nothing depends on colour.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("k", "cursor_up", show=False),
        Binding("j", "cursor_down", show=False),
        Binding("home", "scroll_top", show=False),
        Binding("end", "scroll_bottom", show=False),
        Binding("s", "sort", "Sort"),
        Binding("r", "reverse", "Reverse", show=False),
    ]

    def __init__(self, table: Table) -> None:
        super().__init__(id=table.title, cursor_type="row", cell_padding=0, show_cursor=False)
        self.table = table
        self.order = table.order
        self.filter = ""
        self.shown: list[Row] = []
        """The rows as shown: filtered and sorted."""
        self._given: Sequence[Row] = ()
        self._texts: list[list[str]] = []

    @property
    def current(self) -> Row | None:
        """The row at the cursor."""
        return self.shown[self.cursor_row] if self.shown else None

    def show(self, rows: Sequence[Row]) -> None:
        """Show these rows."""
        self._given = rows
        self._update_rows()

    def change_table(self, table: Table) -> None:
        """Show the columns of another table, in the same order if that has the column."""
        if table is self.table:
            return
        column = self.table.columns[self.order.column]
        if column in table.columns:
            self.order = Order(table.columns.index(column), self.order.descending)
        else:
            self.order = table.order
        self.table = table
        self._rebuild()

    def show_only(self, wanted: str) -> None:
        """Show only the rows that contain this text."""
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
        # Without a cursor, show the first rows of the sort order.
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
        """Rebuild the columns, whose titles and widths are fixed, and with them the rows."""
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
        """Filter and sort again; the cursor stays on its row, or in its place if the row is
        gone."""
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
        """Return the id of the row that the cursor follows.

        At the top it follows no row, and stays on the first row of the sort order.
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
