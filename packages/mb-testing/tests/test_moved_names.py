"""What was documented as mb_core.testing works under its old names, with a warning."""

from __future__ import annotations

import importlib
import sys

import pytest

import mb_testing
import mb_testing.proxy

MOVED = {
    "mb_core.testing": {name: name for name in mb_testing.__all__}
    | dict.fromkeys(["AuthenticatorSuite", "FaultyBroker", "running", "until", "wait_until"]),
    "mb_core.testing.proxy": {name: name for name in mb_testing.proxy.__all__}
    | {"FAIR": "NORMAL", "Weather": "Conditions"}
    | {"NORMAL": None, "Conditions": None, "ProxyStats": None},
}
CASES = [(old, *names) for old, moved in MOVED.items() for names in moved.items()]


@pytest.mark.parametrize(("old", "name", "new_name"), CASES)
def test_an_old_name_works_and_says_the_new_one(old: str, name: str, new_name: str | None) -> None:
    module = importlib.import_module(old)
    if new_name is None:
        with pytest.raises(AttributeError, match=f"has no attribute '{name}'"):
            getattr(module, name)
        return
    new = old.replace("mb_core.testing", "mb_testing")
    warning = rf"{old}\.{name} is deprecated: use {new}\.{new_name}$"
    with pytest.warns(DeprecationWarning, match=warning) as warned:
        assert getattr(module, name) is getattr(sys.modules[new], new_name)
    assert warned[0].filename == __file__


@pytest.mark.parametrize(("old", "name"), [("testing", "Faults"), ("testing.proxy", "Proxy")])
def test_without_mb_testing_it_says_what_to_install(
    old: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module(f"mb_core.{old}")
    for missing in ("mb_testing", "mb_testing.proxy"):
        monkeypatch.setitem(sys.modules, missing, None)
    moved = rf"mb_core\.{old}\.{name} is now mb_{old}\.{name}: pip install mb-testing$"
    with pytest.raises(ImportError, match=moved):
        getattr(module, name)


def test_what_mb_testing_misses_is_not_taken_for_mb_testing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(sys.modules, "mb_testing.proxy")
    monkeypatch.setitem(sys.modules, "anyio", None)
    for loaded in [name for name in sys.modules if name.startswith("mb_testing.proxy.")]:
        monkeypatch.delitem(sys.modules, loaded)
    module = importlib.import_module("mb_core.testing.proxy")
    with pytest.raises(ModuleNotFoundError, match="anyio") as raised:
        _ = module.Proxy
    assert raised.value.name == "anyio"
