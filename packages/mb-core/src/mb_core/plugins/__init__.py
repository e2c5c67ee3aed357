"""Plugins: finding installed ones, what they register, and observers."""

from .describe import PluginReport, PluginState, describe
from .kinds import GROUPS
from .registry import FAULTS, InstalledPlugin, Observer, Plugins, installed_plugins

__all__ = [
    "FAULTS",
    "GROUPS",
    "InstalledPlugin",
    "Observer",
    "PluginReport",
    "PluginState",
    "Plugins",
    "describe",
    "installed_plugins",
]
