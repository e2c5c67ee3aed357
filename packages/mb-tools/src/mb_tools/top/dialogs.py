"""What is shown over the screen: the help, and all that is known of a row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

from .text import clean

__all__ = ["Dialog", "details_text", "help_dialog"]

_HELP = """\
tab       the next pane (shift+tab: the one before)
↑ ↓       another row; page up, page down, home, end
enter     all that is known of the row
s         sort by the next column; or click its title
r         sort the other way round
/         show only what has a text in it (esc: all)
p         pause the screen, and go on
a         audit feed on or off: see below
t         another theme: dark, light, the terminal's own
q         quit

Totals are the broker's own, of the last second. Rates in
the tables are means of the last 5 seconds, latencies and
errors those of the last minute.

Rates, latencies and errors come from the broker's audit
feed. While it is on, the broker sends a copy of each
message that it gets or sends, which slows a busy one down.
Off, rates and latencies are missing, and the rest stays."""


class Dialog(ModalScreen[None]):
    """A text in a box; most keys close it."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,enter,question_mark,space", "app.pop_screen", "Close"),
    ]

    def __init__(self, title: str, content: Content) -> None:
        super().__init__()
        self._title = title
        self._content = content

    def compose(self) -> ComposeResult:
        box = VerticalScroll(Static(self._content))
        box.border_title = self._title
        box.border_subtitle = "esc: close"
        yield box


def help_dialog() -> Dialog:
    """The keys, and what the figures mean."""
    return Dialog("help", Content(_HELP))


def details_text(details: Sequence[tuple[str, str]]) -> Content:
    """Names and values; a value of several lines stands below its name's line."""
    width = max(len(name) for name, _ in details) + 2
    lines = []
    for name, value in details:
        for index, line in enumerate(value.split("\n")):
            lines.append(f"{name if not index else '':<{width}}{clean(line)}")
    return Content("\n".join(lines))
