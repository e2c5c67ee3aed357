"""docs/shutdown.md: its program finishes what it was asked, and its files are valid."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from mb_sync import MessageBrokerClient
from mb_testing import FaultyBroker, wait_until

from .pages import ROOT, blocks, files, redirected

FILES = files("shutdown.md")


def started(name: str, folder: Path, broker: FaultyBroker) -> subprocess.Popen[str]:
    """Start a program of the page, which reaches `broker` at its usual address."""
    (folder / name).write_text(FILES[name])
    return subprocess.Popen(
        [sys.executable, name],
        cwd=folder,
        env=redirected(broker),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_request_under_way_is_answered(
    number: signal.Signals, mb_broker: FaultyBroker, tmp_path: Path
) -> None:
    with (
        started("service.py", tmp_path, mb_broker) as process,
        MessageBrokerClient(mb_broker.url) as client,
    ):
        try:
            wait_until(lambda: "slow.work" in str(client.request("system.topic.list", {}).payload))
            client.request("slow.work", {})  # the service is in run(), which handles signals
            answers: list[Any] = []

            def ask() -> None:
                answers.append(client.request("slow.work", {}).payload)

            asking = threading.Thread(target=ask)
            with client.subscribe("system.message") as messages:  # all that the broker passes on
                asking.start()
                while not passed_on(messages.receive(timeout=30_000).payload, "slow.work"):
                    pass
            process.send_signal(number)
            out, err = process.communicate(timeout=60)
            asking.join()
        finally:
            process.kill()
    status = 0 if number == signal.SIGINT else -signal.SIGTERM
    assert (answers, process.returncode, out, err) == (["done"], status, "", "")


def test_a_loop_ends_on_sigterm(mb_broker: FaultyBroker, tmp_path: Path) -> None:
    with (
        started("consumer.py", tmp_path, mb_broker) as process,
        MessageBrokerClient(mb_broker.url) as client,
    ):
        try:
            wait_until(lambda: "order.#" in str(client.request("system.topic.list", {}).payload))
            assert process.stdout is not None
            for number in (7, 8):  # with the second, it is in run(), which handles signals
                client.publish("order.paid", number, confirm=True)
                assert process.stdout.readline() == f"order.paid {number}\n"
            process.send_signal(signal.SIGTERM)
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, out, err) == (-signal.SIGTERM, "", "")


def passed_on(event: dict[str, Any], topic: str) -> bool:
    return "to" in event and event["message"]["header"]["topic"] == topic


def test_the_deployment_can_be_read(tmp_path: Path) -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    (tmp_path / "deployment.yaml").write_text(FILES["deployment.yaml"])
    [volume] = [
        block.text
        for block in blocks("shutdown.md")
        if block.language == "yaml" and not block.title
    ]
    patch = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: orders}\nspec:\n  template:\n"
    (tmp_path / "volume.yaml").write_text(patch + volume)
    (tmp_path / "kustomization.yaml").write_text(
        "resources: [deployment.yaml]\npatches: [{path: volume.yaml}]\n"
    )
    done = subprocess.run(
        ["kubectl", "kustomize", tmp_path], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "terminationGracePeriodSeconds: 30" in done.stdout
    assert "mountPath: /data" in done.stdout
    assert done.stdout.count("- env:") == 1  # the volume belongs to the same container


def test_the_files_that_the_page_includes_exist() -> None:
    text = (ROOT / "docs" / "shutdown.md").read_text()
    included = [line.split()[1] for line in text.splitlines() if "{literalinclude}" in line]
    assert len(included) == 2
    for name in included:
        assert (ROOT / "docs" / name).is_file()
