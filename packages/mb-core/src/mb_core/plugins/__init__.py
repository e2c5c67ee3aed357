"""Plugins: which are installed, what they register, who observes."""

from .examine import Examined, PluginState, examine
from .installed import InstalledPlugin
from .loading import FAULTS
from .registry import Observer, Plugins, installed_plugins

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
