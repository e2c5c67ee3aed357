"""The screen of `mb top`."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any, ClassVar

from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import Footer, Input

from .dialogs import Dialog, details_text, help_dialog
from .feed import Feed
from .head import HeadLines, Notices, notices
from .model import Model
from .pane import Pane
from .tables import ERRORS, SERVICES, TOPICS
from .view import ErrorRow, ServiceRow, TopicRow, View

__all__ = ["TopApp"]

_THEMES = ("textual-dark", "textual-light", "ansi-dark", "ansi-light")


class TopApp(App[None]):
    """Draws what the model knows every `interval` seconds; the feed keeps the model up to date."""

    TITLE = "mb top"
    ENABLE_COMMAND_PALETTE = False

    CSS = """
    HeadLines { height: 2; padding: 0 1; background: $panel; text-style: bold; }
    Notices { height: auto; max-height: 3; padding: 0 1; background: $warning; color: $text; }
    Notices:ansi { background: ansi_yellow; color: ansi_black; }
    Pane {
        height: 1fr; min-height: 3; padding: 0 1;
        border-top: solid $primary; border-title-color: $foreground;
    }
    Pane:focus { border-top: heavy $accent; border-title-style: bold; }
    Pane > .pane--header { text-style: bold; color: $text-muted; }
    Pane > .pane--cursor { text-style: reverse; }
    Pane > .pane--bad { color: $text-error; text-style: bold; }
    Pane > .pane--empty { text-style: italic; color: $text-muted; }
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
        feed: Feed,
        model: Model,
        *,
        interval: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self.model = model
        self._feed = feed
        self._interval = interval
        self._clock = clock
        self.paused = False
        self._head = HeadLines()
        self._notices = Notices()
        self._services: Pane[ServiceRow] = Pane(SERVICES)
        self._topics: Pane[TopicRow] = Pane(TOPICS)
        self._errors: Pane[ErrorRow] = Pane(ERRORS)
        # Where the focus goes back to when the filter is closed.
        self._pane: Pane[Any] = self._services
        self._filter = Input(
            placeholder="show only rows with ... (enter: keep it, esc: all)", id="filter"
        )
        self._view: View = model.view(clock())

    @property
    def panes(self) -> tuple[Pane[Any], ...]:
        """The panes from top to bottom."""
        return self._services, self._topics, self._errors

    def compose(self) -> ComposeResult:
        yield self._head
        yield self._notices
        yield from self.panes
        yield self._filter
        yield Footer()

    def on_mount(self) -> None:
        if "TEXTUAL_THEME" not in os.environ and _light_terminal():
            self.theme = "textual-light"
        self._services.focus()
        self._feed.on_change = self.look
        self.run_worker(self._feed.run(), name="feed")
        self.set_interval(self._interval, self.look)
        self.look()

    def on_resize(self) -> None:
        self.call_after_refresh(self._draw)

    def look(self) -> None:
        """Show what the model knows now, unless the screen is paused."""
        if not self.paused:
            self._view = self.model.view(self._clock())
        self._draw()

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
        self.look()

    def action_audit(self) -> None:
        self._feed.audit = not self._feed.audit

    def action_theme(self) -> None:
        index = _THEMES.index(self.theme) if self.theme in _THEMES else -1
        self.theme = _THEMES[(index + 1) % len(_THEMES)]

    def action_help(self) -> None:
        self.push_screen(help_dialog())

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
        self._draw()

    def on_input_submitted(self) -> None:
        self._close_filter()

    def on_pane_selected(self, event: Pane.Selected) -> None:
        self.push_screen(Dialog("details", details_text(event.details)))

    # Within

    def _close_filter(self) -> None:
        if self._filter.has_class("open"):
            self._filter.remove_class("open")
            self._pane.focus()

    def _draw(self) -> None:
        view = self._view
        self._head.show(self._feed.url, view.head)
        self._notices.show(notices(view, paused=self.paused, wanted=self._filter.value))
        self._services.show(view.services)
        self._topics.show(view.topics)
        self._errors.show(view.errors)


def _light_terminal() -> bool:
    """Whether the terminal says, as some do, that its background is light."""
    background = os.environ.get("COLORFGBG", "").rpartition(";")[2]
    return background in ("7", "15")
