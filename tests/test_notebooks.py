"""The cells of docs/notebooks.md run one after the other, as in a notebook."""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
from pathlib import Path
from types import FunctionType
from typing import Any

from mb_sync import MessageBrokerClient
from mb_testing import FaultyBroker

PAGE = Path(__file__).parents[1] / "docs" / "notebooks.md"
CELLS = re.findall(r'^```python title="cell \d+"\n(.*?)^```', PAGE.read_text(), re.DOTALL | re.M)


def test_cells(mb_broker: FaultyBroker) -> None:
    names: dict[str, Any] = {}

    async def run_all() -> None:
        for number, cell in enumerate(CELLS, 1):
            text = cell.replace("tcp://localhost:8081", mb_broker.url)
            flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
            code = compile(text, f"cell {number}", "exec", flags)
            result = FunctionType(code, names)()
            if inspect.isawaitable(result):
                await result

    with MessageBrokerClient(mb_broker.url) as service:
        service.subscribe("weather.current", action="request", handler=lambda m: {"degrees": 3})
        asyncio.run(run_all())
    assert len(CELLS) == 5
    assert names["answer"].payload == {"degrees": 3}
    assert names["events"] == [{"city": "Oslo"}]
