"""A plugin's implementations of the hooks: what they must be, and calling them one by one."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pluggy

from ..errors import PluginError
from ..hookspecs import PROJECT, MBSpec

__all__ = ["HOOKS", "check_hooks", "implementation"]

HOOKS = [name for name in vars(MBSpec) if name.startswith("mb_")]


def check_hooks(plugin: object) -> None:
    """Raise PluginError where a hook is not what the specification says.

    Besides what pluggy checks when the plugin is registered.
    """
    if inspect.isclass(plugin):
        raise PluginError(f"{plugin.__name__} is a class: a plugin is an instance of it")
    for hook in HOOKS:
        function = getattr(plugin, hook, None)
        if function is None:
            continue
        options = getattr(function, f"{PROJECT}_impl", None)
        if options is None:
            raise PluginError(f"{hook} is not marked with @mb_core.hookimpl")
        if inspect.iscoroutinefunction(function):
            raise PluginError(f"{hook} is a coroutine function: hooks are plain functions")
        if options["wrapper"] or options["hookwrapper"]:
            raise PluginError(f"{hook} is a wrapper: here it has nothing to wrap")
        parameters = inspect.signature(function).parameters.values()
        if any(
            each.kind is each.KEYWORD_ONLY and each.default is each.empty for each in parameters
        ):
            raise PluginError(f"{hook} takes arguments behind a *: take them without it")


def implementation(
    manager: pluggy.PluginManager, hook: str, plugin: str
) -> Callable[..., Any] | None:
    """One plugin's implementation of a hook; each is called by itself and harms no other."""
    for found in getattr(manager.hook, hook).get_hookimpls():
        if found.plugin_name == plugin:
            return _caller(found)
    return None


def _caller(found: pluggy.HookImpl) -> Callable[..., Any]:
    """The function of a hook, called with those of the arguments that it takes."""
    function, names = found.function, found.argnames

    def call(**arguments: Any) -> Any:
        return function(*[arguments[name] for name in names])

    return call
