"""What was documented as mb_core.testing works under its old names, with a warning."""

from __future__ import annotations

import importlib
import sys

import pytest

import mb_testing
import mb_testing.proxy


@pytest.mark.parametrize(
    ("old", "new", "names"),
    [
        (
            "mb_core.testing",
            mb_testing,
            ["Faults", "LinkEnd", "TransportSuite", "VirtualClock", "memory_link_pair"],
        ),
        ("mb_core.testing.proxy", mb_testing.proxy, ["Cut", "Direction", "Proxy", "STALLED"]),
    ],
)
def test_an_old_name_works_and_says_the_new_one(old: str, new: object, names: list[str]) -> None:
    module = importlib.import_module(old)
    for name in names:
        warning = rf"{old}\.{name} is deprecated: import it from {new.__name__}$"
        with pytest.warns(DeprecationWarning, match=warning) as warned:
            assert getattr(module, name) is getattr(new, name)
        assert warned[0].filename == __file__
        with pytest.raises(AttributeError, match="has no attribute 'other'"):
            module.other  # noqa: B018


@pytest.mark.parametrize("old", ["mb_core.testing", "mb_core.testing.proxy"])
def test_without_mb_testing_it_says_what_to_install(
    old: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module(old)
    for name in ("mb_testing", "mb_testing.proxy"):
        monkeypatch.setitem(sys.modules, name, None)
    new = old.replace("mb_core.testing", "mb_testing")
    with pytest.raises(ImportError, match=rf"{old} is now {new}: pip install mb-testing$"):
        getattr(module, "Proxy" if "proxy" in old else "Faults")
