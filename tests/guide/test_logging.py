"""docs/logging.md names every logger that there is, and says where each level is used."""

from __future__ import annotations

import re

from .pages import ROOT

SOURCES = [path.read_text() for path in ROOT.glob("packages/*/src/**/*.py")]


def loggers() -> set[str]:
    """Return the names of the loggers in the source."""
    text = "\n".join(SOURCES)
    made = set(re.findall(r'^_?log = logging\.getLogger\("(.*?)"\)', text, re.MULTILINE))
    # The broker's log has a logger for each of its modules.
    modules = set(re.findall(r'\.write\(\s*(?:level|"\w+"), "(\w+)"', text))
    return made | {f"mb_broker.{module}" for module in modules}


def test_every_logger_is_in_the_table() -> None:
    page = (ROOT / "docs" / "logging.md").read_text()
    assert loggers() == set(re.findall(r"^\| `(.*?)` \|", page, re.MULTILINE))


def test_every_level_of_a_logger_is_in_the_table() -> None:
    page = (ROOT / "docs" / "logging.md").read_text()
    levels: dict[str, set[str]] = {}
    logger = ""
    for name, level in re.findall(r"^\| (?:`(.*?)` )?\| ([A-Z]+) \|", page, re.MULTILINE):
        logger = name or logger
        levels.setdefault(logger, set()).add(level.lower())
    for text in SOURCES:
        made = re.search(r'^_?log = logging\.getLogger\("(.*?)"\)', text, re.MULTILINE)
        if made is not None:
            used = set(re.findall(r"_log\.(debug|info|warning|error)\(", text))
            used |= {"error"} & {"error" if "_log.exception(" in text else ""}
            assert used <= levels[made[1]], made[1]
