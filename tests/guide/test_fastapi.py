"""The first program of docs/fastapi.md, saved and started as the page says."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

from mb_sync import MessageBrokerClient
from mb_testing import FaultyBroker

from .pages import EXAMPLES, blocks, redirected


def test_the_application_answers(mb_broker: FaultyBroker, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(blocks("fastapi.md")[0].text)
    with (
        MessageBrokerClient(mb_broker.url) as service,
        subprocess.Popen(
            [sys.executable, "-m", "uvicorn", "app:app", "--port", "0"],
            cwd=tmp_path,
            env=redirected(mb_broker),
            stderr=subprocess.PIPE,
            text=True,
        ) as server,
    ):
        try:
            service.subscribe(
                "weather.current",
                action="request",
                handler=lambda message: {"city": message.payload["city"], "degrees": 3},
            )
            assert server.stderr is not None
            for line in server.stderr:
                found = re.search(r"running on (http://\S+)", line)
                if found is not None:
                    break
            else:
                raise AssertionError("uvicorn did not start")
            with urlopen(f"{found[1]}/weather/Oslo", timeout=30) as answer:
                assert json.load(answer) == {"city": "Oslo", "degrees": 3}
            server.send_signal(signal.SIGTERM)
            _, err = server.communicate(timeout=30)
            assert "Application shutdown complete" in err
        finally:
            server.kill()


def test_the_container_has_uvicorn_where_the_dockerfile_puts_it() -> None:
    [changed] = [block.text for block in blocks("fastapi.md") if block.language == "docker"]
    dockerfile = (EXAMPLES / "orders" / "Dockerfile").read_text()
    *same, copied, command = changed.splitlines()
    install = "\n".join(same)
    assert install.removesuffix(" fastapi uvicorn") in dockerfile
    assert copied.replace("app.py", "orders.py") in dockerfile
    assert json.loads(command.removeprefix("CMD "))[0] == "/venv/bin/uvicorn"


def test_the_page_and_the_gateway_have_the_same_error_handler() -> None:
    [program] = [block.text for block in blocks("fastapi.md") if "mb_error" in block.text]
    handler = re.compile(r"^@app\.exception_handler.*?(?=\n\n\n|\Z)", re.DOTALL | re.MULTILINE)
    expected = handler.findall((EXAMPLES / "gateway.py").read_text().rstrip())
    assert handler.findall(program) == expected
    assert len(expected) == 1
