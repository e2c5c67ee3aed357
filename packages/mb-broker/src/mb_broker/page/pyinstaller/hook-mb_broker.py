"""For PyInstaller: include the page that the broker serves."""

from PyInstaller.utils.hooks import collect_data_files

datas = collect_data_files("mb_broker")
