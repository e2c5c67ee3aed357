"""A pane of the screen: one of the tables, with a cursor, an order and a filter."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import ClassVar, Generic

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.strip import Strip
from textual.widget import Widget

from .tables import Order, R, Table
from .text import cell

__all__ = ["Pane"]


class Pane(Widget, Generic[R], can_focus=True):
    """Draws the rows that fit, with the columns that fit, and follows a row by its id.

    The title says what the order is and which rows are in sight: nothing depends on colour.
    """

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "pane--header",
        "pane--cursor",
        "pane--empty",
        "pane--bad",
    }

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", show=False),
        Binding("down,j", "move(1)", show=False),
        Binding("pageup", "page(-1)", show=False),
        Binding("pagedown", "page(1)", show=False),
        Binding("home", "edge(0)", show=False),
        Binding("end", "edge(1)", show=False),
        Binding("s", "sort", "Sort"),
        Binding("r", "reverse", "Reverse", show=False),
        Binding("enter", "select", "Details", show=False),
    ]

    class Selected(Message):
        """All that is known of a row is wanted."""

        def __init__(self, details: Sequence[tuple[str, str]]) -> None:
            super().__init__()
            self.details = details

    def __init__(self, table: Table[R]) -> None:
        super().__init__(id=table.title)
        self._table = table
        self.order = table.order
        self.filter = ""
        self._given: Sequence[R] = ()
        self._rows: list[R] = []
        self._today = datetime.now().astimezone()
        # The row at the cursor: by its place until there is one to follow.
        self._cursor = 0
        self._cursor_id: str | None = None
        self._top = 0

    @property
    def rows(self) -> Sequence[R]:
        """The rows as they are shown: filtered and in order."""
        return self._rows

    @property
    def cursor_row(self) -> R | None:
        """The row at the cursor."""
        return self._rows[self._cursor] if self._rows else None

    def show(self, rows: Sequence[R]) -> None:
        """Show these rows."""
        self._given = rows
        self._today = datetime.now().astimezone()
        self._arrange()

    def show_only(self, wanted: str) -> None:
        """Show the rows that have this text somewhere."""
        self.filter = wanted
        self._arrange()

    # Keys and mouse

    def action_sort(self) -> None:
        self.order = self._table.next_order(self.order)
        self._arrange()

    def action_reverse(self) -> None:
        self.order = Order(self.order.column, not self.order.descending)
        self._arrange()

    def action_move(self, by: int) -> None:
        self._move_to(self._cursor + by)

    def action_page(self, by: int) -> None:
        self._move_to(self._cursor + by * max(1, self._height - 1))

    def action_edge(self, end: int) -> None:
        self._move_to(end * len(self._rows))

    def action_select(self) -> None:
        row = self.cursor_row
        if row is not None:
            self.post_message(self.Selected(self._table.details(row)))

    def on_click(self, event: events.Click) -> None:
        offset = event.get_content_offset(self)
        if offset is None:
            return
        if offset.y == 0:
            self._click_header(offset.x)
        elif self._top + offset.y - 1 < len(self._rows):
            self._move_to(self._top + offset.y - 1)
            if event.chain == 2:
                self.action_select()

    def on_mouse_scroll_down(self) -> None:
        self.action_move(1)

    def on_mouse_scroll_up(self) -> None:
        self.action_move(-1)

    def on_resize(self) -> None:
        self._settle()

    def on_focus(self) -> None:
        self._settle()

    def on_blur(self) -> None:
        # Without a cursor to be seen, what the order puts first is of interest.
        self._move_to(0)

    # Drawing

    def render_line(self, y: int) -> Strip:
        width = self.size.width
        widths = self._table.widths(width)
        if y == 0:
            style = self.get_component_rich_style("pane--header")
            return Strip([Segment(self._header(widths), style)]).adjust_cell_length(width, style)
        index = self._top + y - 1
        if index < len(self._rows):
            style, bad = self.rich_style, self.get_component_rich_style("pane--bad")
            if self.has_focus and index == self._cursor:
                style = bad = self.get_component_rich_style("pane--cursor")
            segments = self._segments(self._rows[index], widths, style, bad)
            return Strip(segments).adjust_cell_length(width, style)
        if y == 1:
            text = f"nothing has {self.filter!r}" if self._given else self._table.empty
            style = self.get_component_rich_style("pane--empty")
            return Strip([Segment(cell(text, width), style)])
        return Strip.blank(width, self.rich_style)

    # Within

    @property
    def _height(self) -> int:
        """How many rows are in sight."""
        return max(0, self.size.height - 1)

    def _header(self, widths: Sequence[int]) -> str:
        cells = []
        for index, (column, width) in enumerate(zip(self._table.columns, widths, strict=True)):
            title = column.title
            if index == self.order.column:
                title += "▼" if self.order.descending else "▲"
            if width:
                cells.append(cell(title, width, right=column.number))
        return " ".join(cells)

    def _segments(self, row: R, widths: Sequence[int], style: Style, bad: Style) -> list[Segment]:
        segments = []
        for column, width in zip(self._table.columns, widths, strict=True):
            if width:
                text = cell(column.text(row, self._today), width, right=column.number)
                alarm = column.bad and column.value(row)
                segments += [Segment(text, bad if alarm else style), Segment(" ", style)]
        return segments

    def _click_header(self, x: int) -> None:
        """Sort by the column that was clicked; by the same one, in reverse."""
        end = 0
        for index, width in enumerate(self._table.widths(self.size.width)):
            end += width + 1
            if width and x < end:
                if index == self.order.column:
                    self.action_reverse()
                else:
                    self.order = self._table.order_by(index)
                    self._arrange()
                return

    def _arrange(self) -> None:
        """Filter and sort anew; the cursor stays with its row, or at its place if that is gone."""
        rows = self._table.filtered(self._given, self.filter)
        self._rows = self._table.sorted(rows, self.order)
        if self._cursor_id is not None:
            for index, row in enumerate(self._rows):
                if row.id == self._cursor_id:
                    self._cursor = index
                    break
        self._settle()

    def _move_to(self, index: int) -> None:
        self._cursor = max(0, min(index, len(self._rows) - 1))
        row = self.cursor_row
        # At the top, whatever comes there is followed: it is what the order puts first.
        self._cursor_id = row.id if row is not None and self._cursor else None
        self._settle()

    def _settle(self) -> None:
        """Have the cursor on a row and in sight, and the title say what is shown."""
        count = len(self._rows)
        self._cursor = max(0, min(self._cursor, count - 1))
        height = self._height
        self._top = max(0, min(self._top, count - height, self._cursor))
        if height:
            self._top = max(self._top, self._cursor - height + 1)
        self.border_title = self._title(count, height)
        self.refresh()

    def _title(self, count: int, height: int) -> str:
        shown = str(count)
        if count > height:
            shown = f"{self._top + 1}-{min(count, self._top + height)} of {count}"
        if count != len(self._given):
            shown += f", {len(self._given)} in all"
        return f"{'▶ ' if self.has_focus else ''}{self._table.title} {shown}"
