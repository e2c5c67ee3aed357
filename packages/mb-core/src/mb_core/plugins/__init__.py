"""Plugins: which are installed, what they register, which observe."""

from .discovery import discover, in_worker
from .examine import Examined, PluginState, examine
from .installed import GROUPS, InstalledPlugin
from .registry import FAULTS, Observer, Plugins, installed_plugins

__all__ = [
    "FAULTS",
    "GROUPS",
    "Examined",
    "InstalledPlugin",
    "Observer",
    "PluginState",
    "Plugins",
    "discover",
    "examine",
    "in_worker",
    "installed_plugins",
]
