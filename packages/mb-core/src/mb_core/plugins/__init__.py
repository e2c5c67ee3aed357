"""Plugins: which are installed, what they register, who observes."""

from .registry import InstalledPlugin, Observer, Plugins, installed_plugins

__all__ = ["InstalledPlugin", "Observer", "Plugins", "installed_plugins"]
