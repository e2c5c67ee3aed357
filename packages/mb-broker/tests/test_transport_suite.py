"""memory:// passes the suite that third parties run on their transports."""

from __future__ import annotations

from pathlib import Path

from mb_broker.plugin import mb_register_transports
from mb_testing import TransportSuite

[MEMORY] = mb_register_transports()


class TestMemory(TransportSuite):
    transport = MEMORY

    def url(self, tmp_path: Path) -> str:
        return f"memory://{tmp_path.parent.name}-{tmp_path.name}"
