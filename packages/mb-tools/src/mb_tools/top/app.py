"""The screen of `mb top`."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import ClassVar

from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import DataTable, Footer, Input, Label, Sparkline, Static

from ..text import one_line, rate_text
from .head import head_text, notices
from .model import Model, Rate
from .pane import Pane
from .poller import Poller
from .tables import ERRORS, SERVICES, SERVICES_WITH_USERS, TOPICS

__all__ = ["Dialog", "TopApp"]

_THEMES = ("textual-dark", "textual-light", "ansi-dark", "ansi-light")

_HELP = """\
tab       next pane (shift+tab: previous)
↑ ↓       move by a row; also page up/down, home, end
enter     show everything about the row
s         sort by the next column; or click its title
r         reverse the sort order
/         show only rows that contain a text (esc: all)
p         pause or resume the screen
a         audit feed on or off: see below
t         next theme: dark, light, the terminal's own
q         quit

Totals come from the broker and cover the last second.
Rates in the tables are averages of the last 5 seconds;
latencies and errors cover the last minute.

Rates, latencies and errors come from the broker's audit
feed. While it is on, the broker sends a copy of each
message that it receives or sends, which slows down a busy
one. While it is off, rates and latencies are missing."""


class TopApp(App[None]):
    """Shows what the model knows every `interval` seconds; the poller keeps it up to date."""

    TITLE = "mb top"
    ENABLE_COMMAND_PALETTE = False

    CSS = """
    #head { height: 1; padding: 0 1; background: $panel; text-style: bold; text-wrap: nowrap; }
    #totals { height: 1; padding: 0 1; background: $panel; text-style: bold; }
    #totals .sparkline--max-color { color: $foreground; }
    #totals .sparkline--min-color { color: $foreground 60%; }
    #totals Total { width: 1fr; height: 1; padding-right: 2; }
    #totals Label { width: auto; }
    #totals Sparkline { width: 1fr; }
    #notices { height: auto; max-height: 3; padding: 0 1; background: $warning; color: $text; }
    #notices:ansi { background: ansi_yellow; color: ansi_black; }
    Pane {
        height: 1fr; min-height: 3; padding: 0 1; scrollbar-size: 0 0; background: $background;
        border-top: solid $primary; border-title-color: $foreground;
    }
    Pane:focus {
        border-top: heavy $accent; border-title-style: bold; background-tint: $foreground 0%;
    }
    Pane > .datatable--header, Pane:focus > .datatable--header {
        background: $background; background-tint: $foreground 0%; color: $text-muted;
    }
    Pane:focus > .datatable--cursor {
        background: $background; color: $foreground; text-style: reverse;
    }
    #filter { display: none; height: 1; border: none; padding: 0 1; }
    #filter.open { display: block; }
    Dialog { align: center middle; }
    Dialog > VerticalScroll {
        width: 64; max-width: 100%; height: auto; max-height: 100%;
        border: round $primary; padding: 0 1; background: $surface;
    }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("tab", "next_pane(1)", "Pane", priority=True),
        Binding("shift+tab", "next_pane(-1)", show=False, priority=True),
        Binding("slash", "filter", "Filter"),
        Binding("p", "pause", "Pause"),
        Binding("a", "audit", "Audit"),
        Binding("t", "theme", "Theme", show=False),
        Binding("escape", "clear_filter", show=False),
        Binding("question_mark", "help", "Help"),
        Binding("q", "quit", "Quit"),
        # Before Textual's own, which copies a selection or explains how to quit.
        Binding("ctrl+c", "quit", show=False, priority=True),
    ]

    def __init__(
        self,
        poller: Poller,
        model: Model,
        *,
        interval: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self.model = model
        self._poller = poller
        self._interval = interval
        self._clock = clock
        self.paused = False
        self._head = Static(id="head")
        self._totals = [Total() for _ in model.head().rates]
        self._notices = Static(id="notices")
        self._services = Pane(SERVICES)
        self._topics = Pane(TOPICS)
        self._errors = Pane(ERRORS)
        # The pane that gets the focus back when the filter is closed.
        self._pane = self._services
        self._filter = Input(
            placeholder="show only rows with ... (enter: keep, esc: all)", id="filter"
        )

    @property
    def panes(self) -> tuple[Pane, ...]:
        """The panes from top to bottom."""
        return self._services, self._topics, self._errors

    def compose(self) -> ComposeResult:
        yield self._head
        yield Horizontal(*self._totals, id="totals")
        yield self._notices
        yield from self.panes
        yield self._filter
        yield Footer()

    def on_mount(self) -> None:
        if "TEXTUAL_THEME" not in os.environ and _light_terminal():
            self.theme = "textual-light"
        self._services.focus()
        self._poller.on_change = self.update_view
        self.run_worker(self._poller.run(), name="poller")
        self.set_interval(self._interval, self.update_view)
        self.update_view()

    def update_view(self) -> None:
        """Show the model's current state, unless the screen is paused."""
        texts = notices(self.model, paused=self.paused, wanted=self._filter.value)
        self._notices.display = bool(texts)
        self._notices.update(Content(one_line(" · ".join(texts))))
        if self.paused:
            return
        now = self._clock()
        head = self.model.head()
        self._head.update(Content(head_text(self._poller.url, head)))
        for total, rate in zip(self._totals, head.rates, strict=True):
            total.show(rate)
        self._services.change_table(SERVICES_WITH_USERS if self.model.has_users else SERVICES)
        self._services.show(list(self.model.services(now)))
        self._topics.show(list(self.model.topics(now)))
        self._errors.show(list(self.model.errors()))

    # Keys

    def action_next_pane(self, by: int) -> None:
        if len(self.screen_stack) > 1:
            return  # a dialog is open
        panes = self.panes
        current = self._pane if self._filter.has_focus else self.focused
        index = panes.index(current) if current in panes else 0
        panes[(index + by) % len(panes)].focus()
        self._filter.remove_class("open")

    def action_pause(self) -> None:
        self.paused = not self.paused
        self.update_view()

    def action_audit(self) -> None:
        self._poller.audit = not self._poller.audit

    def action_theme(self) -> None:
        index = _THEMES.index(self.theme) if self.theme in _THEMES else -1
        self.theme = _THEMES[(index + 1) % len(_THEMES)]

    def action_help(self) -> None:
        self.push_screen(Dialog("help", _HELP))

    def action_filter(self) -> None:
        self._pane = next((pane for pane in self.panes if pane.has_focus), self._pane)
        self._filter.add_class("open")
        self._filter.focus()

    def action_clear_filter(self) -> None:
        self._filter.value = ""
        self._close_filter()

    def on_input_changed(self, event: Input.Changed) -> None:
        for pane in self.panes:
            pane.show_only(event.value)
        self.update_view()

    def on_input_submitted(self) -> None:
        self._close_filter()

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        for pane in self.panes:
            if pane is event.data_table and pane.current is not None:
                self.push_screen(Dialog("details", pane.table.details_of(pane.current)))

    def _close_filter(self) -> None:
        if self._filter.has_class("open"):
            self._filter.remove_class("open")
            self._pane.focus()


class Total(Horizontal):
    """One of the broker's totals, with a sparkline."""

    def __init__(self) -> None:
        super().__init__()
        self._label = Label()
        self._curve = Sparkline()

    def compose(self) -> ComposeResult:
        yield self._label
        yield self._curve

    def show(self, rate: Rate) -> None:
        """Show the current value, and as much of its history as fits."""
        unit = "/s" if rate.now is not None else ""
        self._label.update(f"{rate.name} {rate_text(rate.now)}{unit} ")
        width = max(2, self._curve.size.width)
        past = rate.past[1 - width :]
        # Include a zero, because bars start at the lowest value.
        self._curve.data = [*[0.0] * (width - len(past)), *past]


class Dialog(ModalScreen[None]):
    """Text in a box; most keys close it."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,enter,question_mark,space", "app.pop_screen", "Close"),
    ]

    def __init__(self, title: str, text: str) -> None:
        super().__init__()
        self._title = title
        self._text = text

    def compose(self) -> ComposeResult:
        box = VerticalScroll(Static(Content(self._text)))
        box.border_title = self._title
        box.border_subtitle = "esc: close"
        yield box


def _light_terminal() -> bool:
    """Return whether the terminal says that its background is light; not all terminals do."""
    background = os.environ.get("COLORFGBG", "").rpartition(";")[2]
    return background in ("7", "15")
