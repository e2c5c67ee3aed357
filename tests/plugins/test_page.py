"""docs/plugins.md says of hooks and entry points what the code does."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

from mb_core.hookspecs import MBSpec
from mb_core.plugins.kinds import KINDS, OBSERVERS

PAGE = (Path(__file__).parents[2] / "docs" / "plugins.md").read_text()
HOOKS = {name: hook for name, hook in vars(MBSpec).items() if name.startswith("mb_")}


def test_the_hooks_of_observers_have_the_arguments_that_the_page_names() -> None:
    rows = re.findall(r"^\| `(mb_\w+)` \| (.*?) \|", PAGE, re.MULTILINE)
    assert {hook: re.findall(r"`(\w+)`", arguments) for hook, arguments in rows} == {
        name: [
            each for each in inspect.signature(hook).parameters if each not in ("self", "client")
        ]
        for name, hook in HOOKS.items()
        if name not in {kind.hook for kind in KINDS}
    }


def test_each_kind_stands_in_the_first_table() -> None:
    for kind in KINDS:
        assert re.search(rf"^\| \[{kind.noun}\].* `{kind.group}` \| `{kind.hook}` \|$", PAGE, re.M)
    assert f"`{OBSERVERS}`" in PAGE
    assert "`mb_connected` and five more" in PAGE
    assert len(HOOKS) - len(KINDS) == 6


def test_hookspecs_are_short_and_each_says_what_it_is() -> None:
    source = inspect.getsource(inspect.getmodule(MBSpec))  # type: ignore[arg-type]
    assert len(source.splitlines()) < 90
    assert all(inspect.getdoc(hook) for hook in HOOKS.values())
