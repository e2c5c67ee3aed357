"""Plugins: which are installed, what they register, who observes."""

from .examine import Examined, PluginState, examine
from .installed import InstalledPlugin
from .registry import FAULTS, Observer, Plugins, installed_plugins

__all__ = [
    "FAULTS",
    "Examined",
    "InstalledPlugin",
    "Observer",
    "PluginState",
    "Plugins",
    "examine",
    "installed_plugins",
]
