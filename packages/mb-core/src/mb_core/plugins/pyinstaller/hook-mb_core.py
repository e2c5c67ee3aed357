"""For PyInstaller: include the installed plugins, which no import statement mentions.

A frozen program has neither the entry points that announce plugins nor the modules that the
entry points name, unless they are collected when it is built.
"""

from PyInstaller.utils.hooks import collect_entry_point

from mb_core.plugins import GROUPS

datas = []
hiddenimports = []
for group in GROUPS:
    metadata, modules = collect_entry_point(group)
    datas += metadata
    hiddenimports += modules
